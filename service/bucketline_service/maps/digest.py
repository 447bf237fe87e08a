"""The digest of a map: SHA-256 over its rows, independent of the file that they came in.

The bytes hashed, all little-endian: ``bucketline map 1\\n``, the id kind and ``\\n``, the number of images as
int64; the widths as uint32, then the heights; then the ids: as int64, or the ends of the strings' UTF-8 as
int64 and the bytes.

Then each optional column that the map has, in this order: ``num_repeats\n``, the number of distinct values as int64,
the values as float64, ascending, and for each image the index of its value as uint8; ``num_frames\n``, and the numbers
as uint32. A map has such a column only where an image differs from the default, so a column of ones changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bucketline_service.maps.optional_columns import STORED

_STEP = 1 << 20


def content_digest(
    ids: Any, widths: NDArray[np.uint32], heights: NDArray[np.uint32], optional: Mapping[str, Any]
) -> str:
    """64 hexadecimal digits. ``ids``: an int64 or large_string array; ``optional``: the stored optional columns, each
    an array of the type in ``STORED``."""
    is_int = pa.types.is_int64(ids.type)
    digest = hashlib.sha256(b"bucketline map 1\n" + (b"int64" if is_int else b"string") + b"\n")
    digest.update(len(ids).to_bytes(8, "little"))
    for sides in (widths, heights):
        _update(digest, sides, "<u4")
    if is_int:
        _update(digest, ids.to_numpy(), "<i8")
    else:
        _update_strings(digest, ids)
    for kind in STORED:
        if kind in optional:
            digest.update(kind.encode() + b"\n")
            _update_optional(digest, optional[kind])
    return digest.hexdigest()


def _update_strings(digest: Any, ids: Any) -> None:
    _, ends, data = ids.buffers()
    all_ends = np.frombuffer(ends, np.int64)[ids.offset : ids.offset + len(ids) + 1]
    _update(digest, all_ends[1:], "<i8", all_ends[0])
    digest.update(memoryview(data)[int(all_ends[0]) : int(all_ends[-1])])


def _update_optional(digest: Any, array: Any) -> None:
    if not pa.types.is_dictionary(array.type):
        _update(digest, array.to_numpy(), "<u4")
        return
    digest.update(len(array.dictionary).to_bytes(8, "little"))
    _update(digest, array.dictionary.to_numpy(), "<f8")
    _update(digest, array.indices.to_numpy(), "u1")


def _update(digest: Any, values: NDArray[Any], dtype: str, origin: Any = 0) -> None:
    for start in range(0, len(values), _STEP):
        part: Any = values[start : start + _STEP]
        digest.update((part - origin if origin else part).astype(dtype, copy=False))
