"""Verifies a map copied from a root against its digest, and makes its sidecar, which is not copied."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from bucketline_service.maps.optional_columns import summarise
from bucketline_service.maps.resolution_map import ResolutionMap, map_batch
from bucketline_service.maps.sidecar import damaged, write_sidecar
from bucketline_service.maps.size_histogram import SizeHistogram

_STEP = 1 << 20


def verify_copy(path: Path, digest: str) -> None:
    """``StoreUnavailable`` unless the object file at ``path`` is the map with that digest; writes its sidecar."""
    stamp, batch = map_batch(path, path.stat().st_size)
    try:
        opened = ResolutionMap(path, stamp, digest, batch, {}, {})
    except (pa.ArrowException, ValueError, IndexError) as exc:
        raise damaged(path, "it does not have the columns of a map") from exc
    opened.verify()
    histogram = SizeHistogram()
    for start in range(0, opened.num_images, _STEP):
        rows = slice(start, start + _STEP)
        histogram.add(opened.widths[rows], opened.heights[rows])
    optional = summarise(opened.optional_arrays)
    write_sidecar(path, digest, opened.num_images, opened.id_kind, histogram.as_json(), optional)
