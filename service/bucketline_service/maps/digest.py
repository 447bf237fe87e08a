"""The name of a map's content: SHA-256 over its rows, whatever file they came in.

The bytes hashed, all little-endian: ``bucketline map 1\\n``, the id kind and ``\\n``, the number of images as
int64; the widths as uint32, then the heights; then the ids: as int64, or the ends of the strings' UTF-8 as
int64 and the bytes."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_STEP = 1 << 20


def content_digest(ids: Any, widths: NDArray[np.uint32], heights: NDArray[np.uint32]) -> str:
    """``ids`` an int64 or large_string array, one chunk; hex."""
    is_int = pa.types.is_int64(ids.type)
    digest = hashlib.sha256(b"bucketline map 1\n" + (b"int64" if is_int else b"string") + b"\n")
    digest.update(len(ids).to_bytes(8, "little"))
    for sides in (widths, heights):
        _update(digest, sides, "<u4")
    if is_int:
        _update(digest, ids.to_numpy(), "<i8")
        return digest.hexdigest()
    _, ends, data = ids.buffers()
    all_ends = np.frombuffer(ends, np.int64)[ids.offset : ids.offset + len(ids) + 1]
    _update(digest, all_ends[1:], "<i8", all_ends[0])
    digest.update(memoryview(data)[int(all_ends[0]) : int(all_ends[-1])])
    return digest.hexdigest()


def _update(digest: Any, values: NDArray[Any], dtype: str, origin: Any = 0) -> None:
    for start in range(0, len(values), _STEP):
        part: Any = values[start : start + _STEP]
        digest.update((part - origin if origin else part).astype(dtype, copy=False))
