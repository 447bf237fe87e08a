"""Passes over all rows in chunks, by several threads, with their results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

CHUNK = 1 << 20
"""Rows that are looked at together: what a pass needs beside its result is in proportion to this, not to N."""

_T = TypeVar("_T")


def in_order(work: Callable[[int], _T], items: Iterable[int], num_threads: int) -> Iterator[_T]:
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
