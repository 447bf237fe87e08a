"""``bucketline map``: resolution maps on a coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bucketline.operator._map_files import num_upload_bytes, parts_of
from bucketline_service.cli import options
from bucketline_service.cli.connection import call, connect, delete
from bucketline_service.cli.errors import errors
from bucketline_service.cli.options import LOCAL, AsJson, MapName, Url
from bucketline_service.cli.output import print_answer
from bucketline_service.cli.progress_bars import uploading
from bucketline_service.terminal import maps as text

app = typer.Typer(help="Resolution maps: put, list, show, delete.", no_args_is_help=True)


@app.command("put")
def map_put(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new map.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…",
            help="CSV, TSV, JSON, JSON lines, Parquet, Arrow, npz, pkl; text also as .gz. One map may be "
            "several files of one format, a folder of them or a quoted pattern.",
        ),
    ],
    id_column: options.IdColumn = None,
    width_column: options.WidthColumn = None,
    height_column: options.HeightColumn = None,
    orientation_column: options.OrientationColumn = None,
    num_repeats_column: options.NumRepeatsColumn = None,
    num_frames_column: options.NumFramesColumn = None,
    format: options.Format = None,
    skip_missing_sizes: options.SkipMissingSizes = False,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Upload a resolution map."""
    named = options.columns(
        id_column, width_column, height_column, orientation_column, num_repeats_column, num_frames_column
    )
    with errors(), connect(url) as operator:
        parts = parts_of(files)
        with uploading(files[0].name, lambda: num_upload_bytes(parts)) as progress:
            answer = operator.put_map(
                name,
                files,
                format=format,
                columns=named,
                skip_missing_sizes=skip_missing_sizes,
                progress=progress,
            )
        print_answer(answer, as_json, text.put)


@app.command("list")
def map_list(url: Url = LOCAL, as_json: AsJson = False) -> None:
    """List all maps."""
    call(url, lambda operator: {"maps": operator.maps()}, as_json, text.listing)


@app.command("show")
def map_show(name: MapName, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Show a map and the histogram of its aspect ratios."""
    call(url, lambda operator: operator.map(name), as_json, text.show)


@app.command("delete")
def map_delete(name: MapName, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Delete a map that no run uses."""
    delete(url, "map", name, as_json, lambda operator: operator.delete_map(name))
