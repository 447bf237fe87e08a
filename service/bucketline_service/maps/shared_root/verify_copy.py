"""What came from elsewhere is believed once it was read as a whole: the file beside a map is not fetched but made."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bucketline_service.maps.optional_columns import Summaries
from bucketline_service.maps.resolution_map import ResolutionMap, map_batch
from bucketline_service.maps.sidecar import damaged, write_sidecar
from bucketline_service.maps.size_histogram import SizeHistogram

_STEP = 1 << 20


def check_copy(path: Path, digest: str) -> None:
    """Raise ``StoreUnavailable`` unless the object file at ``path`` is the map with that digest; write its sidecar."""
    stamp, batch = map_batch(path, path.stat().st_size)
    try:
        opened = ResolutionMap(path, stamp, digest, batch, {}, {})
    except (pa.ArrowException, ValueError, IndexError) as exc:
        raise damaged(path, "it does not hold the columns of a map") from exc
    opened.verify()
    write_sidecar(path, digest, opened.num_images, opened.id_kind, _histogram(opened), _optional(opened))


def _histogram(opened: ResolutionMap) -> dict[str, Any]:
    histogram = SizeHistogram()
    for start in range(0, opened.num_images, _STEP):
        part = slice(start, start + _STEP)
        histogram.add(opened.widths[part], opened.heights[part])
    return histogram.as_json()


def _optional(opened: ResolutionMap) -> Summaries:
    """What ``incoming`` found when the map was made."""
    found: Summaries = {}
    if opened.repeat_codes is not None:
        values = opened.repeat_values
        counts = np.bincount(opened.repeat_codes, minlength=len(values))
        total = math.fsum(
            value * count for value, count in zip(values.tolist(), counts.tolist(), strict=True)
        )
        found["num_repeats"] = {"min": float(values[0]), "max": float(values[-1]), "total": total}
    if opened.num_frames is not None:
        found["num_frames"] = {"min": int(opened.num_frames.min()), "max": int(opened.num_frames.max())}
    return found
