"""The shell examples of a document, run as a reader would run them, but on free ports."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

from tests.redis_server import find_server

ROOT = Path(__file__).parents[1]
PATIENCE = 100_000
"""Looks at a port that a process on its way out still listens on, some 10 µs each."""


class Document:
    """A Markdown file, or several, and their fenced examples."""

    def __init__(self, *files: Path) -> None:
        self.text = "\n".join(file.read_text() for file in files)
        self._blocks = re.findall(r"^```(\w+)\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)

    def blocks(self, language: str) -> list[str]:
        return [text for kind, text in self._blocks if kind == language]

    def block(self, language: str, holding: str) -> str:
        """The one example of a language that holds a text."""
        (found,) = (text for kind, text in self._blocks if kind == language and holding in text)
        return found


class Shell:
    """Runs shell examples in a folder, one after the other, and ends what they leave running. ``redis``: they call
    redis-server."""

    def __init__(self, folder: Path, redis: bool = False) -> None:
        self.folder = folder
        self.port, self.redis_port = _free_port(), _free_port()
        tools = folder / "tools"
        tools.mkdir()
        if redis:
            (tools / "redis-server").symlink_to(find_server())
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BUCKETLINE_")},
            "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            # a user whose server listens elsewhere sets these; the examples name the defaults
            "BUCKETLINE_PORT": str(self.port),
            "BUCKETLINE_URL": self.url,
        }
        self._sessions: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def with_ports(self, text: str) -> str:
        return (
            text.replace(":7700", f":{self.port}")
            .replace(":6379", f":{self.redis_port}")
            .replace("redis-server ", f"redis-server --port {self.redis_port} ")
        )

    def start(self, text: str, out: IO[str] | int) -> subprocess.Popen[str]:
        """Its process, which writes to ``out`` what it prints, errors and all."""
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", self.with_ports(text)],
            cwd=self.folder,
            env=self._environ,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._sessions.append(process.pid)
        return process

    def run(self, text: str) -> list[str]:
        """The lines that it prints; it fails where any command does."""
        out = self.folder / "out"
        with out.open("w") as file:
            status = self.start(text, file).wait()
        assert status == 0, out.read_text()
        return out.read_text().splitlines()

    def end(self) -> None:
        """End what still runs, and wait until its ports are free."""
        for pid in self._sessions:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)
        self._sessions.clear()
        for port in (self.port, self.redis_port):
            for _ in range(PATIENCE):
                if not _listens(port):
                    break
            else:
                raise AssertionError(f"port {port} is still served")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
