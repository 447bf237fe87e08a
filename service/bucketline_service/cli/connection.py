"""Calls to the coordinator, which commands print the answers of."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from bucketline import Operator
from bucketline_service.cli.errors import errors
from bucketline_service.cli.output import Show, print_answer, warn
from bucketline_service.terminal import runs

TIMEOUT_S = 10.0


def connect(url: str, timeout_s: float | None = None) -> Operator:
    """Calls are retried for ``timeout_s`` while the coordinator does not answer; unless it is given, a person at the
    terminal sees why."""
    log = logging.getLogger("bucketline")
    log.handlers = [logging.NullHandler() if timeout_s else _Retries(logging.WARNING)]
    return Operator(url, timeout_s=timeout_s or TIMEOUT_S)


class _Retries(logging.Handler):
    """Shows the client's warnings about retries to a person. The last failure is reported as an error."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr.isatty():
            warn(record.getMessage())


def call(url: str, ask: Callable[[Operator], dict[str, Any]], as_json: bool, show: Show) -> None:
    """Print what ``ask`` returns."""
    with errors(), connect(url) as operator:
        print_answer(ask(operator), as_json, show)


def delete(url: str, kind: str, name: str, as_json: bool, do: Callable[[Operator], None]) -> None:
    def ask(operator: Operator) -> dict[str, Any]:
        do(operator)
        return {kind: name, "deleted": True}

    call(url, ask, as_json, runs.deleted)
