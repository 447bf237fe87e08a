"""``pyarrow.compute``, imported on first use. Importing it creates hundreds of functions, which would take a tenth of
the coordinator's start."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    import pyarrow.compute

    return getattr(pyarrow.compute, name)
