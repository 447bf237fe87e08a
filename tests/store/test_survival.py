"""What was acknowledged is there after kill -9: of the writer, and of the Redis server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bucketline_service.store import Cursor, Store
from tests.redis_server import RedisServer
from tests.store.jobs import Job
from tests.store.threads import in_store

WRITER = Path(__file__).with_name("writer.py")
NUM_LINES = 100


def write_until(url: str, run: str, end: Callable[[subprocess.Popen[str]], None]) -> dict[int, int]:
    """Start a writer, ``end`` it in the middle; per rank the last step that it had an answer for."""
    in_store(url, lambda store: Job.create(store, run))
    writer = subprocess.Popen(
        [sys.executable, str(WRITER), "commit", url, run],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        lines = [writer.stdout.readline() for _ in range(NUM_LINES)]
        end(writer)
        lines += writer.stdout.readlines()  # not communicate(): that would lose what readline has buffered
        errors = writer.stderr.read()
    acknowledged = [line for line in lines if line.endswith("\n")]  # the last one may be cut off
    assert len(acknowledged) >= NUM_LINES, errors
    return {int(rank): int(step) for rank, step in (line.split() for line in acknowledged)}


def check(url: str, run: str, acknowledged: dict[int, int]) -> None:
    """Nothing acknowledged is missing, at most one commit in flight is there as well, and the run continues."""

    async def scenario(store: Store) -> None:
        job = Job(store, run)
        _, records = await store.ranks(run)
        assert len(acknowledged) == 4
        for record in records:
            step = acknowledged[record.rank]
            assert Cursor(0, step) <= record.cursor <= Cursor(0, step + 1)
            after = await job.commit(record.lease, Cursor(1, 0), rank=record.rank)
            assert after.cursor == Cursor(1, 0)

    in_store(url, scenario)


def test_a_killed_writer_loses_nothing(url: str, name: str) -> None:
    check(url, name, write_until(url, name, lambda writer: writer.kill()))


@pytest.mark.parametrize("num_kills", [1, pytest.param(3, marks=pytest.mark.exhaustive)])
def test_a_killed_redis_loses_nothing(own_redis_server: RedisServer, name: str, num_kills: int) -> None:
    for i in range(num_kills):
        run = f"{name}-{i}"
        acknowledged = write_until(own_redis_server.url, run, lambda _: own_redis_server.kill())
        own_redis_server.restart()
        check(own_redis_server.url, run, acknowledged)
