"""``bucketline run``: runs on a coordinator."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import bucketline as client
from bucketline import Operator
from bucketline_service import tables
from bucketline_service.cli import completion, formatting
from bucketline_service.cli.common import (
    LOCAL,
    AsJson,
    RunName,
    Url,
    call,
    complain,
    confirm,
    connect,
    delete,
    detail_of,
    errors,
    is_person,
    standard_output,
    tell,
)
from bucketline_service.cli.progress import planning
from bucketline_service.cli.spec_options import Spec

app = typer.Typer(
    help="Runs on a coordinator: put, list, show, stats, ranks, explain, …", no_args_is_help=True
)


@app.command("put")
def run_put(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name from now on.")],
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="[SPEC.json]", help="A run spec, a JSON file; options count before it."),
    ] = None,
    map: Annotated[
        str | None, typer.Option(help="Name of the resolution map.", autocompletion=completion.maps)
    ] = None,
    world_size: Annotated[int | None, typer.Option(help="Ranks, as in torch.distributed.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a batch.")] = None,
    ladder: Annotated[
        str | None,
        typer.Option(
            help="Which buckets: novelai, kohya, geometric, fitted, a preset (sd15, sdxl, pixart-512, pixart-1024), "
            "or JSON [novelai].",
            autocompletion=completion.ladders,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is random [42].")] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=VALUE", help="Any field, its value in JSON: ladder.max_size=[1024,1024]"),
    ] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Open a run, and wait until it is planned: of a spec in a file, of options, or of a file with options over it.

    The spec's fields are in README. The same spec again changes nothing.
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
        tell(answer, as_json, tables.run_line)


def _put(
    operator: Operator, name: str, spec: Spec, progress: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    try:
        return operator.put_run(name, spec.document, progress=progress)
    except client.Invalid as error:
        raise spec.blame(error.field, detail_of(error)) or error from error
    except KeyboardInterrupt:
        complain(f"it is planned on; look with: bucketline run show {name}")
        raise


@app.command("list")
def run_list(url: Url = LOCAL, as_json: AsJson = False) -> None:
    """The runs that are there."""
    call(url, lambda operator: {"runs": operator.runs()}, as_json, tables.runs)


@app.command("show")
def run_show(name: RunName, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """One run: where it stands, its buckets, its ranks."""

    def ask(operator: Operator) -> dict[str, Any]:
        document: dict[str, Any] = {"run": operator.run(name)}
        if document["run"]["status"] == "ready":
            document["stats"] = operator.stats(name)
            document["ranks"] = operator.ranks(name)
        return document

    with errors(), connect(url) as operator:
        document = ask(operator)
        tell(document, as_json, formatting.run_detail)
        if document["run"]["status"] == "failed":
            raise typer.Exit(1)


@app.command("stats")
def run_stats(name: RunName, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """What its plan costs: buckets and their tails, crop loss, aspect error, shapes, what is left out or repeated."""
    call(url, lambda operator: operator.stats(name), as_json, formatting.stats)


@app.command("ranks")
def run_ranks(
    name: RunName,
    most: Annotated[int | None, typer.Option("--most", help="How many to show [all].", min=1)] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Its ranks, the slowest first: where each stands, who holds it, when it was last seen."""

    def ask(operator: Operator) -> dict[str, Any]:
        slowest, num_more = formatting.slowest_first(operator.ranks(name), most)
        return {"ranks": slowest, "num_more": num_more}

    call(url, ask, as_json, formatting.ranks)


@app.command("explain")
def run_explain(
    name: RunName,
    image_id: Annotated[str, typer.Argument(metavar="ID", help="An image's id, as its map has it.")],
    epoch: Annotated[int | None, typer.Option(help="When it comes there [the present one].", min=0)] = None,
    map: Annotated[
        str | None, typer.Option(help="Which of several maps has the image.", autocompletion=completion.maps)
    ] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """One image: its bucket and crop, or why it has none, and when it comes."""
    call(
        url, lambda operator: operator.image(name, image_id, epoch=epoch, map=map), as_json, formatting.image
    )


@app.command("ledger")
def run_ledger(
    name: RunName,
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
    with errors(), connect(url) as operator:
        num_bytes = operator.ledger(
            name,
            standard_output() if output is None else output,
            from_epoch=first,
            to_epoch=last,
            world_size=world_size,
        )
        sys.stdout.flush()
    if output is not None:
        print(f"{output}: {num_bytes:,} bytes")


@app.command("delete")
def run_delete(
    name: RunName,
    force: Annotated[
        bool, typer.Option("--force", "--yes", "-y", help="Also while its ranks are at work, without asking.")
    ] = False,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Delete a run, with its cursors and leases. Its map stays.

    Where any of its ranks was heard of in the last minute, this asks first; without a terminal it refuses.
    """
    delete(url, "run", name, as_json, lambda operator: _delete(operator, name, force))


def _delete(operator: Operator, name: str, force: bool) -> None:
    try:
        operator.delete_run(name, force=force)
    except client.Conflict as error:
        if not is_person():
            raise
        complain(str(error).partition(". ")[0])
        if not confirm("Delete it all the same?"):
            complain(f"{name} stays")
            raise typer.Exit(1) from None
        operator.delete_run(name, force=True)
