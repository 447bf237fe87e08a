"""A full disk under the store, maps and plans: requests are refused, nothing is lost, and it continues once there is
space."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.history import check, read
from tests.faults.small_disk import SmallDisk, files, small_disk
from tests.faults.small_job import (
    END,
    RUN,
    Job,
    job,
)
from tests.redis_sets import until

LARGE = "id,width,height\n" + "".join(f"{i},512,512\n" for i in range(20_000))
"""A map of 0.3 MB on its way in, as much again while it is checked, and as much where it is kept; a plan of 80 kB."""

ACK = {"epoch": 0, "step": 3}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "4m") as disk:
        yield disk


@pytest.fixture
def all_on_it(disk: SmallDisk, tmp_path: Path) -> Iterator[Job]:
    """Its SQLite file as well, as is the default."""
    with job(None, tmp_path, disk.root / "data") as started:
        yield started


@pytest.fixture(scope="module")
def maps_on_it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Job, SmallDisk]]:
    """The SQLite file is elsewhere, so that acks have room."""
    folder = tmp_path_factory.mktemp("maps")
    store = f"sqlite:///{folder / 'state.sqlite'}"
    with small_disk(folder / "disk", "4m") as disk, job(store, folder, disk.root / "data") as started:
        yield started, disk


def test_no_room_for_an_ack(all_on_it: Job, disk: SmallDisk) -> None:
    job = all_on_it
    workers = [job.worker(rank, f"worker-{rank}") for rank in range(2)]
    for worker in workers:
        worker.ask("train", 3)
    lease = {"lease": job.lease_of(0, "worker-0")}
    disk.fill()
    for worker in workers:
        worker.send("train", 2)
    until("both have been refused", lambda: job.num_store_errors >= 2)

    assert job.api.next(RUN, 0, ack=ACK, status=503, **lease)["code"] == "store_unavailable"
    assert job.api.get("/readyz", 503)["code"] == "store_unavailable"
    assert job.api.get(f"/v1/runs/{RUN}/batches", rank=0, **ACK)["batches"]
    assert job.cursors() == [(0, 3), (0, 3)]
    job.server.kill()
    job.server.start()
    assert job.api.next(RUN, 0, ack=ACK, status=503, **lease)["code"] == "store_unavailable"
    assert job.cursors() == [(0, 3), (0, 3)]

    disk.free()
    for worker in workers:
        assert worker.answer() == {"done": [0, 5]}
        assert worker.ask("train") == END
    job.finish()
    assert check(read(job.log_dir)).violations == []
    assert job.end("store_unavailable")
    with closing(sqlite3.connect(disk.root / "data" / "state.sqlite")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def names(job: Job, kind: str) -> list[str]:
    return [each[kind] for each in job.api.get(f"/v1/{kind}s")[f"{kind}s"]]


def test_no_room_for_a_map(maps_on_it: tuple[Job, SmallDisk]) -> None:
    """Wherever the space runs out: while the body arrives, while it is checked, or where it is stored."""
    job, disk = maps_on_it
    before = files(disk.root), names(job, "map")
    for leave_bytes in (700_000, 400_000, 100_000, 0):
        disk.fill(leave_bytes)
        problem = job.api.put_csv("large", LARGE, 503)
        assert (problem["code"], "No space left" in problem["detail"]) == ("store_unavailable", True)
        assert (files(disk.root), names(job, "map")) == before
        disk.free()
    disk.fill()
    worker = job.worker(0, "during-maps")
    worker.ask("train", 3)
    disk.free()
    job.api.put_csv("large", LARGE, 201)
    assert job.api.get("/v1/maps/large")["num_images"] == 20_000
    worker.ask("train", 3)


def test_no_room_for_a_plan(maps_on_it: tuple[Job, SmallDisk]) -> None:
    job, disk = maps_on_it
    job.api.put_csv("large", LARGE)
    spec = {"map": "large", "world_size": 2, "batch_size": 4}
    before = files(disk.root), names(job, "run")
    for leave_bytes in (60_000, 0):
        disk.fill(leave_bytes)
        problem = job.api.put("/v1/runs/large", spec, 503)
        assert (problem["code"], "No space left" in problem["detail"]) == ("store_unavailable", True)
        assert (files(disk.root), names(job, "run")) == before
        disk.free()
    disk.fill()
    job.worker(1, "during-plans").ask("train", 3)
    disk.free()
    job.api.put("/v1/runs/large", spec, 201)
    lease = job.api.lease("large", 0)["lease"]
    assert job.api.ack("large", 0, lease, 0, 0)["cursor"] == {"epoch": 0, "step": 1}
