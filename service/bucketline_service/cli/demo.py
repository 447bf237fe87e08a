"""``bucketline demo``: its options."""

from __future__ import annotations

from typing import Annotated

import typer

from bucketline_service.cli.errors import errors


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the coordinator running afterwards, to explore it.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The plan's seed.")] = 42,
) -> None:
    """Train one epoch of a real map on 4 worker processes, kill one of them on the way, and prove the result."""
    from bucketline_service.demo import run

    with errors():
        raise typer.Exit(run(keep=keep, seed=seed))
