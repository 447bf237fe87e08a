"""``bucketline status``: whether the coordinator can serve."""

from __future__ import annotations

from bucketline_service.cli.connection import call
from bucketline_service.cli.options import LOCAL, AsJson, Url
from bucketline_service.terminal import status as text


def status(url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Show whether the coordinator can serve: its store, its maps, its version."""
    call(url, lambda operator: {**operator.status(), "url": operator.url}, as_json, text.show)
