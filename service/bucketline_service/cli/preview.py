"""``bucketline preview``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bucketline_service.cli.errors import errors
from bucketline_service.cli.options import (
    AsJson,
    Format,
    HeightColumn,
    IdColumn,
    NumFramesColumn,
    NumRepeatsColumn,
    OrientationColumn,
    SkipMissingSizes,
    WidthColumn,
    columns,
)
from bucketline_service.cli.output import print_answer, warn
from bucketline_service.cli.spec_options import read_spec
from bucketline_service.terminal import plan_costs


def preview(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The resolution map, or a folder of its parts, as of map put."),
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
    format: Format = None,
    skip_missing_sizes: SkipMissingSizes = False,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a report there as well: one page that works without a network."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What plans would cost, from a file of sizes and without a server: images used, crop loss, steps, what is left
    out. Without --spec: that of the defaults, on 8 ranks with batches of 8."""
    from bucketline_service.cli import offline_preview as desk

    with errors():
        specs = [read_spec(each) for each in spec or []]
        named = columns(
            id_column, width_column, height_column, orientation_column, num_repeats_column, num_frames_column
        )
        sources = (
            [str(each) for each in spec]
            if spec
            else [f"{file}: the defaults, 8 ranks with batches of 8 (--spec FILE.json has others)"]
        )
        reading = desk.Reading(named, format, skip_missing_sizes)
        answer = desk.run(file, specs or [desk.DEFAULT], sources, reading)
        names = desk.names_of(spec) if spec else ["defaults"]
        problems = [each["problem"]["detail"] for each in answer["previews"] if "problem" in each]
        is_in_vain = len(problems) == len(answer["previews"])
        if is_in_vain and not as_json:
            for source, problem in zip(sources, problems, strict=True):
                own = problem if problem.startswith(source) else f"{source}: {problem}"
                warn(own)
            raise typer.Exit(1)
        print_answer(
            answer, as_json, lambda console, answer: plan_costs.comparison_table(console, answer, names)
        )
        if html is not None and not is_in_vain:
            page = desk.report(answer, names, specs or [desk.DEFAULT], file, named)
            num_bytes = html.write_bytes(page.encode())
            print(f"{html}: {num_bytes:,} bytes", file=sys.stderr)
        if problems:
            if not is_in_vain:
                failed = [
                    name for name, each in zip(names, answer["previews"], strict=True) if "problem" in each
                ]
                warn(f"cannot be met: {', '.join(failed)}")
            raise typer.Exit(1)
