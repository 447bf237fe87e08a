"""The command line. Commands that call a server take ``--url`` and the token from the environment."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from bucketline import BucketlineError as ClientError
from bucketline import Operator
from bucketline_service import cli_scan, tables
from bucketline_service.errors import BucketlineError, Invalid
from bucketline_service.settings import Settings

app = typer.Typer(
    name="bucketline",
    help="Aspect-ratio bucket planning as a service.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help is text: defaults stand in brackets, which would be markup
)
maps = typer.Typer(help="Resolution maps on a coordinator.", no_args_is_help=True)
runs = typer.Typer(help="Runs on a coordinator.", no_args_is_help=True)
app.add_typer(maps, name="map")
app.add_typer(runs, name="run")

Url = Annotated[
    str, typer.Option(envvar="BUCKETLINE_URL", help="The coordinator; its replicas, with commas.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, for scripts.")]
LOCAL = "http://127.0.0.1:7700"
PIPE_WIDTH = 240
TIMEOUT_S = 10.0
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
_COLUMNS = ("id", "width", "height", "orientation", "num_repeats", "num_frames")


def _columns(*given: str | None) -> dict[str, str]:
    """Those that are named, in the order of ``_COLUMNS``."""
    return {what: column for what, column in zip(_COLUMNS, given, strict=True) if column is not None}


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind [127.0.0.1]; others need tokens.")] = None,
    port: Annotated[int | None, typer.Option(help="Port [7700]; 0 takes a free one.")] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="sqlite:///PATH, redis://HOST:PORT/DB, redis+sentinel://… or redis+cluster://… "
            "[SQLite in the data directory]."
        ),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Maps, plans, state [./bucketline-data].")] = None,
    store_timeout_s: Annotated[
        float | None, typer.Option(help="How long the store may take before the answer is 503 [2.0].")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share the port [1].")] = None,
    worker_token_file: Annotated[Path | None, typer.Option(help="Workers' tokens, one a line.")] = None,
    operator_token_file: Annotated[Path | None, typer.Option(help="Operators' tokens, one a line.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM: serves https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM, not encrypted.")] = None,
    map_root: Annotated[
        str | None,
        typer.Option(help="Where replicas share maps: s3://…, gs://…, file:///FOLDER [the data directory]."),
    ] = None,
    map_source: Annotated[
        str | None, typer.Option(help="Folders that PUT /v1/maps may name files under.")
    ] = None,
    max_upload_bytes: Annotated[
        int | None, typer.Option(help="Largest map that may be uploaded [17179869184, which is 16 GiB].")
    ] = None,
    max_json_bytes: Annotated[int | None, typer.Option(help="Longest JSON body [8388608, 8 MiB].")] = None,
    max_runs: Annotated[int | None, typer.Option(help="Most runs in the store [1000].")] = None,
    max_connections: Annotated[
        int | None, typer.Option(help="Connections to one process; more get 503 [20000].")
    ] = None,
    client_timeout_s: Annotated[
        float | None, typer.Option(help="How long a client may pause in a request or an answer [60].")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error [info].")] = None,
) -> None:
    """Run the coordinator.

    Every option is also BUCKETLINE_… in the environment: --data-dir is BUCKETLINE_DATA_DIR. The tokens themselves are
    environment only, BUCKETLINE_WORKER_TOKEN and BUCKETLINE_OPERATOR_TOKEN: others can read a command line.
    """
    from bucketline_service import serve as door  # the web framework is not wanted by the other commands

    with _errors():
        door.serve(Settings.load(**{name: value for name, value in locals().items() if name != "door"}))


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards, for looking around.")] = False,
    seed: Annotated[int, typer.Option(help="Of the plan.")] = 42,
) -> None:
    """One epoch of a real map on 4 worker processes, one of them killed on the way, and the proof."""
    from bucketline_service import demo as show

    with _errors():
        raise typer.Exit(show.run(keep=keep, seed=seed))


@app.command()
def preview(
    file: Annotated[
        Path, typer.Argument(help="The resolution map: CSV, JSON lines, Parquet, Arrow, npz, pkl.")
    ],
    spec: Annotated[
        list[Path] | None,
        typer.Option(
            help="A run spec, a JSON file; several are shown side by side. Its map is not looked at."
        ),
    ] = None,
    id_column: IdColumn = None,
    width_column: WidthColumn = None,
    height_column: HeightColumn = None,
    orientation_column: OrientationColumn = None,
    num_repeats_column: NumRepeatsColumn = None,
    num_frames_column: NumFramesColumn = None,
    as_json: AsJson = False,
) -> None:
    """What plans would cost, from a file of sizes and without a server: images used, crop loss, steps, what is left
    out. Without --spec: that of the defaults, on 8 ranks with batches of 8."""
    from bucketline_service import preview as desk  # the planner is not wanted by the other commands

    with _errors():
        specs = [_read_spec(each) for each in spec or []]
        columns = _columns(
            id_column, width_column, height_column, orientation_column, num_repeats_column, num_frames_column
        )
        sources = [str(each) for each in spec or [file]]
        answer = desk.run(file, specs or [desk.DEFAULT], sources, columns)
        names = [each.stem for each in spec] if spec else ["defaults"]
        problems = [each["problem"]["detail"] for each in answer["previews"] if "problem" in each]
        is_in_vain = len(problems) == len(answer["previews"])
        if is_in_vain and not as_json:
            for source, problem in zip(sources, problems, strict=True):
                own = problem if problem.startswith(source) else f"{source}: {problem}"
                print(f"bucketline: {' '.join(own.split())}", file=sys.stderr)
            raise typer.Exit(1)
        _print(answer, as_json, lambda console, answer: tables.previews(console, answer, names))
        if is_in_vain:
            raise typer.Exit(1)


@maps.command("put")
def map_put(
    name: str,
    file: Annotated[Path, typer.Argument(help="CSV, JSON lines, Parquet, Arrow, npz, pkl.")],
    id_column: IdColumn = None,
    width_column: WidthColumn = None,
    height_column: HeightColumn = None,
    orientation_column: OrientationColumn = None,
    num_repeats_column: NumRepeatsColumn = None,
    num_frames_column: NumFramesColumn = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Upload a resolution map."""
    columns = _columns(
        id_column, width_column, height_column, orientation_column, num_repeats_column, num_frames_column
    )
    _call(url, lambda operator: operator.put_map(name, file, columns=columns), as_json, tables.map_line)


@maps.command("list")
def map_list(url: Url = LOCAL, as_json: AsJson = False) -> None:
    """The maps that are there."""
    _call(url, lambda operator: {"maps": operator.maps()}, as_json, tables.maps)


@maps.command("show")
def map_show(name: str, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """One map, with the histogram of its aspects."""
    _call(url, lambda operator: operator.map(name), as_json, tables.map_detail)


@maps.command("delete")
def map_delete(name: str, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Delete a map that no run uses."""

    def ask(operator: Operator) -> dict[str, Any]:
        operator.delete_map(name)
        return {"map": name, "deleted": True}

    _call(url, ask, as_json, tables.deleted)


@runs.command("put")
def run_put(
    name: str,
    spec: Annotated[Path, typer.Argument(help="The run spec, a JSON file.")],
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Open a run, and wait until it is planned."""
    with _errors():
        document = _read_spec(spec)
    _call(url, lambda operator: operator.put_run(name, document), as_json, tables.run_line)


@runs.command("list")
def run_list(url: Url = LOCAL, as_json: AsJson = False) -> None:
    """The runs that are there."""
    _call(url, lambda operator: {"runs": operator.runs()}, as_json, tables.runs)


@runs.command("show")
def run_show(name: str, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """One run: where it stands, its buckets, its ranks."""

    def ask(operator: Operator) -> dict[str, Any]:
        document: dict[str, Any] = {"run": operator.run(name)}
        if document["run"]["status"] == "ready":
            document["stats"] = operator.stats(name)
            document["ranks"] = operator.ranks(name)
        return document

    _call(url, ask, as_json, tables.run_detail)


@runs.command("ledger")
def run_ledger(
    name: str,
    first: Annotated[
        int | None, typer.Option("--from", help="The first epoch [the present one].", min=0)
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", help="The last epoch, inclusive [the first].", min=0)
    ] = None,
    world_size: Annotated[
        int | None, typer.Option(help="Ranks that each epoch is dealt to [as the run's are].", min=1)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="FILE.csv or FILE.parquet [CSV to standard output].")
    ] = None,
    url: Url = LOCAL,
) -> None:
    """Which images epochs leave out or repeat, and which are pruned or never served."""
    with _errors(), _operator(url) as operator:
        try:
            num_bytes = operator.ledger(
                name,
                sys.stdout.buffer if output is None else output,
                from_epoch=first,
                to_epoch=last,
                world_size=world_size,
            )
            sys.stdout.flush()
        except BrokenPipeError:
            # whoever reads has had enough; what is still to be flushed at the end goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
    if output is not None:
        print(f"{output}: {num_bytes:,} bytes")


@runs.command("delete")
def run_delete(name: str, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Delete a run, with its cursors and leases. Its map stays."""

    def ask(operator: Operator) -> dict[str, Any]:
        operator.delete_run(name)
        return {"run": name, "deleted": True}

    _call(url, ask, as_json, tables.deleted)


def _read_spec(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Invalid(str(file), f"is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Invalid(str(file), "is no JSON object", 'Write {"map": …, "world_size": …, "batch_size": …}')
    return document


def _call(
    url: str,
    ask: Callable[[Operator], dict[str, Any]],
    as_json: bool,
    show: Callable[[Console, dict[str, Any]], None],
) -> None:
    with _errors(), _operator(url) as operator:
        _print(ask(operator), as_json, show)


def _operator(url: str) -> Operator:
    # what goes wrong is told once, at the end
    logging.getLogger("bucketline").addHandler(logging.NullHandler())
    return Operator(url, timeout_s=TIMEOUT_S)


def _print(answer: dict[str, Any], as_json: bool, show: Callable[[Console, dict[str, Any]], None]) -> None:
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        show(_console(), answer)


def _console() -> Console:
    """What is shown is the coordinator's words, not markup. A pipe has no width to keep to."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=True)


@contextmanager
def _errors() -> Iterator[None]:
    """What went wrong, in a line, and exit status 1."""
    try:
        yield
    except (BucketlineError, ClientError) as error:
        _fail(str(error), error)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), error)


def _fail(reason: str, error: Exception) -> NoReturn:
    print(f"bucketline: {' '.join(reason.split())}", file=sys.stderr)
    raise typer.Exit(1) from error


app.command()(_errors()(cli_scan.scan))


def main() -> None:
    app()
