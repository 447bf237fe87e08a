"""The command ``bucketline scan`` and its options."""

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
    output: Annotated[Path, typer.Option("-o", "--output", help="The map to write, FILE.parquet.")],
    ids: Annotated[
        IdStyle,
        typer.Option(
            "--id",
            help="An image's id: its path relative to PATH (in shards the key), its bare name, or its full path.",
        ),
    ] = IdStyle.RELATIVE,
    path_column: Annotated[
        str | None, typer.Option(help="The column of paths in a list [found by name].")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="The column of ids in a list [id, otherwise the path].")
    ] = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="Also scan names that begin with a dot.")] = False,
    open_all: Annotated[
        bool, typer.Option("--open-all", help="Open img2dataset's images instead of using its sizes.")
    ] = False,
    no_exif: Annotated[
        bool,
        typer.Option("--no-exif", help="Ignore EXIF orientation, for trainers that do, such as kohya's."),
    ] = False,
    bad: Annotated[
        Path | None, typer.Option(help="Where to list images without a size [FILE.parquet.bad.jsonl].")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes [one for each core].")
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for the cluster of RAY_ADDRESS.")] = "local",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, for scripts.")] = False,
) -> None:
    """Write a map of the sizes of images, read from their headers with EXIF orientation, on all cores.

    Files are only read. A scan that was stopped resumes, and a later scan opens what is new or has changed. Exit status
    3: the map was written, but some images are not in it.
    """
    from bucketline_service.errors import Invalid
    from bucketline_service.scan.command import scan as run
    from bucketline_service.scan.discovery import ScanOptions
    from bucketline_service.scan.job import ScanJob
    from bucketline_service.scan.path_lists import ListColumns

    if engine not in ("local", "ray"):
        raise Invalid("--engine", f"must be local or ray, got {engine!r}")
    options = ScanOptions(ids, ListColumns(path_column, id_column), hidden, open_all, exif=not no_exif)
    raise typer.Exit(run(ScanJob(paths, output, options, bad, engine, workers), as_json))
