"""Successful responses in JSON."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Response

from bucketline_service.http.browser_headers import DATA


def as_json(content: Any, status: int = 200) -> Response:
    """Answers skip validation: they are ours, and the tests hold them against these models."""
    return Response(orjson.dumps(content), status, DATA, "application/json")


def as_list(documents: list[bytes]) -> orjson.Fragment:
    """Of documents that are JSON already."""
    return orjson.Fragment(b"[" + b",".join(documents) + b"]")
