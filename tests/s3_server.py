"""A real S3 over HTTP: moto's server in a separate process, with its buckets in memory."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import urllib.request

KEY, SECRET = "testing-key", "testing-s3cret"

ENVIRON = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
}
"""With these pyarrow asks for no region, no machine's own role and no proxy."""
_START = "import sys; from moto.server import main; main(sys.argv[1:])"


class S3Server:
    """On a free port."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, "-H", "127.0.0.1", "-p", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdout is not None
        told = ""
        for line in self._process.stdout:
            told += line
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise AssertionError(told)
        # its log of requests goes nowhere, and must go there
        self._drain = subprocess.Popen(
            [sys.executable, "-c", "import sys\nfor _ in sys.stdin: pass"], stdin=self._process.stdout
        )
        self._process.stdout.close()
        self._buckets = itertools.count()

    def new_root(self) -> str:
        """The URI of a prefix in a new bucket."""
        return self.uri(self.make(f"bucket-{next(self._buckets)}"))

    def uri(self, bucket: str) -> str:
        return f"s3://{bucket}/maps?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def make(self, bucket: str) -> str:
        url = f"http://127.0.0.1:{self.port}/{bucket}"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()
        return bucket

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._drain.wait()
