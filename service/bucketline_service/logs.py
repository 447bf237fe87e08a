"""Structured logs: one JSON object a line, on standard error."""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter


def configure(level: str) -> None:
    """For this process, uvicorn's loggers included. Requests are logged at debug, as ``bucketline.access``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # our own line says the same and more
    logging.getLogger("uvicorn.access").disabled = True
    if level != "debug":
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
