"""``scipy.stats``, imported by the first test that looks a probability up: `make test` runs none that does."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    from scipy import stats

    return getattr(stats, name)
