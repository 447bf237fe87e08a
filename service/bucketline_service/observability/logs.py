"""Structured logs: one JSON object per line on standard error, with ``time``, ``level``, ``logger``, ``message`` and
the fields passed as ``extra``."""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

_NO_FIELDS = [*RESERVED_ATTRS, "taskName", "color_message"]
"""Attributes of a record that are not fields: those of logging itself, and uvicorn's coloured copy of its message."""


def configure(level: str) -> None:
    """Configure this process' logging, including uvicorn's. Requests are logged at debug, by ``bucketline.access``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # our own line contains the same and more
    logging.getLogger("uvicorn.access").disabled = True
    if level != "debug":
        logging.getLogger("uvicorn").setLevel(logging.WARNING)


def formatter() -> logging.Formatter:
    return JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        reserved_attrs=_NO_FIELDS,
    )
