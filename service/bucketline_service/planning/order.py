"""The line: the row numbers of all assigned images, bucket after bucket."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 20


def count_buckets(buckets: NDArray[np.int32], num_buckets: int) -> NDArray[np.int64]:
    """int64[num_buckets]: images in each bucket; -1 (pruned) is not counted."""
    counts = np.zeros(num_buckets + 1, dtype=np.int64)
    for begin in range(0, len(buckets), _CHUNK):
        counts += np.bincount(buckets[begin : begin + _CHUNK] + 1, minlength=num_buckets + 1)
    return counts[1:]


def fill_order(buckets: NDArray[np.int32], counts: NDArray[np.int64], out: NDArray[np.uint32]) -> None:
    """Counting sort: write the rows of bucket 0, then 1, … into ``out`` uint32[counts.sum()], rows ascending inside a
    bucket; pruned rows (-1) are left away. Memory beside ``out`` is that of one chunk, so ``out`` may be a file."""
    ends = np.cumsum(counts) - counts  # where each bucket's next row goes
    for begin in range(0, len(buckets), _CHUNK):
        chunk = buckets[begin : begin + _CHUNK]
        # 16 bits or fewer: numpy's stable sort is a radix sort then
        local = np.argsort(chunk.astype(np.int16), kind="stable")
        local = local[np.searchsorted(chunk[local], 0) :]
        sizes = np.bincount(chunk[local], minlength=len(counts))
        places = np.arange(len(local)) + np.repeat(ends - (np.cumsum(sizes) - sizes), sizes)
        out[places] = local + begin
        ends += sizes
