"""Resolution maps: read in any of the formats, checked, stored once, memory-mapped.

``MapStore`` keeps them, ``ResolutionMap`` is one of them, ``FORMATS`` says what can be read, ``RequestedColumns`` from
where, ``STORED`` what a map may have beside ids and sizes."""

from __future__ import annotations

from bucketline_service.maps.column_names import RequestedColumns
from bucketline_service.maps.formats import FORMATS, MapFormat, format_for_suffix, format_named
from bucketline_service.maps.lock import locked
from bucketline_service.maps.optional_columns import STORED
from bucketline_service.maps.put_notes import notes
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
    "notes",
]
