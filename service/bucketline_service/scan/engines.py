"""Who opens the units: this process, all cores of this machine, or a Ray cluster. Chunks of units go in, and chunks of
results come out in any order; never more are on their way than are being worked on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing.connection import wait as wait_for

from bucketline_service.errors import BucketlineError
from bucketline_service.scan.places import is_remote
from bucketline_service.scan.units import Kind, Result, Unit
from bucketline_service.scan.work import Reader, Setting

CHUNK = 256
"""Files; a shard has a chunk of its own."""
FEW = 8
"""Chunks of files that are not worth starting processes for."""
_FEW_SHARDS = 2
_AHEAD = 2

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_READER: list[Reader] = []


def chunks(units: Iterable[Unit]) -> Iterator[list[Unit]]:
    """Of files that are all remote or all local, or one shard."""
    chunk: list[Unit] = []
    for unit in units:
        if unit.kind is not Kind.FILE:
            yield [unit]
            continue
        if len(chunk) == CHUNK or (chunk and is_remote(chunk[0].place) != is_remote(unit.place)):
            yield chunk
            chunk = []
        chunk.append(unit)
    if chunk:
        yield chunk


def on_this_machine(
    setting: Setting, units: Iterable[Unit], num_workers: int | None = None
) -> Generator[list[Result], None, None]:
    """By as many processes as the machine has cores that this one may use, unless there is little to do."""
    rest = chunks(units)
    first = list(islice(rest, FEW + 1))
    num_workers = num_workers or num_cores()
    num_shards = sum(chunk[0].kind is Kind.TAR for chunk in first)
    if num_workers == 1 or (len(first) <= FEW and num_shards <= _FEW_SHARDS):
        reader = Reader(setting)
        return (reader.read(chunk) for chunk in chain(first, rest))
    return _by_processes(setting, chain(first, rest), num_workers)


def num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _by_processes(
    setting: Setting, work: Iterator[Sequence[Unit]], num_workers: int
) -> Generator[list[Result], None, None]:
    # spawned, since pyarrow's threads do not outlive a fork
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start, initargs=(setting,))
    going: set[Future[list[Result]]] = set()
    try:
        while True:
            for chunk in islice(work, num_workers * _AHEAD - len(going)):
                with _undisturbed():
                    going.add(pool.submit(_read, chunk))
            if not going:
                return
            finished, going = wait(going, return_when=FIRST_COMPLETED)
            for each in finished:
                yield each.result()
    except BrokenProcessPool as exc:
        raise BucketlineError(
            "a process that opens images was ended, by the system's lack of memory perhaps. What is done is kept: "
            "the same command goes on, with fewer --workers if need be"
        ) from exc
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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


def _start(setting: Setting) -> None:
    """In each process. Ctrl-C goes to all of them, and is the parent's to answer; without it they end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _READER[:] = [Reader(setting)]


def _end_with(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)


def _read(chunk: Sequence[Unit]) -> list[Result]:
    return _READER[0].read(chunk)
