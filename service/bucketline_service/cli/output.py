"""Prints answers as text or as JSON, and asks a person at the terminal."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import typer
from rich.console import Console

from bucketline_service.terminal.escapes import printable

PIPE_WIDTH = 240
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

Show = Callable[[Console, dict[str, Any]], None]


def print_answer(answer: dict[str, Any], as_json: bool, show: Show) -> None:
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        show(console(), printable(answer))
    sys.stdout.flush()  # a failed write is raised here, where it is reported like other errors


def console() -> Console:
    """Without markup: what is printed are the coordinator's words. A pipe has no width that text should fit."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=True)


def binary_stdout() -> BinaryIO:
    """Standard output for a file's bytes; on a terminal unprintable characters are escaped."""
    return cast(BinaryIO, _Terminal()) if sys.stdout.isatty() else sys.stdout.buffer


class _Terminal:
    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode

    def write(self, data: bytes) -> int:
        lines = self._decode(data).split("\n")
        sys.stdout.write("\n".join(printable(line.removesuffix("\r")) for line in lines))
        return len(data)


def warn(message: str) -> None:
    """Print a message to standard error, in one line."""
    print(f"bucketline: {printable(' '.join(message.split()))}", file=sys.stderr)


def is_interactive() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str) -> bool:
    """Ask a person. Ctrl-C ends the command with exit status 130."""
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        raise typer.Exit(INTERRUPTED) from None
