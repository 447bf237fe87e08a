"""Resolution maps: read in any of six formats, checked, stored once, memory-mapped.

``MapStore`` keeps them, ``ResolutionMap`` is one of them, ``FORMATS`` says what can be read, ``Columns`` from
where."""

from __future__ import annotations

from .columns import Columns
from .formats import FORMATS, Format, format_for_suffix, format_named
from .resolution_map import ResolutionMap
from .staging import IdKind
from .store import MapInfo, MapStore

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
