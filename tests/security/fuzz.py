"""schemathesis against ``bucketline serve``: every operation with what its schema allows and with what it does not,
and chains of calls. ``make fuzz`` runs it for long, ``test_openapi`` briefly and always the same."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.server import COCO, ServerProcess

HOOKS = Path(__file__).with_name("hooks.py")
CONFIG = Path(__file__).with_name("schemathesis.toml")
TOKENS = {"BUCKETLINE_WORKER_TOKEN": "worker-token-1", "BUCKETLINE_OPERATOR_TOKEN": "operator-token-1"}
# A spec may be valid by its schema and yet not be met: fields that exclude each other, a map that is not there.
NOT_ASKED = "positive_data_acceptance"


def fuzz(
    server: ServerProcess, token: str | None, *flags: str, num_examples: int
) -> subprocess.CompletedProcess[str]:
    """One run of schemathesis with that token; its report is on standard output."""
    authorization = ["-H", f"Authorization: Bearer {token}"] if token else []
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
        *("run", f"{server.url}/openapi.json", *authorization),
        *("--checks", "all", "--exclude-checks", NOT_ASKED, "-n", str(num_examples), "--no-color", *flags),
    ]
    # in its own folder: it keeps what it has found
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, **TOKENS, "SCHEMATHESIS_HOOKS": str(HOOKS)}
        return subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False)


def start(folder: Path) -> ServerProcess:
    """A coordinator with tokens, a map that it reads files under, map ``coco`` and run ``run``."""
    sources = folder / "sources"
    sources.mkdir()
    (sources / "coco.csv").write_bytes(COCO.read_bytes())
    server = ServerProcess(folder / "data", "--map-source", str(sources), environ=TOKENS)
    api = server.api(TOKENS["BUCKETLINE_OPERATOR_TOKEN"])
    api.put_csv("coco", COCO.read_bytes(), 201)
    api.put("/v1/runs/run", {"map": "coco", "world_size": 4, "batch_size": 8}, 201)
    return server


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=300, help="of each operation")
    arguments, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        server = start(Path(folder))
        try:
            failed = 0
            for token in (*TOKENS.values(), None):
                done = fuzz(server, token, *flags, num_examples=arguments.examples)
                print(done.stdout, done.stderr, sep="\n", flush=True)
                failed |= done.returncode
            return failed
        finally:
            server.close()


if __name__ == "__main__":
    sys.exit(main())
