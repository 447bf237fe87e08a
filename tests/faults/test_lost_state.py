"""The store forgets what it has acknowledged: an older append-only file is put back, or a replica that missed writes
takes over. Workers continue, the loss is reported, and nobody is served twice without notice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.faults.history import check, read
from tests.faults.small_job import (
    END,
    RUN,
    Job,
    job,
)
from tests.redis_server import RedisServer
from tests.redis_sets import SentinelSet, until
from tests.runs.test_failover import cut_off


class Loss(Protocol):
    """What is acknowledged after ``mark`` is gone after ``lose``."""

    url: str

    def mark(self) -> None: ...

    def lose(self) -> None: ...


class OlderFile:
    def __init__(self, server: RedisServer, copy: Path) -> None:
        self.url = server.url
        self._server, self._copy = server, copy
        self._folder = server.directory / "appendonlydir"

    def mark(self) -> None:
        self._server.pause()  # a copy that no write is in the midst of
        shutil.copytree(self._folder, self._copy)
        self._server.resume()

    def lose(self) -> None:
        self._server.kill()
        shutil.rmtree(self._folder)
        shutil.copytree(self._copy, self._folder)
        self._server.start()


class Failover:
    def __init__(self, servers: SentinelSet) -> None:
        self.url = servers.url
        self._servers = servers

    def mark(self) -> None:
        cut_off(self._servers)

    def lose(self) -> None:
        self._servers.master.kill()
        until("the replica is the master", lambda: self._servers.is_promoted)


@pytest.fixture
def older_file(own_redis_server: RedisServer, tmp_path: Path) -> OlderFile:
    return OlderFile(own_redis_server, tmp_path / "copy")


@pytest.fixture
def failover(own_sentinel_set: SentinelSet) -> Failover:
    return Failover(own_sentinel_set)


@pytest.fixture
def loss(request: pytest.FixtureRequest) -> Loss:
    found: Loss = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def ours(loss: Loss, tmp_path: Path) -> Iterator[Job]:
    with job(loss.url, tmp_path) as started:
        yield started


FAILOVER = pytest.param("failover", marks=pytest.mark.exhaustive)

either = pytest.mark.parametrize("loss", ["older_file", FAILOVER], indirect=True)
one = pytest.mark.parametrize("loss", ["older_file"], indirect=True)


@either
def test_the_workers_go_on_and_whoever_was_replaced_is_fenced(ours: Job, loss: Loss) -> None:
    ours.start(2, "begun", world_size=2, resume="start")
    old, peer = ours.worker(0, "old", 2), ours.worker(1, "peer", 2)
    for worker in (old, peer):
        worker.ask("train", 3)
    loss.mark()
    for worker in (old, peer):
        worker.ask("train", 3)
    old.pause()
    old.send("train", 3)
    new = ours.worker(0, "new", 2)
    new.ask("train", 4)

    loss.lose()
    ours.restored()
    assert ours.cursors() == [(0, 3), (0, 3)]
    assert ours.holders() == ["old", "peer"]
    for worker in (new, peer):
        worker.ask("train", 2)
    old.resume()
    assert "another holder" in old.answer()["fenced"]
    assert ours.cursors() == [(0, 12), (0, 8)]
    for worker in (new, peer):
        assert worker.ask("train") == END
    ours.finish(2)
    assert check(read(ours.log_dir)).violations == []
    assert check(read(ours.log_dir)).num_committed == 50
    assert ours.count("adoptions") == 1
    (lost,) = ours.end("store_lost_state")
    assert (lost["run"], lost["rank"]) == (RUN, 0)


@one
def test_a_replaced_worker_that_is_served_before_it_is_noticed(ours: Job, loss: Loss) -> None:
    """No store that has forgotten a lease can tell. It is the next request of the lease's holder that tells it."""
    old, peer = ours.worker(0, "old"), ours.worker(1, "peer")
    for worker in (old, peer):
        worker.ask("train", 3)
    loss.mark()
    old.pause()
    old.send("train", 2)
    new = ours.worker(0, "new")
    new.ask("train", 4)

    loss.lose()
    ours.restored()
    old.resume()
    assert old.answer()["done"] == [0, 5]
    assert ours.count("adoptions") == 0
    new.ask("train", 1)
    assert ours.count("adoptions") == 1
    old.send("train", 1)
    assert "fenced" in old.answer()
    for worker in (new, peer):
        assert worker.ask("train") == END
    ours.finish()
    assert [violation.kind for violation in check(read(ours.log_dir)).violations] == ["zombie_commit"]
    assert len(ours.end("store_lost_state")) == 1


@one
def test_a_start_of_the_job_that_is_lost(ours: Job, loss: Loss) -> None:
    """Its workers cannot continue: the store does not know how it sharded the epoch. Their checkpoint does."""
    for rank in range(2):
        ours.worker(rank, f"first-{rank}").ask("train", 3)
    loss.mark()
    ours.start(2, "second", world_size=2, resume="cursor")
    zombie, peer = ours.worker(0, "zombie", 2), ours.worker(1, "second-1", 2)
    for worker in (zombie, peer):
        worker.ask("train", 5)
    state = peer.ask("save")
    for worker in (zombie, peer):
        worker.ask("train", 2)
    zombie.pause()
    zombie.send("train", 3)

    loss.lose()
    ours.restored()
    peer.send("train", 1)
    assert "the checkpoint" in peer.answer()["fenced"]
    # the third start has the second one's number, and deals what is left to another number of ranks
    assert ours.start(3, "third", world_size=1, resume=state)["generation"] == 2
    zombie.resume()
    assert "the checkpoint" in zombie.answer()["fenced"]
    assert ours.cursors() == [(0, 8)]
    last = ours.worker(0, "last", 3)
    assert last.ask("train") == [0, 42]
    ours.finish(3)
    assert check(read(ours.log_dir)).violations == []
    assert check(read(ours.log_dir)).num_committed == 50
    assert ours.count("adoptions") == 0
    told = [(event["rank"], event["generation"]) for event in ours.end("store_lost_state")]
    assert told == [(1, 2), (0, 2)]
