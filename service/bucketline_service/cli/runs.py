"""``bucketline run``: runs on a coordinator."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

import bucketline as client
from bucketline import Operator
from bucketline_service.cli import completion
from bucketline_service.cli.connection import call, connect, delete
from bucketline_service.cli.errors import detail_of, errors
from bucketline_service.cli.options import LOCAL, AsJson, RunName, Url
from bucketline_service.cli.output import binary_stdout, confirm, is_interactive, print_answer, warn
from bucketline_service.cli.progress_bars import planning
from bucketline_service.cli.spec_options import Spec
from bucketline_service.terminal import images, readable, reports
from bucketline_service.terminal import runs as text

app = typer.Typer(
    help="Runs: put, list, show, stats, ranks, explain, ledger and more.",
    no_args_is_help=True,
)
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="FILE.csv or FILE.parquet [CSV to standard output].")
]


@app.command("put")
def run_put(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new run.")],
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="[SPEC.json]", help="A run spec in a JSON file; options override its fields."),
    ] = None,
    map: Annotated[
        str | None, typer.Option(help="Name of the resolution map.", autocompletion=completion.maps)
    ] = None,
    world_size: Annotated[int | None, typer.Option(help="Number of ranks, as in torch.distributed.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per batch.")] = None,
    ladder: Annotated[
        str | None,
        typer.Option(
            help="Which buckets: novelai, kohya, geometric, fitted, a preset (sd15, sdxl, pixart-512, pixart-1024), "
            "none but packs of images at their own sizes: native, or JSON [novelai].",
            autocompletion=completion.ladders,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of all random choices [42].")] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE",
            help="Any other field, its value in JSON: ladder.max_size=[1024,1024], pack.max_tokens=16384",
        ),
    ] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Create a run from a spec in a file, from options, or from both, and wait until it is planned.

    Putting the same spec again changes nothing. What of the plan would surprise is a warning on standard error, with
    what to do.
    """
    with errors():
        fields = Spec(spec)
        if map is not None:
            fields.set_map(map)
        for field, value in (("world_size", world_size), ("batch_size", batch_size), ("seed", seed)):
            if value is not None:
                fields.set(field, value, f"--{field.replace('_', '-')}")
        if ladder is not None:
            fields.set_ladder(ladder)
        fields.set_all(set or ())
        with connect(url) as operator, planning(name) as progress:
            answer = _put(operator, name, fields, progress)
        print_answer(answer, as_json, text.put)
        # the list is missing if the coordinator is older, and null if it is not known yet
        for each in () if as_json else answer.get("warnings") or ():
            warn(f"warning ({each['code']}): {each['message']} {each['remedy']}")


def _put(
    operator: Operator, name: str, spec: Spec, progress: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    try:
        return operator.put_run(name, spec.document, progress=progress)
    except client.Invalid as error:
        raise spec.blame(error.field, detail_of(error)) or error from error
    except KeyboardInterrupt:
        warn(f"planning continues on the coordinator; see: bucketline run show {name}")
        raise


@app.command("list")
def run_list(url: Url = LOCAL, as_json: AsJson = False) -> None:
    """List all runs."""
    call(url, lambda operator: {"runs": operator.runs()}, as_json, text.listing)


@app.command("show")
def run_show(name: RunName, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Show a run: its progress, its buckets or packs, its slowest ranks."""
    with errors(), connect(url) as operator:
        document: dict[str, Any] = {"run": operator.run(name)}
        if document["run"]["status"] == "ready":
            document["stats"] = operator.stats(name)
            document["ranks"] = operator.ranks(name)
        print_answer(document, as_json, text.show)
        if document["run"]["status"] == "failed":
            raise typer.Exit(1)


@app.command("stats")
def run_stats(name: RunName, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Show what the plan costs: buckets and their remainders or packs, crop loss, aspect error, shapes, images left out
    or repeated."""
    call(url, lambda operator: operator.stats(name), as_json, text.stats)


@app.command("ranks")
def run_ranks(
    name: RunName,
    most: Annotated[int | None, typer.Option("--most", help="How many to show [all].", min=1)] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """List the ranks, the slowest first: the place of each, its holder, when it was last seen."""

    def ask(operator: Operator) -> dict[str, Any]:
        slowest, num_more = text.slowest_first(operator.ranks(name), most)
        return {"ranks": slowest, "num_more": num_more}

    call(url, ask, as_json, text.ranks)


@app.command("explain")
def run_explain(
    name: RunName,
    image_id: Annotated[str, typer.Argument(metavar="ID", help="The image's id in its map.")],
    epoch: Annotated[int | None, typer.Option(help="The epoch to look at [the current one].", min=0)] = None,
    map: Annotated[
        str | None,
        typer.Option(help="The map to look in, if the run has several.", autocompletion=completion.maps),
    ] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Show where an image is: its bucket and crop, or why it has none, and when it is served."""
    call(url, lambda operator: operator.image(name, image_id, epoch=epoch, map=map), as_json, images.explain)


@app.command("reports")
def run_reports(
    name: RunName,
    most: Annotated[
        int | None, typer.Option("--most", help="How many to show, the newest [100].", min=1, max=1000)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write all of them to FILE.csv instead.")
    ] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """List the images that workers could not use, those that were first reported last at the end.

    --json and --output give all of them, unless --most says how many.
    """
    with errors(), connect(url) as operator:
        if output is not None and output.suffix.lower() != ".csv":
            raise client.UsageError(f"--output must name a file that ends in .csv, got {str(output)!r}")
        is_short = output is None and not as_json
        found = operator.reports(name, newest=100 if is_short and most is None else most)
        if output is None:
            print_answer(found, as_json, reports.listing)
            return
        with output.open("w", encoding="utf-8", newline="") as file:
            reports.write_csv(found, file)
    print(f"{output}: {readable.counted(len(found['reports']), 'image')}")


@app.command("ledger")
def run_ledger(
    name: RunName,
    first: Annotated[
        int | None, typer.Option("--from", help="The first epoch [the current one].", min=0)
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", help="The last epoch, inclusive [the first].", min=0)
    ] = None,
    world_size: Annotated[
        int | None, typer.Option(help="Number of ranks that each epoch is planned for [the run's].", min=1)
    ] = None,
    output: Output = None,
    url: Url = LOCAL,
) -> None:
    """List the images that epochs leave out or repeat, and those that are pruned or never served."""
    _write_table(
        url,
        output,
        lambda operator, target: operator.ledger(
            name, target, from_epoch=first, to_epoch=last, world_size=world_size
        ),
    )


@app.command("assignments")
def run_assignments(name: RunName, output: Output = None, url: Url = LOCAL) -> None:
    """List the bucket of every image, and the size and crop with which it is served."""
    _write_table(url, output, lambda operator, target: operator.assignments(name, target))


def _write_table(url: str, output: Path | None, write: Callable[[Operator, Path | BinaryIO], int]) -> None:
    with errors(), connect(url) as operator:
        num_bytes = write(operator, binary_stdout() if output is None else output)
        sys.stdout.flush()
    if output is not None:
        print(f"{output}: {num_bytes:,} bytes")


@app.command("delete")
def run_delete(
    name: RunName,
    force: Annotated[
        bool,
        typer.Option(
            "--force", "--yes", "-y", help="Delete it without asking, even while its ranks are active."
        ),
    ] = False,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Delete a run with its cursors and leases. Its map stays.

    If any of its ranks was active in the last minute, this command asks first; without a terminal it refuses.
    """
    delete(url, "run", name, as_json, lambda operator: _delete(operator, name, force))


def _delete(operator: Operator, name: str, force: bool) -> None:
    try:
        operator.delete_run(name, force=force)
    except client.Conflict as error:
        if not is_interactive():
            raise
        warn(str(error).partition(". ")[0])
        if not confirm("Delete it anyway?"):
            warn(f"{name} is not deleted")
            raise typer.Exit(1) from None
        operator.delete_run(name, force=True)
