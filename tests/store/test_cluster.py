"""What only a cluster has: a node that dies, slots that move."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest
import redis

from bucketline_service.errors import StoreUnavailable
from bucketline_service.store import Cursor, Outcome, Store, open_store
from bucketline_service.store.redis import keys
from tests.redis_server import RedisServer
from tests.redis_sets import ClusterSet, ask, slot_of, until
from tests.store.jobs import Job, answered
from tests.store.test_runs import UNKNOWN

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(own_cluster_set: ClusterSet) -> AsyncIterator[Store]:
    store = open_store(own_cluster_set.url, timeout_s=30.0)
    yield store
    await store.close()


def run_on(servers: ClusterSet, node: RedisServer) -> str:
    """The name of a run whose keys are that node's."""
    names = (f"run-{number}" for number in itertools.count())
    return next(name for name in names if servers.node_of(keys.generation(name)) is node)


async def test_a_dead_node_takes_its_own_runs_along_and_no_other(
    own_cluster_set: ClusterSet, store: Store
) -> None:
    servers = own_cluster_set
    index = servers.node_of(keys.RUNS)
    dead, other = (node for node in servers.nodes if node is not index)
    on_dead, on_other = run_on(servers, dead), run_on(servers, other)
    jobs = {run: await Job.create(store, run) for run in (on_dead, on_other, run_on(servers, index))}
    leases = {run: (await job.lease()).lease for run, job in jobs.items()}
    for run, job in jobs.items():
        await job.commit(leases[run], Cursor(0, 1))

    dead.kill()
    for verb in (*UNKNOWN.values(), lambda store, _: store.list_runs()):
        with pytest.raises(StoreUnavailable) as caught:
            await verb(store, on_dead)
        assert str(caught.value)
        assert caught.value.__cause__ is not None
    for _ in keys.PINGS:
        await store.ping()
    for run, job in jobs.items():
        if run != on_dead:
            assert (await job.commit(leases[run], Cursor(0, 2))).cursor == Cursor(0, 2)
    assert await store.delete_run(on_other)

    for node in (index, other):  # Redis' own default: a cluster that lacks a node serves nothing
        ask(node, "CONFIG", "SET", "cluster-require-full-coverage", "yes")

    def is_down(node: RedisServer) -> bool:
        # a node that knows of the death already looks at its state again when its slots are touched, not when it is
        # configured: nothing is changed of a slot that is stable
        ask(node, "CLUSTER", "SETSLOT", "0", "STABLE")
        return bool(servers.info(node)["cluster_state"] == "fail")

    until("it is down", lambda: all(is_down(node) for node in (index, other)))
    survivor = run_on(servers, index)
    with pytest.raises(StoreUnavailable, match="cluster is down") as caught:
        await jobs[survivor].commit(leases[survivor], Cursor(0, 3))
    assert isinstance(caught.value.__cause__, redis.RedisError)

    dead.start()
    until("the node is back", servers.is_whole)
    commit = await answered(
        lambda: jobs[on_dead].commit(leases[on_dead], Cursor(0, 2), not_before=Cursor(0, 1))
    )
    assert (commit.outcome, commit.cursor) == (Outcome.OK, Cursor(0, 2))
    commit = await answered(
        lambda: jobs[survivor].commit(leases[survivor], Cursor(0, 3), not_before=Cursor(0, 2))
    )
    assert (commit.outcome, commit.cursor) == (Outcome.OK, Cursor(0, 3))
    assert await store.list_runs() == sorted(set(jobs) - {on_other})


async def test_a_run_moves_to_a_new_node(own_cluster_set: ClusterSet, store: Store) -> None:
    """Slot by slot and key by key, as resharding does."""
    servers = own_cluster_set
    source = servers.nodes[0]
    run = run_on(servers, source)
    slot = slot_of(keys.generation(run))
    job = await Job.create(store, run)
    lease = (await job.lease()).lease
    with servers.new_node() as target:
        ids = {node: ask(node, "CLUSTER", "MYID") for node in (source, target)}
        ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        assert (await job.commit(lease, Cursor(0, 1))).cursor == Cursor(0, 1)

        def move(key: str) -> None:
            ask(source, "MIGRATE", "127.0.0.1", target.port, key, 0, 30_000)

        move(keys.generation(run))  # one half here, one half there: nobody can tell
        with pytest.raises(StoreUnavailable):
            await job.commit(lease, Cursor(0, 2))
        move(keys.ranks(run))
        move(keys.document(run))
        assert (await job.commit(lease, Cursor(0, 2))).cursor == Cursor(0, 2)  # ASK
        for node in (target, source, *servers.nodes):
            ask(node, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        until("all know it", lambda: all(servers.owner(node, slot) == target.port for node in servers.nodes))
        assert (await job.commit(lease, Cursor(0, 3))).cursor == Cursor(0, 3)  # MOVED
        assert run in await store.list_runs()
        late = open_store(servers.url, timeout_s=30.0)
        assert (await Job(late, run).commit(lease, Cursor(0, 4))).cursor == Cursor(0, 4)
        await late.close()
