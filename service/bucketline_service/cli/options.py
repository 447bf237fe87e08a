"""Options and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from bucketline_service.cli import completion

LOCAL = completion.LOCAL
COLUMNS = ("id", "width", "height", "orientation", "num_repeats", "num_frames")
_OPTIONAL = "found by name; without one it is left out"

Url = Annotated[
    str,
    typer.Option(envvar="BUCKETLINE_URL", help="The coordinator; several replicas are separated by commas."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, for scripts.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Name of the run.", autocompletion=completion.runs)
]
MapName = Annotated[
    str, typer.Argument(metavar="MAP", help="Name of the map.", autocompletion=completion.maps)
]
IdColumn = Annotated[str | None, typer.Option(help="The column of ids [found by name].")]
WidthColumn = Annotated[str | None, typer.Option(help="The column of widths [found by name].")]
HeightColumn = Annotated[str | None, typer.Option(help="The column of heights [found by name].")]
OrientationColumn = Annotated[
    str | None, typer.Option(help=f"The column of EXIF orientations [{_OPTIONAL}].")
]
NumRepeatsColumn = Annotated[
    str | None,
    typer.Option(
        help="The column of how many times an image is served in an epoch; a column named repeats counts the "
        f"additional times [{_OPTIONAL}]."
    ),
]
NumFramesColumn = Annotated[
    str | None, typer.Option(help=f"The column of numbers of video frames [{_OPTIONAL}].")
]
Format = Annotated[
    str | None,
    typer.Option(
        help="csv, tsv, json, jsonl, parquet, arrow, npz, pickle or tar [detected from the file name]."
    ),
]
SkipMissingSizes = Annotated[
    bool,
    typer.Option("--skip-missing-sizes", help="Leave out rows without a width or height, and count them."),
]


def columns(*given: str | None) -> dict[str, str]:
    """The column names that are given, in the order of ``COLUMNS``."""
    return {what: column for what, column in zip(COLUMNS, given, strict=True) if column is not None}
