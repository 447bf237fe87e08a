"""``bucketline preview``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bucketline_service.cli import options
from bucketline_service.cli.errors import errors
from bucketline_service.cli.options import AsJson
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
        typer.Option(help="A run spec in a JSON file; several are shown side by side. Its map is ignored."),
    ] = None,
    id_column: options.IdColumn = None,
    width_column: options.WidthColumn = None,
    height_column: options.HeightColumn = None,
    orientation_column: options.OrientationColumn = None,
    num_repeats_column: options.NumRepeatsColumn = None,
    num_frames_column: options.NumFramesColumn = None,
    format: options.Format = None,
    skip_missing_sizes: options.SkipMissingSizes = False,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write a report to this file: one page that works without a network."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What plans would cost, from a file of sizes and without a server: images used, crop loss, steps, what is left
    out. Without --spec: that of the defaults, on 8 ranks with batches of 8."""
    from bucketline_service.cli import offline_preview as desk

    with errors():
        specs = [read_spec(each) for each in spec or []] or [desk.DEFAULT]
        sources = [str(each) for each in spec or []] or [
            f"{file}: the defaults, 8 ranks with batches of 8 (for others: --spec FILE.json)"
        ]
        names = desk.names_of(spec) if spec else ["defaults"]
        named = options.columns(
            id_column, width_column, height_column, orientation_column, num_repeats_column, num_frames_column
        )
        answer = desk.run(file, specs, sources, desk.Reading(named, format, skip_missing_sizes))
        failed = [at for at, each in enumerate(answer["previews"]) if "problem" in each]
        if len(failed) == len(specs) and not as_json:
            for source, each in zip(sources, answer["previews"], strict=True):
                problem = each["problem"]["detail"]
                warn(problem if problem.startswith(source) else f"{source}: {problem}")
            raise typer.Exit(1)
        print_answer(
            answer, as_json, lambda console, answer: plan_costs.comparison_table(console, answer, names)
        )
        if html is not None and len(failed) < len(specs):
            num_bytes = html.write_bytes(desk.report(answer, names, specs, file, named).encode())
            print(f"{html}: {num_bytes:,} bytes", file=sys.stderr)
        if 0 < len(failed) < len(specs):
            warn(f"cannot be met: {', '.join(names[at] for at in failed)}")
        if failed:
            raise typer.Exit(1)
