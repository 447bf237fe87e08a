"""The processes that read maps for this one, to be stopped and killed."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bucketline_service.maps import MapStore

ROW = b"id,width,height\n1,640,480\n"


def readers_of(parent: int) -> list[int]:
    """Process ids."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and _parent(folder) == parent and b"reader_process" in _command(folder):
                found.append(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def _parent(folder: Path) -> int:
    return int((folder / "stat").read_text().rpartition(")")[2].split()[1])


def _command(folder: Path) -> bytes:
    return (folder / "cmdline").read_bytes()


def told(pids: list[int]) -> list[int]:
    """Those of the stopped readers that have been given a map to read; returns when there is one."""
    inputs = {os.open(f"/proc/{pid}/fd/0", os.O_RDONLY): pid for pid in pids}
    waiting, given = list(inputs), []
    while waiting and not given:
        ready = select.select(waiting, [], [], 60)[0]
        assert ready, "no reader was given anything"
        given = [inputs[descriptor] for descriptor in ready if _num_bytes(descriptor)]
        waiting = [
            descriptor for descriptor in waiting if descriptor not in ready
        ]  # the end, of one that is to end
    for descriptor in inputs:
        os.close(descriptor)
    return given


def _num_bytes(descriptor: int) -> int:
    """That can be read from a pipe."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


@contextmanager
def stopped_readers(store: MapStore, file: Path) -> Iterator[list[int]]:
    """Whatever is read for this process while this holds is read by a process that has stopped."""
    file.write_bytes(ROW)
    store.put("before", file, "csv")  # so that there is one, idle, which the next map gets
    pids = readers_of(os.getpid())
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield pids
    finally:
        for pid in set(pids) & set(readers_of(os.getpid())):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
