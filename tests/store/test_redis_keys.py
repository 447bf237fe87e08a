"""What only Redis has: the keys, the round trips, the errors of a server that is up but does not serve."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from bucketline_service.errors import Damaged, StoreUnavailable
from bucketline_service.store import (
    Cursor,
    Generation,
    NewEvent,
    NewReport,
    Outcome,
    Place,
    ReportOutcome,
    RunRecord,
    Store,
    open_store,
)
from bucketline_service.store.redis import keys
from tests.redis_server import RedisServer
from tests.store.jobs import FIRST, START, Job

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(own_redis_server: RedisServer) -> Iterator[redis.Redis]:
    """The server, seen directly."""
    with redis.Redis.from_url(own_redis_server.url, decode_responses=True) as client:
        yield client


@pytest.fixture
async def store(own_redis_server: RedisServer, server: redis.Redis) -> AsyncIterator[Store]:
    store = open_store(own_redis_server.url, timeout_s=30.0)
    yield store
    await store.close()


async def test_every_key_is_listed_with_its_type_and_none_expires(store: Store, server: redis.Redis) -> None:
    job = await Job.create(store, "a-run")
    await store.ping()
    await store.record([NewEvent("mark", None, b"{}")], 0)
    await job.begin(2, session="s")
    await job.lease(generation=2)
    await store.report("a-run", Place(0, 0, 0), [NewReport("a", "x"), NewReport("b", "x")], 1, 10.0)
    await store.close_map("a-map", "mark", 20.0)
    await store.announce_run("a-run", "birth", ["other"], 10.0)
    rows = re.findall(r"^\| ``(bucketline:\S+)`` \| (\w+) \|", keys.__doc__ or "", re.MULTILINE)
    listed = {key.replace("{run}", "{a-run}"): kind for key, kind in rows}
    assert {key: server.type(key) for key in server.scan_iter()} == listed
    assert {server.ttl(key) for key in listed} == {-1}
    assert set(keys.of_run("a-run")) == {key for key in listed if "{a-run}" in key}
    await store.open_map("mark")
    await store.delete_run("a-run")
    assert set(server.keys()) == {"bucketline:ping", keys.EVENTS}


async def test_all_keys_of_a_run_are_in_one_slot() -> None:
    for run in ("run", "}", "{", "{}", "a}b", "%7D"):
        tags = {re.match(r"[^{]*{([^}]*)}", key)[1] for key in keys.of_run(run)}  # type: ignore[index]
        assert len(tags) == 1
        assert tags != {""}


async def test_no_two_runs_share_a_key() -> None:
    runs = ["{", "}", "%7B", "%7D", "%257B", "%", "", "%%"]
    assert len({key for run in runs for key in keys.of_run(run)}) == 8 * len(runs)


async def test_a_commit_is_one_round_trip(store: Store, server: redis.Redis) -> None:
    job = await Job.create(store, "run")
    lease = (await job.lease()).lease
    await job.commit(lease, Cursor(0, 1))

    def num_reads() -> int:
        return server.info("stats")["total_reads_processed"]

    before = num_reads()
    alone = num_reads() - before  # what asking costs
    before = num_reads()
    await job.commit(lease, Cursor(0, 2))
    assert num_reads() - before - alone == 1


async def test_a_report_is_one_round_trip_however_many_images_it_names(
    store: Store, server: redis.Redis
) -> None:
    job = await Job.create(store, "run")
    images = [NewReport(f"{number}", "missing") for number in range(100)]

    def num_commands() -> int:
        return sum(each["calls"] for name, each in server.info("commandstats").items() if "evalsha" in name)

    await store.report(job.run, Place(0, 0, 0), images, 1000, 10.0)
    before = num_commands()
    await store.report(job.run, Place(0, 1, 0), images, 1000, 10.0)
    assert num_commands() - before == 1


async def test_a_damaged_report_is_told(store: Store, server: redis.Redis) -> None:
    job = await Job.create(store, "run")
    await store.report(job.run, Place(0, 0, 0), [NewReport("a", "missing")], 10, 10.0)
    for damage in ("1 2", "1 0 0 0 nan 0 0 0 10.0 missing -"):
        server.hset(keys.reports("run")[0], "a", damage)
        with pytest.raises(Damaged, match="a report of an image"):
            await store.reports("run", 0, 10)
    server.hset(keys.reports("run")[0], "a", "1 2")
    with pytest.raises(Damaged):
        await store.report(job.run, Place(0, 1, 0), [NewReport("a", "missing")], 10, 10.0)


async def test_reports_that_an_older_coordinator_left_are_not_those_of_a_new_run(
    store: Store, server: redis.Redis
) -> None:
    """It deletes a run and does not know the keys."""
    job = await Job.create(store, "run")
    two = [NewReport("a", "x"), NewReport("b", "x")]
    await store.report(job.run, Place(0, 0, 0), two, 1, 10.0)
    server.delete(*(key for key in keys.of_run("run") if key not in keys.reports("run")))
    await Job.create(store, "run")
    assert (await store.report(job.run, Place(0, 0, 0), two, 1, 10.0)).outcomes == [
        ReportOutcome.NEW,
        ReportOutcome.NOT_KEPT,
    ]


async def test_a_server_that_forgot_the_scripts(store: Store, server: redis.Redis) -> None:
    job = await Job.create(store, "run")
    lease = await job.lease()
    server.script_flush()
    assert (await job.commit(lease.lease, Cursor(0, 1))).cursor == Cursor(0, 1)
    assert (await job.commit(lease.lease, Cursor(0, 2))).cursor == Cursor(0, 2)


async def test_keys_from_before_there_were_births_go_on(store: Store, server: redis.Redis) -> None:
    second = Generation(2, "a s", 4, Cursor(0, 3), 12, birth="")
    server.set(keys.generation("run"), "2 4 0 3 12 +a s")
    server.set(keys.document("run"), "doc")
    server.hset(keys.sessions("run"), "a s", "2")
    server.hset(keys.ranks("run"), "1", "2 16385 0 5 10.0 0 3 11.0 me")
    job = Job(store, "run", second)
    assert await store.read_run("run") == RunRecord(b"doc", second)
    assert await store.session("run", "a s") == (second.id, 2)
    commit = await job.commit(16385, Cursor(0, 6), rank=1, generation=2)
    assert (commit.outcome, commit.cursor) == (Outcome.OK, Cursor(0, 6))
    assert (await job.lease(1, "me", generation=2)).cursor == Cursor(0, 6)
    assert (await job.begin(3, session="t")).begun
    assert (await job.lease(1, "me", generation=3)).lease > 16385


async def test_a_generation_with_a_lockstep_is_nothing_to_who_knows_of_none(
    store: Store, server: redis.Redis
) -> None:
    """An older replica must not shard the epoch differently. A generation without one reads as it always did."""
    job = await Job.create(store, "run")
    packed = server.get(keys.generation("run"))
    assert packed == "1.0123456789abcdef 4 0 0 0 -"
    await job.begin(2, session="12 +x", offset=40, lockstep=8)
    packed = server.get(keys.generation("run"))
    assert packed == "2.0123456789abcdef 4 0 0 40/8 +12 +x"
    with pytest.raises(ValueError, match="40/8"):
        int(packed.split(" ")[4])  # type: ignore[union-attr]
    assert (await store.read_run("run")).generation.lockstep == 8


async def refused(store: Store, lease: int, reason: str) -> None:
    job = Job(store, "run")
    for verb in (store.ping(), job.commit(lease, Cursor(0, 1)), store.create_run("new", b"", FIRST)):
        with pytest.raises(StoreUnavailable, match=reason) as caught:
            await verb
        assert isinstance(caught.value.__cause__, redis.RedisError)
    assert (await store.read_run("run")).generation == FIRST
    assert (await job.record()).cursor == START  # type: ignore[union-attr]


async def test_a_full_server(store: Store, server: redis.Redis) -> None:
    job = await Job.create(store, "run")
    lease = (await job.lease()).lease
    server.config_set("maxmemory", 1)
    await refused(store, lease, "maxmemory")
    server.config_set("maxmemory", 0)
    assert (await job.commit(lease, Cursor(0, 1))).cursor == Cursor(0, 1)


async def test_a_read_only_replica(store: Store, server: redis.Redis) -> None:
    job = await Job.create(store, "run")
    lease = (await job.lease()).lease
    server.execute_command("REPLICAOF", "127.0.0.1", "1")
    await refused(store, lease, "read only replica")
    server.execute_command("REPLICAOF", "NO", "ONE")
    assert (await job.commit(lease, Cursor(0, 1))).cursor == Cursor(0, 1)


async def test_a_password(store: Store, server: redis.Redis, own_redis_server: RedisServer) -> None:
    server.config_set("requirepass", "sesame")
    outside = open_store(own_redis_server.url)
    with pytest.raises(StoreUnavailable, match="Authentication"):
        await outside.ping()
    await outside.close()
    wrong = open_store(own_redis_server.url.replace("//", "//:s3cr3t@"))
    with pytest.raises(StoreUnavailable) as caught:
        await wrong.ping()
    assert "s3cr3t" not in str(caught.value)
    await wrong.close()
    inside = open_store(own_redis_server.url.replace("//", "//:sesame@"))
    await inside.ping()
    await inside.close()
    server.config_set("requirepass", "")


async def test_a_key_of_another_program(store: Store, server: redis.Redis) -> None:
    job = await Job.create(store, "run")
    server.set(keys.ranks("run"), "theirs")
    with pytest.raises(Damaged, match="WRONGTYPE"):
        await job.lease()


async def test_what_a_crash_between_run_and_index_leaves_is_mended(store: Store, server: redis.Redis) -> None:
    await store.create_run("created", b"", FIRST)
    server.srem(keys.RUNS, "created")
    server.sadd(keys.RUNS, "deleted")
    assert await store.list_runs() == []
    assert (await store.create_run("created", b"", FIRST))[1] is False
    assert await store.delete_run("deleted") is False
    assert await store.list_runs() == ["created"]
    assert server.smembers(keys.RUNS) == {"created"}
