"""The commands of docs/how-to/backup.md run beside an active coordinator, and restore it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from bucketline import BucketClient, Operator
from tests.server import COCO, ServerProcess

TEXT = (Path(__file__).parents[1] / "docs" / "how-to" / "backup.md").read_text()
SPEC = {"map": "coco", "world_size": 1, "batch_size": 8}


def run_block(holding: str, folder: Path) -> None:
    (code,) = (
        text
        for text in re.findall(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
        if holding in text
    )
    subprocess.run(["bash", "-euo", "pipefail", "-c", code], cwd=folder, check=True)


@pytest.mark.exhaustive
def test_a_backup_of_sqlite_is_put_back_and_a_checkpoint_made_after_it_goes_on_exactly(
    tmp_path: Path,
) -> None:
    server = ServerProcess(tmp_path / "bucketline-data")
    try:
        with Operator(server.url) as operator:
            operator.put_map("coco", COCO)
            operator.put_run("run", SPEC)
        with BucketClient(server.url, run="run") as client:
            for _ in range(3):
                client.ack(0, client.next_batch(0))
            client.flush()
            run_block("state.backup'", tmp_path)
            for _ in range(4):
                client.ack(0, client.next_batch(0))
            client.flush()
            checkpoint = client.state_dict(0)
            expected = client.next_batch(0)
    finally:
        server.close()
    assert checkpoint["step"] == 7

    run_block("mkdir restored", tmp_path)
    restored = ServerProcess(tmp_path / "restored")
    try:
        with Operator(restored.url) as operator:
            assert operator.put_run("run", SPEC)["state"]["step"] == 3  # there, and as old as the backup
        with BucketClient(restored.url, run="run", session="after the restore") as client:
            client.load_state_dict(checkpoint)
            assert client.next_batch(0) == expected
    finally:
        restored.close()
