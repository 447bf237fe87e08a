"""The benchmark of the peers: how it reports its measurements, and that it runs (speed is not tested)."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("peers.table")


def measured(peer, quantity, seconds, **more):
    memory = {"import_bytes": 40e6, "input_bytes": 8e6, "peak_bytes": 60e6}
    said = {"status": "ok", "seconds": seconds, "first_seconds": seconds, "versions": {"numpy": "9.9"}}
    return {"peer": peer, "num": 10**6, "quantity": quantity, **said, **memory, **more}


def results(*rows):
    return {"python": "3.11", "machine": "a machine", "rows": list(rows)}


def line_of(peer, text):
    return next(line for line in text.splitlines() if line.startswith(f"| {peer} "))


def test_ratios_are_of_bucketlines_time(table):
    rows = [
        measured("bucketline", "build", 0.1),
        measured("bucketline", "start", 0.0005),
        measured("bucketline", "resume", 0.0004, first_seconds=0.006),
        measured("bucketline", "ids", 4e-4, ns_an_id=97.6),
        measured("novelai", "build", 3.0, peak_bytes=1.5e9),
        measured("novelai", "start", 0.25),
        measured("novelai", "resume", 1.0),
    ]
    text = table.table(results(*rows))
    assert (
        line_of("bucketline", text)
        == "| bucketline | yes | 100 ms | 500 µs | 1.00 | 400 µs (6.00 ms) | 1.00 | 98 ns | 60 MB (40 MB, 8 MB) |"
    )
    assert (
        line_of("novelai", text)
        == "| novelai | yes | 3.00 s | 250 ms | 500 | 1.00 s | 2,500 |  | 1,500 MB (40 MB, 8 MB) |"
    )
    assert "- **novelai** (numpy 9.9): " in text


def test_what_was_not_measured_says_why(table):
    skipped = {"peer": "grain", "num": 10**6, "status": "skipped", "reason": "grain is not installed"}
    late = {"peer": "lhotse", "num": 10**6, "quantity": "resume", "status": "limit", "reason": "> 60 s"}
    rows = [
        *({**skipped, "quantity": quantity} for quantity in ("build", "start", "resume")),
        measured("lhotse", "build", 1.0),
        measured("lhotse", "start", 1.0),
        late,
    ]
    text = table.table(results(*rows))
    assert line_of("grain", text) == "| grain | no | grain is not installed |  |  |  |  |  |  |"
    assert line_of("lhotse", text).startswith("| lhotse | yes | 1.00 s | 1.00 s |  | > 60 s |  |  |")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0123456, "12.3 ms"),
        (1234.5, "1,234 s"),
        (9.4e-5, "94.0 µs"),
        (3e-8, "30.0 ns"),
    ],
)
def test_times_are_said_in_the_unit_that_fits(table, seconds, said):
    assert table.time_text(seconds) == said


@pytest.mark.exhaustive
def test_a_run_measures_each_quantity_in_a_process_of_its_own(tmp_path):
    out = tmp_path / "results.json"
    command = [sys.executable, BENCHMARKS / "peers.py", "--sizes", "1e4", "--peers", "bucketline,novelai"]
    done = subprocess.run([*command, "--out", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row.get("reason") for row in rows] == [None] * 7
    assert [row["quantity"] for row in rows] == [
        "build",
        "start",
        "resume",
        "ids",
        "build",
        "start",
        "resume",
    ]
    assert all(0 < row["import_bytes"] <= row["peak_bytes"] for row in rows)
    assert "### 10,000 images" in done.stdout


@pytest.mark.exhaustive
def test_what_takes_too_long_is_ended_and_said_so(tmp_path):
    command = [sys.executable, BENCHMARKS / "peers.py", "--sizes", "1e4", "--peers", "novelai"]
    done = subprocess.run([*command, "--limit", "0.01"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| novelai | yes | > 0.01 s" in done.stdout
