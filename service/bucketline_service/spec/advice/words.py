"""The words of warnings and remedies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def sentence(ways: Sequence[str]) -> str:
    """Of several ways to do it."""
    text = "; or ".join(ways)
    return f"{text[0].upper()}{text[1:]}."


def set_to(fields: Mapping[str, Any]) -> str:
    """``set tails to "pad" and lockstep to 8``."""
    *first, last = [f"{name} to {_json(value)}" for name, value in fields.items()]
    return f"set {' and '.join([', '.join(first), last] if first else [last])}"


def _json(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def part_of(num: int, whole: int) -> str:
    """``37 of 500 images (7.4%)``."""
    return f"{num:,} of {whole:,} images ({num / whole:.1%})"


def size_of(bucket: Mapping[str, Any]) -> str:
    frames = f"x{bucket['num_frames']}" if bucket["num_frames"] else ""
    return f"{bucket['width']}x{bucket['height']}{frames}"
