"""Structured logs: one JSON object a line, on standard error, with ``time``, ``level``, ``logger``, ``message``, and
whatever fields a line was given as ``extra``."""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

_NO_FIELDS = [*RESERVED_ATTRS, "taskName", "color_message"]
"""Of a record: what logging itself puts there, and uvicorn's second copy of its message, for terminals."""


def configure(level: str) -> None:
    """For this process, uvicorn's loggers included. Requests are logged at debug, as ``bucketline.access``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # our own line says the same and more
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
