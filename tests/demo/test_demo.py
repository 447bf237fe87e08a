"""``bucketline demo`` as a user runs it: real processes, one of them killed."""

from __future__ import annotations

import subprocess
import sys


def test_the_demo_shows_its_proof_and_exits_with_0() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bucketline", "demo"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rank 2 came back at step" in done.stdout
    for line in (
        "4992 images served once",
        "0 images served twice",
        "8 images left out, 8 planned",
        "0 of 156 steps of mixed shape",
        "0 ranks with a gap",
        "the proof holds",
    ):
        assert line in done.stdout
    assert "\x1b[" not in done.stdout  # no colours where it is piped
