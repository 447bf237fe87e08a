"""``pyarrow.compute``, imported with the first function that is asked of it: by the thread that reads a map. It makes a
function of each of arrow's hundreds then, which would be a tenth of the coordinator's start."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    import pyarrow.compute

    return getattr(pyarrow.compute, name)
