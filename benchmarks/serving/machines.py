"""The processes under test, each on the core that it is given, and what they used."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Machine:
    """A process that listens on ``port``."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """User and system time since it began."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def rss_bytes(self) -> int:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024


@contextmanager
def redis(core: int) -> Iterator[Machine]:
    """Every acknowledged command is on disk before it is answered, as far as the disk tells the truth."""
    folder = tempfile.mkdtemp(prefix="bucketline-serving-")
    path = shutil.which("redis-server") or shutil.which("valkey-server")
    assert path, "redis-server or valkey-server is needed"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "dir": folder,
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
    }
    flags = [flag for name, value in options.items() for flag in (f"--{name}", str(value))]
    process = subprocess.Popen([path, *flags], stdout=subprocess.PIPE, text=True)
    try:
        os.sched_setaffinity(process.pid, {core})
        assert process.stdout is not None
        for line in process.stdout:
            if "Ready to accept connections" in line:
                break
        yield Machine(port, process.pid)
    finally:
        process.terminate()
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def python(core: int, *arguments: str, **environ: str) -> Iterator[Machine]:
    """A Python process that says on its first line where it listens."""
    command = [sys.executable, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environ})
    try:
        os.sched_setaffinity(process.pid, {core})
        assert process.stdout is not None
        found = LISTENING.search(process.stdout.readline())
        assert found, "it did not start"
        yield Machine(int(found[1]), process.pid)
    finally:
        process.terminate()
        process.communicate()
