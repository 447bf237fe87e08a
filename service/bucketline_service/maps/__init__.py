"""Resolution maps: read in any of six formats, checked, stored once, memory-mapped.

``MapStore`` keeps them, ``ResolutionMap`` is one of them, ``FORMATS`` says what can be read, ``Columns`` from
where."""

from __future__ import annotations

from bucketline_service.maps.columns import Columns
from bucketline_service.maps.formats import FORMATS, Format, format_for_suffix, format_named
from bucketline_service.maps.resolution_map import ResolutionMap
from bucketline_service.maps.staging import IdKind
from bucketline_service.maps.store import MapInfo, MapStore

__all__ = [
    "FORMATS",
    "Columns",
    "Format",
    "IdKind",
    "MapInfo",
    "MapStore",
    "ResolutionMap",
    "format_for_suffix",
    "format_named",
]
