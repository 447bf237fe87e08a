"""The same scan over a real Ray, of one node. Where Ray is not installed this is skipped."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.server import run_command

from .images import image, put, read_map
from .test_resume import many
from .test_shards import SAMPLES, tar

pytest.importorskip("ray")


def test_a_ray_cluster_finds_the_same(folder: Path, output: Path) -> None:
    many(folder, 5000)
    put(folder, "bad.jpg", b"x")
    put(folder, "turned.png", image(40, 30, "PNG", orientation=6))
    put(folder, "a.tar", tar(SAMPLES))
    put(folder, "b.tar", tar({"b.jpg": b"x", "c.jpg": image(8, 9)}))
    other = output.with_name("other.parquet")
    arguments = ["scan", str(folder), "-o"]
    status, out, errors = run_command(*arguments, str(output), "--engine", "ray", "--json")
    assert (status, errors, json.loads(out)["num_opened"]) == (3, "", 5004)
    assert run_command(*arguments, str(other))[0] == 3
    assert output.read_bytes() == other.read_bytes()
    bad = [path.with_name(f"{path.name}.bad.jsonl").read_text() for path in (output, other)]
    assert bad[0] == bad[1]
    assert len(bad[0].splitlines()) == 2
    assert read_map(output)["turned.png"] == (30, 40)
    again = run_command(*arguments, str(output), "--engine", "ray", "--json")[1]
    assert json.loads(again)["num_opened"] == 0


def test_a_cluster_that_does_not_answer(folder: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "a.jpg")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens not
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        status, _, errors = run_command("scan", str(folder), "-o", str(output), "--engine", "ray")
    assert (status, errors.count("\n")) == (1, 1)
    assert f"RAY_ADDRESS: nothing responds at {address}" in errors
    assert not output.exists()
