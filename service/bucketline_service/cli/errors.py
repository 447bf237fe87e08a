"""Reports what went wrong in one line, with what to do about it, and sets the exit status."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from bucketline import BucketlineError as ClientError
from bucketline import CoordinatorUnavailable, Forbidden, ProtocolError, Refused, Unauthorized, UsageError
from bucketline_service.cli.options import COLUMNS
from bucketline_service.cli.output import INTERRUPTED, warn
from bucketline_service.errors import BucketlineError

_COLUMN = re.compile(rf"\b(?:{'|'.join(COLUMNS)})_column\b")


@contextmanager
def errors() -> Iterator[None]:
    """Exit with status 1 after an error, and with 130 after Ctrl-C."""
    try:
        yield
    except (BucketlineError, ClientError) as error:
        warn(_with_advice(error))
        raise typer.Exit(1) from error
    except BrokenPipeError:
        # the reader has closed the pipe; what is still buffered is discarded
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        warn(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def detail_of(error: BucketlineError | ClientError) -> str:
    """What the coordinator reports, without the call and the status that it answers."""
    detail = error.problem.get("detail") if isinstance(error, Refused) else None
    return detail if isinstance(detail, str) else str(error)


def _with_advice(error: BucketlineError | ClientError) -> str:
    """The error, and which option or environment variable to change."""
    message = _in_options(detail_of(error))
    if isinstance(error, Unauthorized):
        is_set = os.environ.get("BUCKETLINE_TOKEN", "").strip()
        return f"{message}: " + ("BUCKETLINE_TOKEN holds another" if is_set else "set BUCKETLINE_TOKEN")
    if isinstance(error, Forbidden):
        return f"{message}: set BUCKETLINE_TOKEN to an operator's"
    if isinstance(error, CoordinatorUnavailable) and error.code is not None:
        return message.removesuffix(", or wait longer (timeout_s)")
    is_elsewhere = isinstance(error, (CoordinatorUnavailable, ProtocolError))
    if is_elsewhere or (isinstance(error, UsageError) and message.startswith("url must ")):
        return f"{message} (--url or BUCKETLINE_URL)"
    return message


def _in_options(text: str) -> str:
    """Options by their names on the command line instead of those of the API and the client."""
    text = _COLUMN.sub(lambda found: f"--{found[0].replace('_', '-')}", text)
    text = re.sub(r"\bformat=(?=[A-Z])", "--format ", text)
    return text.replace("?force=true", "--force").replace("skip_missing_sizes=true", "--skip-missing-sizes")
