"""Opens the files of a scan: in this process, in a process for each core, or on a Ray cluster.

Chunks of files go in, and chunks of results come out in any order. Few chunks are submitted ahead of those in work."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import socket
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

from bucketline_service.errors import BucketlineError, Invalid
from bucketline_service.scan.scan_files import FileKind, FileResult, ImageRow, ScanFile
from bucketline_service.scan.storage import is_remote
from bucketline_service.scan.worker import FileReader, ReadOptions

CHUNK = 256
"""Images in a chunk; a shard is a chunk by itself."""
RAY_CHUNK = 4096
"""On Ray, which takes longer to start a task than to open a hundred images."""
ALONE_S = 0.3
"""Work that is finished sooner is done without starting processes."""
RAY_CONNECT_TIMEOUT_S = 10.0
_FEW_SHARDS = 2
_AHEAD = 2
"""Chunks submitted for each process."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_READER: list[FileReader] = []

_Packed = list[tuple[Any, ...]]
"""Files or results as plain tuples, which are pickled in half the time."""


def chunks(files: Iterable[ScanFile], num_images: int = CHUNK) -> Iterator[list[ScanFile]]:
    """Images in chunks that are all remote or all local; a shard or table is a chunk by itself."""
    chunk: list[ScanFile] = []
    for file in files:
        if file.kind is not FileKind.IMAGE:
            yield [file]
            continue
        if len(chunk) == num_images or (chunk and is_remote(chunk[0].location) != is_remote(file.location)):
            yield chunk
            chunk = []
        chunk.append(file)
    if chunk:
        yield chunk


def on_this_machine(
    options: ReadOptions,
    files: Iterable[ScanFile],
    num_workers: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[list[FileResult], None, None]:
    """Open files in ``num_workers`` processes. By default in this process, and in one process for each available core
    as soon as the work takes longer than starting them."""
    work = chunks(files)
    if num_workers is None and num_cores() > 1:
        first = list(islice(work, _FEW_SHARDS + 1))
        work = chain(first, work)
        if sum(chunk[0].kind is FileKind.TAR for chunk in first) <= _FEW_SHARDS:
            yield from _alone(options, work, clock, until_s=clock() + ALONE_S)
        num_workers = num_cores()
    if num_workers in (None, 1):
        yield from _alone(options, work, clock)
    else:
        yield from _in_processes(options, work, num_workers)


def _alone(
    options: ReadOptions,
    work: Iterator[list[ScanFile]],
    clock: Callable[[], float],
    until_s: float = math.inf,
) -> Iterator[list[FileResult]]:
    reader = FileReader(options)
    for chunk in work:
        yield reader.read(chunk)
        if clock() > until_s:
            return


def num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_processes(
    options: ReadOptions, work: Iterator[list[ScanFile]], num_workers: int
) -> Generator[list[FileResult], None, None]:
    if (first := next(work, None)) is None:
        return
    work = chain([first], work)
    # spawned, since pyarrow's threads do not survive a fork
    context = multiprocessing.get_context("spawn")
    ended, end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start, initargs=(options, ended))
    pending: set[Future[_Packed]] = set()
    try:
        while True:
            for chunk in islice(work, num_workers * _AHEAD - len(pending)):
                with _signals_blocked():
                    pending.add(pool.submit(_read, _packed(chunk)))
            if not pending:
                return
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for each in finished:
                yield _unpacked(each.result())
    except BrokenProcessPool as exc:
        raise BucketlineError(
            "a process that opens images was killed, perhaps because the system ran out of memory. Finished work is "
            "kept: run the same command again, with fewer --workers if necessary"
        ) from exc
    finally:
        # a process that is reading a shard need not finish it, since its answer is not read
        end.close()
        pool.shutdown(wait=True, cancel_futures=True)
        ended.close()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals while processes are started: one that receives a signal before its handlers are set prints a
    traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(options: ReadOptions, ended: Connection) -> None:
    """Set up a process. Ctrl-C goes to all processes, and only the parent handles it; the others exit when it tells
    them to, or when it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_exit_with_parent, args=(ended,), daemon=True).start()
    _READER[:] = [FileReader(options)]


def _exit_with_parent(ended: Connection) -> None:
    wait_for([ended])
    os._exit(1)


def _read(chunk: _Packed) -> _Packed:
    return _read_with(_READER[0], chunk)


def _read_with(reader: FileReader, chunk: _Packed) -> _Packed:
    files = [ScanFile(number, location, FileKind(kind)) for number, location, kind in chunk]
    return [(number, [tuple(row) for row in rows], *more) for number, rows, *more in reader.read(files)]


def _packed(chunk: list[ScanFile]) -> _Packed:
    return [(file.number, file.location, int(file.kind)) for file in chunk]


def _unpacked(results: _Packed) -> list[FileResult]:
    return [
        FileResult(number, [ImageRow._make(row) for row in rows], *more) for number, rows, *more in results
    ]


def on_ray(options: ReadOptions, files: Iterable[ScanFile]) -> Generator[list[FileResult], None, None]:
    """Open files on the Ray cluster of ``RAY_ADDRESS``, or on one started here. Every node needs
    ``bucketline[service,scan]``, and must reach the files under the same paths."""
    work = chunks(files, RAY_CHUNK)
    if (first := next(work, None)) is None:
        return
    work = chain([first], work)
    import ray
    from ray.exceptions import RayError

    logging.getLogger("ray").setLevel(logging.ERROR)
    if not ray.is_initialized():
        _check_responds(os.environ.get("RAY_ADDRESS", ""))
        try:
            ray.init(log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as exc:
            raise Invalid("RAY_ADDRESS", f"no Ray cluster can be used there: {_one_line(exc)}") from exc
    read = ray.remote(_read_on_ray)
    pending: list[Any] = []
    try:
        while True:
            num_ahead = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))  # a cluster may grow
            more = islice(work, max(0, num_ahead - len(pending)))
            pending += [read.remote(options, _packed(chunk)) for chunk in more]
            if not pending:
                return
            finished, pending = ray.wait(pending)
            for each in finished:
                yield _unpacked(ray.get(each))
    except RayError as exc:
        raise BucketlineError(
            f"the Ray cluster failed: {_one_line(exc)}. Finished work is kept: run the same command again"
        ) from exc


def _read_on_ray(options: ReadOptions, chunk: _Packed) -> _Packed:
    return _read_with(FileReader(options), chunk)


def _check_responds(address: str) -> None:
    """``Invalid`` where nothing listens at ``address``, to which Ray itself would try to connect for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), RAY_CONNECT_TIMEOUT_S).close()
        except OSError as exc:
            raise Invalid(
                "RAY_ADDRESS", f"nothing responds at {address}: {exc}", "Start Ray, or unset RAY_ADDRESS"
            ) from exc


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
