"""What an operator should hear of: one line in the log each, with a name and fields.

Fields are numbers and names. No token, header or body belongs into one.
"""

from __future__ import annotations

import logging
from typing import Any

_log = logging.getLogger("bucketline")


def emit(event: str, *, level: int = logging.WARNING, **fields: Any) -> None:
    """``fields`` stand beside ``event`` in the line's JSON object; they may not be named as what every record has."""
    _log.log(level, event, extra={"event": event, **fields})
