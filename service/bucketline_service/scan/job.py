"""Runs a scan: discovers files, opens those that are not in the record, and writes the map."""

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
from bucketline_service.scan.storage import Storage, bucket_access, is_remote, parse
from bucketline_service.scan.worker import ReadOptions

_SOME = 4096


class ScanProgress(Protocol):
    """Called as the scan proceeds."""

    def found(self, num_files: int) -> None: ...

    def opening(self, num_files: int) -> None: ...

    def opened(self, num_files: int, num_images: int) -> None: ...

    def writing(self) -> None: ...


class ScanJob(NamedTuple):
    """``bad``: the file for the list of images without a size; by default beside the output."""

    paths: Sequence[str]
    output: Path
    options: ScanOptions = ScanOptions()
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
    """``num_opened``: files and shards opened by this scan, of ``num_found``; the others were in the record."""

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
            "exif": job.options.exif,
            **self._asdict(),
            "elapsed_s": round(self.elapsed_s, 3),
        }


def run(job: ScanJob, progress: ScanProgress, clock: Callable[[], float] = time.monotonic) -> ScanSummary:
    """Raises ``Invalid`` for paths that cannot be scanned, and ``Conflict`` where the output is not from a scan, or its
    record is from a scan with another ``exif``. After ``KeyboardInterrupt``, or any other end, the same job resumes."""
    begin = clock()
    _check(job)
    buckets = bucket_access(job.paths)
    is_new = not job.record_path.exists()
    record = ScanRecord(job.record_path, job.options.ids.value, job.options.exif)
    try:
        record.open_again(gone(record.reasons()))
        finder = FileFinder(Storage(buckets), job.options)
        _find(job, finder, record, progress)
        num_found, num_todo = record.counts()
        if not num_found:
            raise Invalid(", ".join(job.paths), "no image, shard or table was found")
        is_new = False
        progress.opening(num_todo)
        _open(job, ReadOptions(job.options.ids, buckets, job.options.exif), record, progress, clock)
        progress.writing()
        written = output.write(record, job.output, job.bad_path, job.options.exif)
        record.forget()
    finally:
        record.close()
        if is_new:
            job.record_path.unlink()  # nothing was opened, so there is nothing to resume
    return ScanSummary(
        written.num_images, written.num_bad, num_found, num_todo, dict(finder.skipped), clock() - begin
    )


def _check(job: ScanJob) -> None:
    if job.output.suffix.lower() != ".parquet":
        raise Invalid(
            str(job.output), "the output must end in .parquet", "`bucketline map put` reads this format"
        )
    if not job.output.parent.is_dir():
        raise Invalid(str(job.output), f"the folder {job.output.parent} does not exist", "Create it")
    local = [parse(path)[0] for path in job.paths]
    for own in (job.output, job.bad_path, job.record_path):
        if str(own.absolute()) in local and not is_remote(str(own)):
            raise Invalid(str(own), "must not be both scanned and written", "Choose another output")
    if len({job.output.absolute(), job.bad_path.absolute(), job.record_path.absolute()}) < 3:
        raise Invalid(
            str(job.bad_path), "must differ from the output and its record", "Choose another file with --bad"
        )
    output.check_is_ours(job.output)
    if not is_record(job.record_path):
        raise Invalid(
            str(job.record_path), "exists, and is not the record of a scan", "Choose another output"
        )


def _find(job: ScanJob, finder: FileFinder, record: ScanRecord, progress: ScanProgress) -> None:
    num = 0
    for path in job.paths:
        found: Iterator[FoundFile] = iter(finder.find(path))
        while some := list(islice(found, _SOME)):
            record.found(some)
            num += len(some)
            progress.found(num)


def _open(
    job: ScanJob,
    read_options: ReadOptions,
    record: ScanRecord,
    progress: ScanProgress,
    clock: Callable[[], float],
) -> None:
    results: Generator[list[FileResult], None, None]
    if job.engine == "ray":
        results = engines.on_ray(read_options, record.todo())
    else:
        results = engines.on_this_machine(read_options, record.todo(), job.num_workers, clock)
    # closed so that all processes have ended before the map is written
    with closing(results):
        for some in results:
            record.done(some)
            progress.opened(len(some), sum(len(each.rows) for each in some))
