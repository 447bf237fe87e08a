"""Names of maps and runs: they become file names and path segments, so their alphabet is small."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bucketline_service.errors import Invalid

PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_NAME = re.compile(PATTERN)


def check_name(kind: str, name: str) -> str:
    """``name`` itself where it can be the name of a ``kind`` ("map", "run"); ``Invalid`` otherwise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = repr(name) if len(repr(name)) <= 140 else repr(name)[:140] + "…"
        raise Invalid(
            kind,
            f"{shown} can not be a name",
            "Use 1 to 128 letters, digits, '.', '_' and '-', beginning with a letter or a digit",
        )
    return name


def few(names: Sequence[str], most: int = 5) -> str:
    """The first ``most`` of them, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
