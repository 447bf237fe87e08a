"""What the commands have in common: options, the way to the coordinator, how answers and errors are told."""

from __future__ import annotations

import codecs
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, BinaryIO, NoReturn, cast

import typer
from rich.console import Console

from bucketline import BucketlineError as ClientError
from bucketline import (
    CoordinatorUnavailable,
    Forbidden,
    Operator,
    ProtocolError,
    Refused,
    Unauthorized,
    UsageError,
)
from bucketline_service import tables
from bucketline_service.cli import completion, phrases
from bucketline_service.errors import BucketlineError

Url = Annotated[
    str, typer.Option(envvar="BUCKETLINE_URL", help="The coordinator; its replicas, with commas.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, for scripts.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Name of the run.", autocompletion=completion.runs)
]
MapName = Annotated[
    str, typer.Argument(metavar="MAP", help="Name of the map.", autocompletion=completion.maps)
]
LOCAL = completion.LOCAL
PIPE_WIDTH = 240
TIMEOUT_S = 10.0
INTERRUPTED = 130
OPTIONAL = "found by name; empty: left out"

IdColumn = Annotated[str | None, typer.Option(help="Its column of ids [found by name].")]
WidthColumn = Annotated[str | None, typer.Option(help="Its column of widths [found by name].")]
HeightColumn = Annotated[str | None, typer.Option(help="Its column of heights [found by name].")]
OrientationColumn = Annotated[str | None, typer.Option(help=f"Its column of EXIF orientations [{OPTIONAL}].")]
NumRepeatsColumn = Annotated[
    str | None,
    typer.Option(help=f"Its column of times an epoch, or, if called repeats, further times [{OPTIONAL}]."),
]
NumFramesColumn = Annotated[str | None, typer.Option(help=f"Its column of frames of videos [{OPTIONAL}].")]
Format = Annotated[
    str | None,
    typer.Option(help="csv, tsv, json, jsonl, parquet, arrow, npz, pickle or tar [told by the file's name]."),
]
SkipMissingSizes = Annotated[
    bool,
    typer.Option("--skip-missing-sizes", help="Leave out rows without a width or height, and count them."),
]
COLUMNS = ("id", "width", "height", "orientation", "num_repeats", "num_frames")
_COLUMN = re.compile(rf"\b(?:{'|'.join(COLUMNS)})_column\b|\bskip_missing_sizes(?==true)|\bformat(?==[A-Z])")
"""As the API and the client call what is an option here."""


def columns(*given: str | None) -> dict[str, str]:
    """Those that are named, in the order of ``COLUMNS``."""
    return {what: column for what, column in zip(COLUMNS, given, strict=True) if column is not None}


def call(
    url: str,
    ask: Callable[[Operator], dict[str, Any]],
    as_json: bool,
    show: Callable[[Console, dict[str, Any]], None],
) -> None:
    with errors(), connect(url) as operator:
        tell(ask(operator), as_json, show)


def connect(url: str, timeout_s: float | None = None) -> Operator:
    """Calls are repeated while there is no answer, for ``timeout_s``. Unless that is given, a person is told so."""
    log = logging.getLogger("bucketline")
    log.handlers = [logging.NullHandler() if timeout_s else _Waiting(logging.WARNING)]
    return Operator(url, timeout_s=timeout_s or TIMEOUT_S)


class _Waiting(logging.Handler):
    """Tells a person why there is no answer yet. What goes wrong for good is told at the end, once."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr.isatty():
            complain(record.getMessage())


def delete(url: str, kind: str, name: str, as_json: bool, do: Callable[[Operator], None]) -> None:
    def ask(operator: Operator) -> dict[str, Any]:
        do(operator)
        return {kind: name, "deleted": True}

    call(url, ask, as_json, tables.deleted)


def confirm(question: str) -> bool:
    """Ask a person; exit status 130 where Ctrl-C is the answer."""
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        raise typer.Exit(INTERRUPTED) from None


def is_person() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def tell(answer: dict[str, Any], as_json: bool, show: Callable[[Console, dict[str, Any]], None]) -> None:
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        show(console(), phrases.harmless(answer))
    sys.stdout.flush()  # what can not be written is to be told like all that goes wrong


def console() -> Console:
    """What is shown is the coordinator's phrases, not markup. A pipe has no width to keep to."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=True)


def standard_output() -> BinaryIO:
    """For a file that is written as it comes. A terminal is shown its text."""
    return cast(BinaryIO, _Terminal()) if sys.stdout.isatty() else sys.stdout.buffer


class _Terminal:
    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode

    def write(self, data: bytes) -> int:
        lines = self._decode(data).split("\n")
        sys.stdout.write("\n".join(phrases.harmless(line.removesuffix("\r")) for line in lines))
        return len(data)


@contextmanager
def errors() -> Iterator[None]:
    """What went wrong, in a line with what would do, and exit status 1; 130 after Ctrl-C."""
    try:
        yield
    except (BucketlineError, ClientError) as error:
        _fail(_with_advice(error), error)
    except BrokenPipeError:
        # whoever reads has had enough; what is still to be flushed at the end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), error)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def complain(reason: str) -> None:
    """Of what is wrong, in a line for a person."""
    print(f"bucketline: {phrases.harmless(' '.join(reason.split()))}", file=sys.stderr)


def _fail(reason: str, error: Exception) -> NoReturn:
    complain(reason)
    raise typer.Exit(1) from error


def detail_of(error: BucketlineError | ClientError) -> str:
    """What the coordinator says, without the call and the status that it is the answer to."""
    detail = error.problem.get("detail") if isinstance(error, Refused) else None
    return detail if isinstance(detail, str) else str(error)


def _with_advice(error: BucketlineError | ClientError) -> str:
    """The error, and which option or variable of the command line mends it."""
    said = _COLUMN.sub(lambda found: f"--{found[0].replace('_', '-')}", detail_of(error))
    said = said.replace("?force=true", "--force")
    said = said.replace("--skip-missing-sizes=true", "--skip-missing-sizes").replace("--format=", "--format ")
    if isinstance(error, Unauthorized):
        is_set = os.environ.get("BUCKETLINE_TOKEN", "").strip()
        return f"{said}: " + ("BUCKETLINE_TOKEN holds another" if is_set else "set BUCKETLINE_TOKEN")
    if isinstance(error, Forbidden):
        return f"{said}: set BUCKETLINE_TOKEN to an operator's"
    if isinstance(error, CoordinatorUnavailable) and error.code is not None:
        return said.removesuffix(", or wait longer (timeout_s)")
    is_elsewhere = isinstance(error, (CoordinatorUnavailable, ProtocolError))
    if is_elsewhere or (isinstance(error, UsageError) and said.startswith("url:")):
        return f"{said} (--url or BUCKETLINE_URL)"
    return said
