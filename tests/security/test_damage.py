"""A wrong byte in a file gives its sender an error, and never ends the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm


@pytest.mark.parametrize("share", [pytest.param(1, marks=pytest.mark.exhaustive), 4])
def test_no_damage_ends_the_process(share: int) -> None:
    """In a separate process, because a crash would end the other tests too."""
    command = [sys.executable, "-m", "tests.security.damage", "4", str(share)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = warm.Popen(command, cwd=Path(__file__).parents[2], **streams)
    out, errors = process.communicate()
    assert process.returncode == 0, errors[:2000]
    told: dict[str, int] = json.loads(out)
    kinds = ("parquet", "arrow", "arrow_file")
    maps = {f"{kind} {end}" for kind in kinds for end in ("read", "refused")}
    assert told.keys() == {*maps, "table read", "table bad"}
    assert min(told.values()) > 5 / share
