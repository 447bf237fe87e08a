"""The example on real photographs: killed in the middle, and resumed on another number of processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bucketline import Operator
from tests.client.coordinators import ROOT, Coordinator
from tests.torch.processes import DEADLINE_S, kill, lines_until

torch = pytest.importorskip("torch", reason="see make test-torch")
pytest.importorskip("skimage")
pytest.importorskip("PIL.Image")


def launch(
    url: str, photographs: Path, checkpoint: Path, num_ranks: int, num_epochs: int
) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BUCKETLINE_")}
    return subprocess.Popen(
        [
            *[sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"],
            *["examples/train_sdxl_buckets.py", str(photographs), "--checkpoint", str(checkpoint)],
            *["--epochs", str(num_epochs), "--url", url],
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**clean, "OMP_NUM_THREADS": "1"},
    )


def test_killed_and_resumed_on_three_processes(photographs: Path, tmp_path: Path) -> None:
    coordinator, checkpoint = Coordinator(tmp_path), tmp_path / "run.pt"
    num_images = len(list(photographs.iterdir()))
    (photographs / "caption, of one.txt").write_text("a photograph")
    try:
        first = launch(coordinator.url, photographs, checkpoint, 2, 1000)
        said = "".join(lines_until(first, lambda line: "step of" in line) for _ in range(3))
        said += kill(first)
        assert checkpoint.exists(), said
        at = torch.load(checkpoint, weights_only=False)["data"]
        assert at["step"] > 0

        second = launch(coordinator.url, photographs, checkpoint, 3, at["epoch"] + 2)
        out, _ = second.communicate(timeout=DEADLINE_S)
        assert second.returncode == 0, out
        place = {name: value for name, value in at.items() if name != "start"}  # each start has its own
        assert f"on 3 processes from {str({**place, 'world_size': 3})[:-1]}, 'start': " in out
        told = re.findall(r"epoch (\d+): (\d+) images once, (\d+) more often, (\d+) left out", out)
        assert [int(epoch) for epoch, *_ in told] == [at["epoch"], at["epoch"] + 1]
        with Operator(coordinator.url) as operator:
            declared = operator.stats("train-sdxl-buckets")["dropped"]
        resumed, whole = [[int(number) for number in numbers] for _, *numbers in told]
        assert whole == [num_images - declared, 0, declared]
        # of the epoch that was sharded again, too: at most what does not fill a last step of three ranks
        assert resumed[1] == 0
        assert resumed[0] + resumed[2] == num_images
        assert resumed[2] <= 2 * 2 + 1
    finally:
        coordinator.stop()
