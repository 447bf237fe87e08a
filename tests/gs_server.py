"""A real server of Google's storage protocol, in a separate process, with its buckets in memory."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys

from pyarrow import fs

_START = """
import sys
from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", 0, in_memory=True)
server.start()
print(server._api._httpd.server_address[1], flush=True)
sys.stdin.read()
"""


class GsServer:
    """On a free port; it ends with the process that started it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert re.fullmatch(r"\d+\n", line), line
        self._place = f"127.0.0.1:{int(line)}"
        self._buckets = itertools.count()

    def new_root(self) -> str:
        """The URI of a prefix in a new bucket."""
        bucket = f"bucket-{next(self._buckets)}"
        options = {"anonymous": True, "scheme": "http", "endpoint_override": self._place, "project_id": "p"}
        fs.GcsFileSystem(**options).create_dir(bucket)
        return f"gs://anonymous@{bucket}/maps?endpoint_override={self._place}&scheme=http"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
