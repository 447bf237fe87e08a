"""Progress bars of uploads and planning: on standard error of a terminal, removed when done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


def _progress(*columns: ProgressColumn) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


@contextmanager
def uploading(name: str, num_bytes_of: Callable[[], int]) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes the number of bytes sent. When all are sent, the coordinator checks them."""
    total: int | None = None
    with suppress(OSError):  # reading the files reports the error
        total = num_bytes_of()
    with _progress(DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task(name, total=total)

        def update(num_bytes: int) -> None:
            action = "checking" if num_bytes == total else "sending"
            progress.update(task, completed=num_bytes, description=f"{action} {name}")

        yield update


@contextmanager
def planning(run: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields a function that takes the run's document while it is planned."""
    with _progress(TaskProgressColumn()) as progress:
        task = progress.add_task(f"planning {run}", total=None)

        def update(document: dict[str, Any]) -> None:
            progress.update(task, completed=document["progress"] or 0.0, total=1.0)

        yield update
