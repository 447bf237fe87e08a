"""Processes started by torchrun, for tests that kill all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

DEADLINE_S = 120


def family(pid: int) -> list[int]:
    """A process and all that it has started: torchrun's have no separate process group."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def kill(process: subprocess.Popen[str]) -> str:
    """It and its family at once, without a word; what it had printed that nobody has read."""
    for pid in family(process.pid):
        os.kill(pid, signal.SIGKILL)
    assert process.stdout is not None
    with process.stdout:
        rest = process.stdout.read()  # communicate() knows nothing of what readline() has read ahead
    process.wait()
    return rest


def lines_until(process: subprocess.Popen[str], is_last: Callable[[str], bool]) -> str:
    """What it prints until such a line, and that; all that it printed where it ends before, or the deadline."""
    assert process.stdout is not None
    deadline_s = time.monotonic() + DEADLINE_S
    said = ""
    while time.monotonic() < deadline_s and (line := process.stdout.readline()):
        said += line
        if is_last(line):
            break
    return said
