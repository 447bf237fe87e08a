"""Commands as users give them: in this process, which is quicker, or on a terminal."""

from __future__ import annotations

import fcntl
import functools
import io
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest
import typer

from bucketline_service import cli
from tests import warm

DEADLINE_S = 60.0
HOME = "\x1b[H"
"""Where a frame begins."""


def run_here(*arguments: str, **environ: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error, neither a terminal; of BUCKETLINE_… only what is given."""
    stdin, out, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(3))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.setattr(sys, "stdin", stdin)
        for name in [*os.environ]:
            if name.startswith("BUCKETLINE_"):
                patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            _command().main(list(arguments), prog_name="bucketline")
    for stream in (out, errors):
        stream.flush()
    return int(ended.value.code or 0), out.buffer.getvalue().decode(), errors.buffer.getvalue().decode()


@functools.cache
def _command() -> Any:
    """All of ``bucketline``. To build it takes longer than to run most of its commands."""
    return typer.main.get_command(cli.app)


class Terminal:
    """A process whose standard streams are a terminal of so many rows and columns."""

    def __init__(self, *command: str, rows: int = 24, columns: int = 80, **environ: str) -> None:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("BUCKETLINE_")
            and name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
        }
        environ = {**clean, "TERM": "xterm-256color", **environ}
        self._fd, theirs = pty.openpty()
        self._set_size(rows, columns)
        self._process = warm.Popen(
            [sys.executable, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environ,
            start_new_session=True,
        )
        os.close(theirs)
        self.said = ""

    def _set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        self._set_size(rows, columns)
        self._process.send_signal(
            signal.SIGWINCH
        )  # it is not the session's own terminal, where the kernel would

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def until(self, *words: str) -> None:
        self._read(lambda: all(word in self.said for word in words))

    def frame(self, *words: str, without: str = "\0") -> list[str]:
        """The lines of the next whole frame that has all these words, without colours."""
        begin = len(self.said)
        found: list[str] = []

        def is_there() -> bool:
            whole = map(plain, self.said[begin:].split(HOME)[1:-1])
            found[:] = [each for each in whole if all(word in each for word in words) and without not in each]
            return bool(found)

        self._read(is_there)
        return [line.rstrip() for line in found[0].split("\n")]

    def _read(self, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not is_there():
            assert time.monotonic() < deadline, self.said[-3000:]
            some = self._some()
            assert some, f"ended: {self.said[-3000:]}"
            self.said += some

    def end(self, number: signal.Signals | None = None) -> int:
        """The exit status of a process that ends by itself, or of a signal."""
        if number is not None:
            self._process.send_signal(number)
        while some := self._some():
            self.said += some
        return self._process.wait(DEADLINE_S)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.end(signal.SIGKILL)
        os.close(self._fd)

    def _some(self) -> str:
        """Empty once nobody can write any more."""
        if not select.select([self._fd], [], [], DEADLINE_S)[0]:
            raise AssertionError(f"silent: {self.said[-3000:]}")
        try:
            return os.read(self._fd, 65536).decode(errors="replace")
        except OSError:  # as Linux tells it
            return ""


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "")
