"""The line: the row numbers of all assigned images, bucket after bucket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 20
"""Rows that are looked at together: what a pass needs beside its result is in proportion to this, not to N."""


def count_buckets(buckets: NDArray[Any], num_buckets: int) -> NDArray[np.int64]:
    """int64[num_buckets]: images in each bucket of ``buckets``, signed integers; -1 (pruned) is not counted."""
    counts = np.zeros(num_buckets + 1, dtype=np.int64)
    for begin in range(0, len(buckets), CHUNK):
        counts += np.bincount(buckets[begin : begin + CHUNK] + 1, minlength=num_buckets + 1)
    return counts[1:]


def fill_order(buckets: NDArray[Any], counts: NDArray[np.int64], out: NDArray[np.uint32]) -> None:
    """Counting sort: write the rows of bucket 0, then 1, … into ``out`` uint32[counts.sum()], rows ascending inside a
    bucket; pruned rows (-1) are left away. Memory beside ``out`` is that of one chunk, so ``out`` may be a file."""
    for _ in filling(buckets, counts, out):
        pass


def filling(
    buckets: NDArray[Any], counts: NDArray[np.int64], out: NDArray[np.uint32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """``fill_order`` chunk by chunk of rows: for each its assigned rows by bucket, and how many each bucket has."""
    ends = np.cumsum(counts) - counts  # where each bucket's next row goes
    for begin in range(0, len(buckets), CHUNK):
        chunk = buckets[begin : begin + CHUNK]
        # 16 bits or fewer: numpy's stable sort is a radix sort then
        local = np.argsort(chunk.astype(np.int16, copy=False), kind="stable")
        local = local[np.count_nonzero(chunk < 0) :]
        sizes = np.bincount(chunk[local], minlength=len(counts))
        out[np.arange(len(local)) + np.repeat(ends - (np.cumsum(sizes) - sizes), sizes)] = local + begin
        ends += sizes
        yield local + begin, sizes
