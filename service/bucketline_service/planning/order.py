"""The line: the row numbers of all assigned images, bucket after bucket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 20
"""Rows that are looked at together: what a pass needs beside its result is in proportion to this, not to N."""


def count_buckets(
    buckets: NDArray[Any], num_buckets: int, weights: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """int64[num_buckets]: images in each bucket of ``buckets``, signed integers; -1 (pruned) is not counted.
    ``weights``: how many images each one stands for, one unless given."""
    counts = np.zeros(num_buckets + 1, dtype=np.int64)
    for begin in range(0, len(buckets), CHUNK):
        part = slice(begin, begin + CHUNK)
        counts += tally(buckets[part] + 1, num_buckets + 1, None if weights is None else weights[part])
    return counts[1:]


def tally(values: NDArray[Any], num: int, weights: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """int64[num]: how often each of 0 … num - 1 is among ``values``; with ``weights``, exact up to 2**53."""
    found: NDArray[np.int64] = np.bincount(values, weights, minlength=num).astype(np.int64, copy=False)
    return found


def fill_order(
    buckets: NDArray[Any], counts: NDArray[np.int64], out: NDArray[np.uint32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Counting sort: write the rows of bucket 0, then 1, … into ``out`` uint32[counts.sum()], rows ascending inside a
    bucket; pruned rows (-1) are left away. Memory beside ``out`` is that of one chunk, so ``out`` may be a file.

    Goes on as it is iterated, chunk by chunk of rows: for each its assigned rows by bucket, and how many each bucket
    has of them.
    """
    ends = np.cumsum(counts) - counts  # where each bucket's next row goes
    for rows, sizes in by_bucket(buckets, len(counts)):
        out[np.arange(len(rows)) + np.repeat(ends - (np.cumsum(sizes) - sizes), sizes)] = rows
        ends += sizes
        yield rows, sizes


def by_bucket(
    buckets: NDArray[Any], num_buckets: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Chunk by chunk of rows: the assigned ones by bucket, ascending inside one, and how many each bucket has."""
    for begin in range(0, len(buckets), CHUNK):
        chunk = buckets[begin : begin + CHUNK]
        # 16 bits or fewer: numpy's stable sort is a radix sort then
        local = np.argsort(chunk.astype(np.int16, copy=False), kind="stable")
        local = local[np.count_nonzero(chunk < 0) :]
        yield local + begin, np.bincount(chunk[local], minlength=num_buckets)
