"""A data directory that is not writable: reported at the start, refused while serving, and used again once it is
writable."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.history import check, read
from tests.faults.permissions import obey_permissions
from tests.faults.small_disk import files
from tests.faults.small_job import (
    END,
    RUN,
    Job,
    job,
)
from tests.redis_sets import until
from tests.server import run_command
from tests.worlds import SMALL

ACK = {"epoch": 0, "step": 3}


def change_mode(folder: Path, mode: str) -> None:
    subprocess.run(["chmod", "-R", mode, str(folder)], check=True)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Job]:
    with job(None, tmp_path, before=obey_permissions) as started:
        yield started
        change_mode(tmp_path / "data", "u+w")


def refuse_all_that_is_new(job: Job, told: str) -> None:
    before = files(job.data_dir)
    for problem in (
        job.api.put_csv("large", SMALL, 503),
        job.api.put("/v1/runs/other", {"map": "small", "world_size": 2, "batch_size": 8}, 503),
    ):
        assert (problem["code"], told in problem["detail"]) == ("store_unavailable", True)
    assert files(job.data_dir) == before
    assert [each["map"] for each in job.api.get("/v1/maps")["maps"]] == ["small", "spare"]
    assert [each["run"] for each in job.api.get("/v1/runs")["runs"]] == [RUN]


def take_all_that_is_new(job: Job) -> None:
    job.api.put_csv("large", SMALL, 201)
    job.api.put("/v1/runs/other", {"map": "small", "world_size": 2, "batch_size": 8}, 201)


def test_it_does_not_start(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o555)
    status, out, errors = run_command(
        "serve", "--port", "0", "--data-dir", str(folder), before=obey_permissions
    )
    assert (status, out) == (1, "")
    assert errors == (
        f"bucketline: the data directory {folder} cannot be written: Permission denied. "
        "Give this user write permission, or choose another with --data-dir or BUCKETLINE_DATA_DIR\n"
    )


def test_permissions_that_are_taken_away(serving: Job) -> None:
    """Maps and plans are refused. The SQLite file is open, and still accepts acks."""
    serving.api.put_csv("spare", SMALL, 201)
    worker = serving.worker(0, "worker")
    worker.ask("train", 3)
    change_mode(serving.data_dir, "a-w")
    refuse_all_that_is_new(serving, "Permission denied")
    assert serving.api.ask("DELETE", "/v1/maps/spare", 503).json()["code"] == "store_unavailable"
    assert worker.ask("train") == END
    change_mode(serving.data_dir, "u+w")
    take_all_that_is_new(serving)
    serving.api.ask("DELETE", "/v1/maps/spare", 204)


@pytest.fixture
def freeze(tmp_path: Path) -> Iterator[Callable[[list[Path]], None]]:
    """Makes files and folders read-only, even for processes that have them open. ``freeze([])`` undoes it."""
    frozen: list[Path] = []

    def change(sign: str, paths: list[Path]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["chattr", sign, *map(str, paths)], capture_output=True, text=True)

    def begin(paths: list[Path]) -> None:
        if not paths:
            assert change("-i", frozen).returncode == 0
            frozen.clear()
            return
        done = change("+i", paths)
        frozen.extend(paths)
        if done.returncode:
            pytest.skip(f"files cannot be made immutable here: {done.stderr.strip()}")

    with (tmp_path / "probe").open("wb", buffering=0) as probe:
        begin([tmp_path / "probe"])
        try:
            probe.write(b"x")
        except PermissionError:
            refuses = True
        else:
            refuses = False
    begin([])
    if not refuses:
        pytest.skip("on this file system who has an immutable file open may write it")
    yield begin
    change("-i", frozen)


def test_a_store_that_becomes_read_only(serving: Job, freeze: Callable[[list[Path]], None]) -> None:
    """As where the kernel makes a file system read-only after an error: what is open cannot be written either."""
    serving.api.put_csv("spare", SMALL, 201)
    workers = [serving.worker(rank, f"worker-{rank}") for rank in range(2)]
    for worker in workers:
        worker.ask("train", 3)
    data, lease = serving.data_dir, serving.lease_of(0, "worker-0")
    folders = [data, data / "uploads", data / "plans", data / "maps" / "staging"]
    freeze([*folders, data / "state.sqlite", data / "state.sqlite-wal"])
    for worker in workers:
        worker.send("train", 2)
    until("both have been refused", lambda: serving.num_store_errors >= 2)

    assert serving.api.next(RUN, 0, lease, ack=ACK, status=503)["code"] == "store_unavailable"
    assert serving.api.get("/readyz", 503)["code"] == "store_unavailable"
    assert serving.api.get(f"/v1/runs/{RUN}/batches", rank=0, **ACK)["batches"]
    assert serving.cursors() == [(0, 3), (0, 3)]
    refuse_all_that_is_new(serving, "Operation not permitted")

    freeze([])
    for worker in workers:
        assert worker.answer() == {"done": [0, 5]}
        assert worker.ask("train") == END
    take_all_that_is_new(serving)
    serving.finish()
    assert check(read(serving.log_dir)).violations == []
