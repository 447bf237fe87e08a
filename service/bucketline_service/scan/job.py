"""A scan from end to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bucketline_service.errors import Invalid
from bucketline_service.scan import engines, output
from bucketline_service.scan.discovery import FileFinder, ScanOptions
from bucketline_service.scan.image_headers import gone
from bucketline_service.scan.record import ScanRecord, is_record
from bucketline_service.scan.scan_files import FileResult, FoundFile
from bucketline_service.scan.storage import Storage, is_remote, parse, reaches_of
from bucketline_service.scan.worker import ReadOptions

_SOME = 4096


class ScanProgress(Protocol):
    """Is told how far the scan is."""

    def found(self, num_units: int) -> None: ...

    def opening(self, num_units: int) -> None: ...

    def opened(self, num_units: int, num_images: int) -> None: ...

    def writing(self) -> None: ...


class ScanJob(NamedTuple):
    """What to scan. ``bad``: where to list what has no size; beside the output unless given."""

    paths: Sequence[str]
    output: Path
    wish: ScanOptions = ScanOptions()
    bad: Path | None = None
    engine: str = "local"
    num_workers: int | None = None

    @property
    def bad_path(self) -> Path:
        return self.bad or self.output.with_name(f"{self.output.name}.bad.jsonl")

    @property
    def record_path(self) -> Path:
        return self.output.with_name(f"{self.output.name}.scan")


class ScanSummary(NamedTuple):
    """``num_opened``: files and shards opened by this scan, of ``num_found``; the others were known."""

    num_images: int
    num_bad: int
    num_found: int
    num_opened: int
    num_skipped: dict[str, int]
    elapsed_s: float

    def document(self, job: ScanJob) -> dict[str, Any]:
        return {
            "output": str(job.output) if self.num_images else None,
            "bad": str(job.bad_path),
            "exif": job.wish.exif,
            **self._asdict(),
            "elapsed_s": round(self.elapsed_s, 3),
        }


def run(job: ScanJob, watcher: ScanProgress, clock: Callable[[], float] = time.monotonic) -> ScanSummary:
    """Raises ``Invalid`` for what can not be scanned at all, and ``Conflict`` where the output is another's, or its
    record one of a scan that asked otherwise of EXIF. After ``KeyboardInterrupt``, as after any other end, the same job
    goes on from what is done."""
    begin = clock()
    _check(job)
    reaches = reaches_of(job.paths)
    is_new = not job.record_path.exists()
    record = ScanRecord(job.record_path, job.wish.ids.value, job.wish.exif)
    try:
        record.open_again(gone(record.reasons()))
        finder = FileFinder(Storage(reaches), job.wish)
        _find(job, finder, record, watcher)
        num_found, num_todo = record.counts()
        if not num_found:
            raise Invalid(", ".join(job.paths), "there is no image, shard or table in it")
        is_new = False
        watcher.opening(num_todo)
        _open(job, ReadOptions(job.wish.ids, reaches, job.wish.exif), record, watcher, clock)
        watcher.writing()
        written = output.write(record, job.output, job.bad_path, job.wish.exif)
        record.forget()
    finally:
        record.close()
        if is_new:
            job.record_path.unlink()  # nothing was opened, so there is nothing to go on from
    return ScanSummary(
        written.num_images, written.num_bad, num_found, num_todo, dict(finder.skipped), clock() - begin
    )


def _check(job: ScanJob) -> None:
    if job.output.suffix.lower() != ".parquet":
        raise Invalid(
            str(job.output), "the output is Parquet", "Name it .parquet; `bucketline map put` takes it"
        )
    if not job.output.parent.is_dir():
        raise Invalid(str(job.output), f"there is no folder {job.output.parent}", "Make it")
    local = [parse(path)[0] for path in job.paths]
    for own in (job.output, job.bad_path, job.record_path):
        if str(own.absolute()) in local and not is_remote(str(own)):
            raise Invalid(str(own), "is to be scanned and to be written", "Name another output")
    if len({job.output.absolute(), job.bad_path.absolute(), job.record_path.absolute()}) < 3:
        raise Invalid(str(job.bad_path), "is the output or its record", "Name another file with --bad")
    output.check_is_ours(job.output)
    if not is_record(job.record_path):
        raise Invalid(str(job.record_path), "is there, and no scan has written it", "Name another output")


def _find(job: ScanJob, finder: FileFinder, record: ScanRecord, watcher: ScanProgress) -> None:
    num = 0
    for path in job.paths:
        found: Iterator[FoundFile] = iter(finder.find(path))
        while some := list(islice(found, _SOME)):
            record.found(some)
            num += len(some)
            watcher.found(num)


def _open(
    job: ScanJob, setting: ReadOptions, record: ScanRecord, watcher: ScanProgress, clock: Callable[[], float]
) -> None:
    results: Generator[list[FileResult], None, None]
    if job.engine == "ray":
        from bucketline_service.scan.ray_engine import on_a_cluster

        results = on_a_cluster(setting, record.todo())
    else:
        results = engines.on_this_machine(setting, record.todo(), job.num_workers, clock)
    # processes end before anything else goes on
    with closing(results):
        for some in results:
            record.done(some)
            watcher.opened(len(some), sum(len(each.rows) for each in some))
