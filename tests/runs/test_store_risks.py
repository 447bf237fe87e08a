"""A Redis that may lose what it has acknowledged: refused if that can happen at any moment, otherwise reported."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from bucketline_service.errors import StoreUnavailable
from bucketline_service.runs.store_checkup import StoreCheckup
from bucketline_service.store import open_store
from tests.redis_server import RedisServer
from tests.redis_sets import ClusterSet, SentinelSet, ask, until
from tests.runs.test_run_gauges import scraped
from tests.server import Replica
from tests.store.jobs import Job
from tests.waiting import DEADLINE_S
from tests.worlds import SMALL

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
FULL = 64 << 20
NO_DISK = {"appendonly": "no", "save": ""}


@pytest.fixture
def started(own_redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Replica]]:
    """A coordinator on a Redis with these options."""
    del own_redis_server  # skips where no Redis is installed
    with ExitStack() as stack:

        def start(**options: object) -> Replica:
            named = {name.replace("_", "-"): value for name, value in options.items()}
            server = stack.enter_context(RedisServer(named))
            replica = Replica(server.url, tmp_path / "data")
            stack.callback(replica.close)
            replica.server = server  # type: ignore[attr-defined]
            return replica

        yield start


def set_policy(server: RedisServer, policy: str, maxmemory: int = FULL) -> None:
    ask(server, "CONFIG", "SET", "maxmemory-policy", policy)
    ask(server, "CONFIG", "SET", "maxmemory", maxmemory)


ALSO = [pytest.param(f"allkeys-{how}", marks=pytest.mark.exhaustive) for how in ("lfu", "random")]


@pytest.mark.parametrize("policy", ["allkeys-lru", *ALSO])
def test_one_that_evicts_is_refused_until_it_does_not(
    started: Callable[..., Replica], policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    replica = started(maxmemory_policy=policy, maxmemory=FULL)
    api: Any = replica.api
    api.put_csv("small", SMALL, 201)
    for problem in (api.get("/readyz", 503), api.put("/v1/runs/run", SPEC, 503), api.get("/v1/runs", 503)):
        assert problem["code"] == "store_unavailable"
        assert policy in problem["detail"]
        assert "CONFIG SET maxmemory-policy noeviction" in problem["detail"]
    assert scraped(api)["bucketline_store_up"] == {(): 0}
    until("it is in the log", lambda: any(policy in str(record.__dict__) for record in caplog.records))
    set_policy(replica.server, "noeviction")  # type: ignore[attr-defined]
    assert api.get("/readyz") == {"status": "ready"}
    api.put("/v1/runs/run", SPEC, 201)


def test_one_that_begins_to_evict_is_refused_from_the_next_look_on(started: Callable[..., Replica]) -> None:
    replica = started()
    api: Any = replica.api
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", SPEC, 201)
    lease = api.lease("run", 0)["lease"]
    set_policy(replica.server, "allkeys-lru")  # type: ignore[attr-defined]
    assert "allkeys-lru" in api.get("/readyz", 503)["detail"]
    assert "allkeys-lru" in api.next("run", 0, lease, 503)["detail"]
    set_policy(replica.server, "volatile-lru")  # type: ignore[attr-defined]  # ours never expire
    assert api.get("/readyz") == {"status": "ready"}
    assert api.ack("run", 0, lease, 0, 0)["cursor"]["step"] == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, "if it had a maxmemory"),
        (NO_DISK, "Set appendonly yes"),
        ({"appendonly": "no", "save": "3600 1"}, None),
        ({"maxmemory_policy": "volatile-ttl", "maxmemory": FULL}, None),
    ],
)
def test_what_may_be_lost_is_told_and_served(
    started: Callable[..., Replica],
    options: dict[str, object],
    told: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, logger="bucketline")
    replica = started(**options)
    api: Any = replica.api
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", SPEC, 201)
    if told is None:
        replica._wait(replica.coordinator._checkup.check())
        assert api.get("/readyz") == {"status": "ready"}
        return
    until("it is reported", lambda: "store_risks" in api.get("/readyz"))
    (risk,) = api.get("/readyz")["store_risks"]
    assert told in risk

    def events() -> list[dict[str, Any]]:
        return [each for each in api.get("/v1/events")["events"] if each["event"] == "store_at_risk"]

    until("it is an event", events)
    assert told in risk
    assert events()[0]["fields"]["detail"] == risk[:200]
    assert [record.__dict__["detail"] for record in caplog.records if record.message == "store_at_risk"] == [
        risk
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_node_of_a_cluster_that_evicts(own_cluster_set: ClusterSet) -> None:
    store = open_store(own_cluster_set.url, timeout_s=30.0)
    await Job.create(store, "run")
    assert await store.examine() == []
    set_policy(own_cluster_set.nodes[1], "allkeys-lru")
    for verb in (store.examine, store.list_runs, store.ping):
        with pytest.raises(StoreUnavailable, match="allkeys-lru"):
            await verb()
    set_policy(own_cluster_set.nodes[1], "noeviction")
    assert await store.examine() == []
    assert await store.list_runs() == ["run"]
    await store.close()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_master_that_evicts(own_sentinel_set: SentinelSet) -> None:
    store = open_store(own_sentinel_set.url, timeout_s=30.0)
    set_policy(own_sentinel_set.master, "allkeys-lru")
    with pytest.raises(StoreUnavailable, match="allkeys-lru"):
        await Job.create(store, "run")
    await store.close()


ONLY_CONFIG = pytest.param(["-config"], marks=pytest.mark.exhaustive)


@pytest.mark.parametrize("forbidden", [ONLY_CONFIG, ["-config", "-info"]])
def test_who_may_not_ask_serves(own_redis_server: RedisServer, tmp_path: Path, forbidden: list[str]) -> None:
    """As with a managed service whose user has few permissions."""
    ask(own_redis_server, "CONFIG", "SET", "appendonly", "no")
    user = ("ACL", "SETUSER", "u", "on", ">p", "~bucketline:*", "+@all", *forbidden)
    ask(own_redis_server, *user)
    replica = Replica(own_redis_server.url.replace("redis://", "redis://u:p@"), tmp_path / "data")
    api: Any = replica.api
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", SPEC, 201)
    assert api.get("/readyz") == {"status": "ready"}
    replica.close()


class Swallowing:
    """A store whose answer meets the cancellation, which ``wait_for`` then swallows before Python 3.12."""

    async def examine(self) -> list[str]:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return []


@pytest.mark.anyio
async def test_a_shutdown_does_not_wait_for_the_next_look_at_the_store() -> None:
    checkup: Any = StoreCheckup(Swallowing(), event_log=None, every_s=3600.0)  # type: ignore[arg-type]
    checkup.start()
    await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_S):
        await checkup.close()
