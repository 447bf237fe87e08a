"""A wrong byte in a file gives its sender an error, and never ends the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_no_damage_ends_the_process() -> None:
    """In a separate process, because a crash would end the other tests too."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.security.damage", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[:2000]
    told: dict[str, int] = json.loads(done.stdout)
    kinds = ("parquet", "arrow", "arrow_file")
    maps = {f"{kind} {end}" for kind in kinds for end in ("read", "refused")}
    assert told.keys() == {*maps, "table read", "table bad"}
    assert min(told.values()) > 5
