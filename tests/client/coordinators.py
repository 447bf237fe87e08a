"""A real coordinator in its own process, and a real proxy that misbehaves on purpose."""

from __future__ import annotations

import http.client
import http.server
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

from bucketline import Operator
from tests import warm

ROOT = Path(__file__).parents[2]
_numbers = itertools.count()
COCO = ROOT / "service" / "bucketline_service" / "data" / "coco-5k.csv"

PACKED = {
    "batch_size": None,
    "ladder": {"kind": "native", "max_pixels": 65536, "divisible": 16},
    "pack": {"max_tokens": 32768},
}
"""What ``put_run`` takes for a run of packs of about 150 images, and epochs of 16 steps."""


class Coordinator:
    """``bucketline serve`` with ``flags`` on a SQLite store under ``folder``, which replicas share; on a free port
    first, on the same one ever after."""

    def __init__(self, folder: Path, *flags: str, **environ: str) -> None:
        self.folder = folder
        self._flags = flags
        self._environ = environ
        self._scheme = "http"
        self._process: subprocess.Popen[str] | None = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Return when it listens: requests from now on wait for it to be ready."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("BUCKETLINE_")}
        command = [sys.executable, "-m", "bucketline", "serve", "--port", str(self._port)]
        with (self.folder / "coordinator.log").open("a") as log:
            self._process = warm.Popen(
                [*command, "--data-dir", str(self.folder / "data"), *self._flags],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**environ, **self._environ},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.match(r"bucketline: listening on (https?)://127\.0\.0\.1:(\d+)$", line)
        assert found, f"{line!r}\n{(self.folder / 'coordinator.log').read_text()}"
        self._scheme, self._port = found[1], int(found[2])

    def revive(self) -> None:
        """Start it again if it was killed."""
        if self._process is None:
            self.start()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.communicate()
        self._process = None


@dataclass(frozen=True)
class Canned:
    """An answer that does not come from a coordinator."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"<html><body>Bad gateway</body></html>"


LOSE = "lose"
"""Let the request take effect, and drop the answer."""


PASS = "pass"


class Proxy:
    """Passes requests on to ``target``, which may be nowhere. ``script`` says what to do instead for requests
    whose path contains the key, one after the other: a ``Canned`` answer, ``LOSE`` or ``PASS``. ``seen`` are
    the paths that were requested, ``authorizations`` the headers that came with them."""

    def __init__(self, target: str = "http://127.0.0.1:9") -> None:
        self.script: dict[str, list[Canned | str]] = {}
        self.seen: list[str] = []
        self.authorizations: list[str | None] = []
        self._lock = threading.Lock()
        self._target = urllib.parse.urlsplit(target).netloc
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.answer(self, body)

            do_GET = do_PUT = do_POST = do_DELETE = handle_one  # noqa: N815 - http.server's names

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        with self._lock:
            self.seen.append(handler.path)
            self.authorizations.append(handler.headers.get("Authorization"))
            wanted = [steps for part, steps in self.script.items() if part in handler.path and steps]
            step = wanted[0].pop(0) if wanted else None
        answer = step if isinstance(step, Canned) else self._forward(handler, body)
        if step == LOSE:
            handler.close_connection = True
            return
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        handler.wfile.write(answer.body)

    def _forward(self, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Canned:
        connection = http.client.HTTPConnection(self._target)
        try:
            connection.request(handler.command, handler.path, body, dict(handler.headers))
            response = connection.getresponse()
            kept = {
                name: value
                for name, value in response.getheaders()
                if name.lower() in ("content-type", "retry-after")
            }
            return Canned(response.status, kept, response.read())
        finally:
            connection.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def put_run(url: str, run: str, *, verify: Path | None = None, **spec: object) -> dict[str, object]:
    """A run over the shipped COCO map: 2 ranks, and epochs of about 19 steps unless ``spec`` says otherwise."""
    with Operator(url, verify=verify) as operator:
        if "coco" not in [each["map"] for each in operator.maps()]:
            operator.put_map("coco", COCO)
        return operator.put_run(run, {"map": "coco", "world_size": 2, "batch_size": 128, **spec})


def new_run(url: str, **spec: object) -> str:
    """The name of a new run, likewise."""
    name = f"run-{next(_numbers)}"
    put_run(url, name, **spec)
    return name
