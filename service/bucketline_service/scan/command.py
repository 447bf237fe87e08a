"""``bucketline scan`` in the terminal: its progress, its summary and its exit status."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bucketline_service.errors import Invalid
from bucketline_service.scan.job import ScanJob, ScanSummary, run

SOME_BAD = 3
"""Exit status where the map was written but some images are not in it."""
INTERRUPTED = 130


def scan(job: ScanJob, as_json: bool) -> int:
    """The exit status."""
    _check_installed(job)
    try:
        with _stopped_by_sigterm(), _progress() as progress:
            summary = run(job, _ProgressBar(progress))
    except KeyboardInterrupt:
        print("bucketline: stopped; run the same command again to resume", file=sys.stderr)
        return INTERRUPTED
    if as_json:
        print(json.dumps(summary.document(job), indent=2))
    else:
        print("\n".join(_lines(job, summary)))
    if not summary.num_images:
        print(f"bucketline: no image has a size; the reasons are in {job.bad_path}", file=sys.stderr)
        return 1
    return SOME_BAD if summary.num_bad else 0


def _lines(job: ScanJob, summary: ScanSummary) -> Iterator[str]:
    if summary.num_images:
        yield f"{job.output}: {summary.num_images:,} images{'' if job.options.exif else ', without EXIF orientation'}"
    if summary.num_bad:
        yield f"{job.bad_path}: {summary.num_bad:,} bad images, with reasons"
    yield f"opened {summary.num_opened:,} of {summary.num_found:,} files and shards in {summary.elapsed_s:.1f} s"
    if summary.num_skipped:
        skipped = ", ".join(f"{num:,} {what}" for what, num in sorted(summary.num_skipped.items()))
        yield f"skipped: {skipped}"


def _check_installed(job: ScanJob) -> None:
    required = [("PIL", "Pillow", "scan"), *([("ray", "Ray", "scan-ray")] if job.engine == "ray" else [])]
    for module, name, extra in required:
        try:
            importlib.import_module(module)
        except ImportError as exc:
            raise Invalid("scan", f"needs {name}", f"pip install 'bucketline[service,{extra}]'") from exc


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f}/s")


def _progress() -> Progress:
    """A progress bar on standard error, if that is a terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


class _ProgressBar:
    """Shows the progress of a job."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("finding", total=None, note="")
        self._num_images = 0

    def found(self, num_files: int) -> None:
        self._progress.update(self._task, completed=num_files)

    def opening(self, num_files: int) -> None:
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task("opening", total=num_files, note="")

    def opened(self, num_files: int, num_images: int) -> None:
        self._num_images += num_images
        self._progress.update(self._task, advance=num_files, note=f"{self._num_images:,} images")

    def writing(self) -> None:
        self._progress.update(self._task, description="writing")


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> Any:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
