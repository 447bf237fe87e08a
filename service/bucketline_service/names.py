"""Which names maps and runs may have: they become file names and path segments of URLs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bucketline_service.errors import Invalid

PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_NAME = re.compile(PATTERN)


def check_name(kind: str, name: str) -> str:
    """Return ``name`` if a ``kind`` ("map" or "run") may have it, or raise ``Invalid``."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = repr(name) if len(repr(name)) <= 140 else repr(name)[:140] + "…"
        raise Invalid(
            kind,
            f"must be a valid name, got {shown}",
            "Use 1 to 128 letters, digits, '.', '_' and '-', starting with a letter or digit",
        )
    return name


def few(names: Sequence[str], most: int = 5) -> str:
    """The first ``most`` names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
