"""The answer to a successful write is lost: repeated, it changes nothing more."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from bucketline_service.store import Begun, Cursor, NewReport, Outcome, Place, Store, open_store
from bucketline_service.store.redis import keys
from tests.redis_server import RedisServer
from tests.redis_sets import ClusterSet, ask, slot_of, until
from tests.store.jobs import FIRST, START, Job

pytestmark = pytest.mark.anyio


class LossyRoad:
    """Forwards connections to Redis; told to, hangs up in place of the next answer."""

    def __init__(self, to_port: int) -> None:
        self.to_port = to_port
        self.num_to_lose = 0
        self.num_lost = 0

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self.to_port)
        asking = asyncio.ensure_future(self.forward_requests(reader, to_redis))
        while answer := await from_redis.read(1 << 16):
            if self.num_to_lose:
                self.num_to_lose -= 1
                self.num_lost += 1
                break
            writer.write(answer)
        writer.close()
        await asking

    async def forward_requests(self, reader: asyncio.StreamReader, to_redis: asyncio.StreamWriter) -> None:
        while request := await reader.read(1 << 16):
            to_redis.write(request)
        to_redis.close()


@pytest.fixture
async def road(redis_server: RedisServer) -> AsyncIterator[LossyRoad]:
    return LossyRoad(redis_server.port)


@pytest.fixture
async def store(road: LossyRoad) -> AsyncIterator[Store]:
    server = await asyncio.start_server(road.connect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = open_store(f"redis://127.0.0.1:{port}/0", timeout_s=30.0)
    # Connected, and every script known: what is lost is the answer to the verb itself.
    warm = await Job.create(store, uuid.uuid4().hex)
    await warm.commit((await warm.lease()).lease)
    await warm.begin()
    yield store
    await store.close()
    server.close()


async def test_a_commit(road: LossyRoad, store: Store, name: str) -> None:
    job = await Job.create(store, name)
    lease = (await job.lease()).lease
    road.num_to_lose = 2
    commit = await job.commit(lease, Cursor(0, 1), not_before=START)
    assert (commit.outcome, commit.cursor, road.num_lost) == (Outcome.OK, Cursor(0, 1), 2)


async def test_a_lease(road: LossyRoad, store: Store, name: str) -> None:
    job = await Job.create(store, name)
    await job.lease(holder="a")
    road.num_to_lose = 1
    second = await job.lease(holder="b", tick=7)
    assert road.num_lost == 1
    assert second == await job.record()


async def test_an_adoption(road: LossyRoad, store: Store, name: str) -> None:
    """Done once, seen as a lease like any other when asked again."""
    job = await Job.create(store, name)
    road.num_to_lose = 1
    commit = await job.commit(1 << 20, Cursor(0, 1), trusted=True)
    assert (commit.outcome, commit.cursor, road.num_lost) == (Outcome.OK, Cursor(0, 1), 1)


async def test_a_report_counts_once(road: LossyRoad, store: Store, name: str) -> None:
    job = await Job.create(store, name)
    reports = [NewReport("a", "missing"), NewReport("b", "missing")]
    await store.report(name, Place(0, 0, 0), reports, 1, 1.0)  # the script is known
    road.num_to_lose = 1
    await store.report(job.run, Place(0, 1, 0), reports, 1, 1.0)
    found = await store.reports(name, 0, 10)
    assert road.num_lost == 1
    assert ([each.count for each in found.reports], found.num_not_kept) == ([2], 2)


async def test_a_begin_tells_by_its_generation(road: LossyRoad, store: Store, name: str) -> None:
    """``begun`` is False then, as for a caller that asks twice; session and number say whose it is."""
    job = await Job.create(store, name)
    road.num_to_lose = 1
    begun = await job.begin(2, session="mine")
    assert (begun.begun, begun.generation.session, road.num_lost) == (False, "mine", 1)
    assert begun == Begun(False, (await store.read_run(name)).generation)


async def test_a_created_run(road: LossyRoad, store: Store, name: str) -> None:
    await store.announce_run(name, FIRST.birth, [], 0.0)
    road.num_to_lose = 1
    record, made = await store.create_run(name, b"mine", FIRST, announced=True)
    assert (record.document, made, road.num_lost) == (b"mine", False, 1)
    assert name in await store.list_runs()


async def test_an_announced_run(road: LossyRoad, store: Store, name: str) -> None:
    road.num_to_lose = 2
    assert await store.announce_run(name, FIRST.birth, ["a-map"], 0.0) == []
    _, made = await store.create_run(name, b"mine", FIRST, announced=True)
    assert (made, road.num_lost) == (True, 2)


async def test_on_a_cluster(own_cluster_set: ClusterSet, name: str) -> None:
    """Its client retries by itself."""
    servers = own_cluster_set
    node = servers.node_of(keys.generation(name))
    road = LossyRoad(node.port)
    server = await asyncio.start_server(road.connect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ask(node, "CONFIG", "SET", "cluster-announce-port", port)
    slot = slot_of(keys.generation(name))
    until("all send there", lambda: {servers.owner(each, slot) for each in servers.nodes} == {port})
    store = open_store(servers.url, timeout_s=30.0)
    job = await Job.create(store, name)
    lease = (await job.lease()).lease
    await job.commit(lease)

    road.num_to_lose = 1
    commit = await job.commit(lease, Cursor(0, 1), not_before=START)
    assert (commit.outcome, commit.cursor, road.num_lost) == (Outcome.OK, Cursor(0, 1), 1)
    road.num_to_lose = 1
    second = await job.lease(holder="b", tick=7)
    assert road.num_lost == 2
    assert second == await job.record()
    road.num_to_lose = 1
    begun = await job.begin(2, session="mine")
    assert (begun.generation.number, begun.generation.session, road.num_lost) == (2, "mine", 3)
    await store.close()
    server.close()
