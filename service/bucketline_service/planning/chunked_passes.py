"""Passes over all rows in chunks, by several threads, with their results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 20
"""Rows that are processed together: the memory of a pass besides its result is proportional to this, not to N."""

_I = TypeVar("_I")
_T = TypeVar("_T")
Counted = tuple[NDArray[Any], NDArray[Any]]
"""Values, and how often each comes."""


def in_order(work: Callable[[_I], _T], items: Iterable[_I], num_threads: int) -> Iterator[_T]:
    """``work`` of each item, in the order of the items, a few of them at a time. numpy lets go of the interpreter while
    it works on a chunk. What ``work`` raises is raised here, and no later item is begun."""
    if num_threads == 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="bucketline-pass")
    try:
        ahead: deque[Future[_T]] = deque()
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) > num_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class ValueCounts:
    """The distinct values of a pass and how often each comes. Chunks are merged when as many values wait as are merged
    already, so that each is moved log N times."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._merged: Counted = (np.empty(0, dtype), np.empty(0, np.int64))
        self._waiting: list[Counted] = []
        self._num_waiting = 0

    @property
    def num_merged(self) -> int:
        return len(self._merged[0])

    def add(self, values: NDArray[Any]) -> None:
        found, counts = np.unique(values, return_counts=True)
        self._waiting.append((found, counts.astype(np.int64, copy=False)))
        self._num_waiting += len(found)
        if self._num_waiting > CHUNK + self.num_merged:
            self._merged = self.merged()
            self._waiting, self._num_waiting = [], 0

    def merged(self, *more: Counted) -> Counted:
        return merged(self._merged, *self._waiting, *more)


def merged(*parts: Counted) -> Counted:
    """Each value once, ascending, with the sum of its counts."""
    values = np.concatenate([each for each, _ in parts])
    counts = np.concatenate([each for _, each in parts])
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    firsts = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
    return values[firsts], np.add.reduceat(counts, firsts) if len(firsts) else counts
