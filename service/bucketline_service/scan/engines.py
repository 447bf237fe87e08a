"""Who opens the units: this process, all cores of this machine, or a Ray cluster. Chunks of units go in, and chunks of
results come out in any order; never more are on their way than are being worked on."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any

from bucketline_service.errors import BucketlineError
from bucketline_service.scan.scan_files import FileKind, FileResult, ImageRow, ScanFile
from bucketline_service.scan.storage import is_remote
from bucketline_service.scan.worker import FileReader, ReadOptions

CHUNK = 256
"""Files; a shard has a chunk of its own."""
ALONE_S = 0.3
"""What is done sooner is not worth starting processes for."""
_FEW_SHARDS = 2
_AHEAD = 2

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_READER: list[FileReader] = []

_Packed = list[tuple[Any, ...]]
"""Units or results without their types, which pickle in half the time."""


def chunks(units: Iterable[ScanFile], num_files: int = CHUNK) -> Iterator[list[ScanFile]]:
    """Of files that are all remote or all local, or one shard."""
    chunk: list[ScanFile] = []
    for unit in units:
        if unit.kind is not FileKind.FILE:
            yield [unit]
            continue
        if len(chunk) == num_files or (chunk and is_remote(chunk[0].place) != is_remote(unit.place)):
            yield chunk
            chunk = []
        chunk.append(unit)
    if chunk:
        yield chunk


def on_this_machine(
    setting: ReadOptions,
    units: Iterable[ScanFile],
    num_workers: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[list[FileResult], None, None]:
    """By ``num_workers`` processes; unless told, by as many as there are cores that this one may use, once it is plain
    that there is more to do than it takes to start them."""
    work = chunks(units)
    if num_workers is None and num_cores() > 1:
        first = list(islice(work, _FEW_SHARDS + 1))
        work = chain(first, work)
        if sum(chunk[0].kind is FileKind.TAR for chunk in first) <= _FEW_SHARDS:
            yield from _alone(setting, work, clock, until_s=clock() + ALONE_S)
        num_workers = num_cores()
    if num_workers in (None, 1):
        yield from _alone(setting, work, clock)
    else:
        yield from _by_processes(setting, work, num_workers)


def _alone(
    setting: ReadOptions,
    work: Iterator[list[ScanFile]],
    clock: Callable[[], float],
    until_s: float = math.inf,
) -> Iterator[list[FileResult]]:
    reader = FileReader(setting)
    for chunk in work:
        yield reader.read(chunk)
        if clock() > until_s:
            return


def num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _by_processes(
    setting: ReadOptions, work: Iterator[list[ScanFile]], num_workers: int
) -> Generator[list[FileResult], None, None]:
    if (first := next(work, None)) is None:
        return
    work = chain([first], work)
    # spawned, since pyarrow's threads do not outlive a fork
    context = multiprocessing.get_context("spawn")
    ended, end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start, initargs=(setting, ended))
    going: set[Future[_Packed]] = set()
    try:
        while True:
            for chunk in islice(work, num_workers * _AHEAD - len(going)):
                with _undisturbed():
                    going.add(pool.submit(_read, [(unit.unit, unit.place, int(unit.kind)) for unit in chunk]))
            if not going:
                return
            finished, going = wait(going, return_when=FIRST_COMPLETED)
            for each in finished:
                yield [_result(*packed) for packed in each.result()]
    except BrokenProcessPool as exc:
        raise BucketlineError(
            "a process that opens images was ended, by the system's lack of memory perhaps. What is done is kept: "
            "the same command goes on, with fewer --workers if need be"
        ) from exc
    finally:
        # whoever still opens a shard need not finish it: nobody would take the answer
        end.close()
        pool.shutdown(wait=True, cancel_futures=True)
        ended.close()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals wait while processes are started, which half started would be told of, with a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(setting: ReadOptions, ended: Connection) -> None:
    """In each process. Ctrl-C goes to all of them, and is the parent's to answer; they end when it says so, or has
    ended itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_end_with, args=(ended,), daemon=True).start()
    _READER[:] = [FileReader(setting)]


def _end_with(ended: Connection) -> None:
    wait_for([ended])
    os._exit(1)


def _read(chunk: _Packed) -> _Packed:
    units = [ScanFile(number, place, FileKind(kind)) for number, place, kind in chunk]
    return [(unit, [tuple(row) for row in rows], *more) for unit, rows, *more in _READER[0].read(units)]


def _result(unit: int, rows: _Packed, *more: Any) -> FileResult:
    return FileResult(unit, [ImageRow._make(row) for row in rows], *more)
