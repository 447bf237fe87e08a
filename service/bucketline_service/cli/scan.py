"""``bucketline scan``: its options, which become a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bucketline_service.scan.scan_files import IdStyle


def scan(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Folders, images, tar shards, img2dataset's output, lists (csv, json, jsonl, txt); s3://…, gs://…",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The map, FILE.parquet.")],
    ids: Annotated[
        IdStyle,
        typer.Option(
            "--id",
            help="An image's id: its path below PATH (in shards the key), its name alone, or its full path.",
        ),
    ] = IdStyle.RELATIVE,
    path_column: Annotated[str | None, typer.Option(help="A list's column of paths [found by name].")] = None,
    id_column: Annotated[str | None, typer.Option(help="A list's column of ids [id, else the path].")] = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="Scan what begins with a dot as well.")] = False,
    open_all: Annotated[
        bool, typer.Option("--open-all", help="Open img2dataset's images, rather than take its sizes.")
    ] = False,
    no_exif: Annotated[
        bool, typer.Option("--no-exif", help="Turn no image: for a trainer that never does, as kohya's.")
    ] = False,
    bad: Annotated[
        Path | None, typer.Option(help="Where to list what has no size [FILE.parquet.bad.jsonl].")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes [one for each core].")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: the cluster of RAY_ADDRESS.")] = "local",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, for scripts.")] = False,
) -> None:
    """The sizes of images, as a map: from their headers, turned as EXIF says, by all cores.

    What is scanned is only read. A scan that was stopped goes on, and a second one opens what is new or has changed.
    Exit status 3: the map is written, and something is not in it.
    """
    from bucketline_service.errors import Invalid
    from bucketline_service.scan.command import scan as run
    from bucketline_service.scan.discovery import ScanOptions
    from bucketline_service.scan.job import ScanJob
    from bucketline_service.scan.path_lists import ListColumns

    if engine not in ("local", "ray"):
        raise Invalid("--engine", f"'{engine}' is none", "Give local or ray")
    wish = ScanOptions(ids, ListColumns(path_column, id_column), hidden, open_all, exif=not no_exif)
    raise typer.Exit(run(ScanJob(paths, output, wish, bad, engine, workers), as_json))
