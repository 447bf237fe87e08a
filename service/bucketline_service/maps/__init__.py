"""Resolution maps: the size of every image of a data set, read from any format, checked, stored and memory-mapped.

``MapStore`` stores them, and ``SharedMapStore`` shares them between replicas. ``ResolutionMap`` is an open map,
``FORMATS`` the formats that can be read, ``RequestedColumns`` which columns to read, ``STORED`` the optional
columns."""

from __future__ import annotations

from bucketline_service.maps.column_names import RequestedColumns
from bucketline_service.maps.formats import FORMATS, MapFormat, format_for_suffix, format_named
from bucketline_service.maps.lock import locked
from bucketline_service.maps.optional_columns import STORED
from bucketline_service.maps.put_notes import put_notes
from bucketline_service.maps.reader_process import ReadResult
from bucketline_service.maps.resolution_map import ResolutionMap
from bucketline_service.maps.shared_root.root import SharedRoot
from bucketline_service.maps.shared_root.store import SharedMapStore
from bucketline_service.maps.spool import IdKind
from bucketline_service.maps.store import MapInfo, MapStore

__all__ = [
    "FORMATS",
    "STORED",
    "IdKind",
    "MapFormat",
    "MapInfo",
    "MapStore",
    "ReadResult",
    "RequestedColumns",
    "ResolutionMap",
    "SharedMapStore",
    "SharedRoot",
    "format_for_suffix",
    "format_named",
    "locked",
    "put_notes",
]
