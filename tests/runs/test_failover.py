"""A replica that has missed acknowledged writes becomes the master: that is noticed, and nothing is served twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis_sets import SentinelSet, ask, until
from tests.worlds import SMALL, World

SPEC = {"map": "small", "world_size": 3, "batch_size": 8}


@pytest.fixture
def world(own_sentinel_set: SentinelSet, tmp_path: Path) -> Iterator[World]:
    world = World(own_sentinel_set.url, tmp_path / "data")
    yield world
    world.close()


def cut_off(servers: SentinelSet) -> None:
    """From here on the replica gets nothing, though both are up, and the master acknowledges all the same."""
    user = ("ACL", "SETUSER", "copier", "on", ">secret", "+psync", "+replconf", "+ping")
    ask(servers.master, *user)
    ask(servers.replica, "CONFIG", "SET", "masteruser", "copier", "masterauth", "secret")
    until("the replica is level", lambda: servers.is_level)
    ask(servers.master, "ACL", "SETUSER", "copier", "off")
    ask(servers.master, "CLIENT", "KILL", "TYPE", "replica")
    until("the replica is alone", lambda: not servers.is_linked)


def test_what_a_replica_missed_is_adopted_from_those_who_know(
    own_sentinel_set: SentinelSet, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    servers, coordinator = own_sentinel_set, world.replica()
    api = coordinator.api
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", SPEC, 201)
    old = api.lease("run", 0, "old")["lease"]
    peer = api.lease("run", 1, "peer")["lease"]
    idle = api.lease("run", 2, "idle")["lease"]
    for rank, lease in enumerate((old, peer)):
        api.ack("run", rank, lease, 0, 1)

    cut_off(servers)
    leased = api.lease("run", 0, "new")
    new, named = leased["lease"], {name: leased[name] for name in ("generation", "generation_id")}
    served = api.next("run", 0, new, ack={"epoch": 0, "step": 4}, **named)
    api.ack("run", 1, peer, 0, 4)
    api.next("run", 0, old, 409)
    fresh = api.lease("run", 2, "fresh")["lease"]
    servers.master.kill()
    until("the replica is the master", lambda: servers.is_promoted)

    # The store has the old holder again, at step 2; the new one's token says that it has forgotten.
    again = api.next("run", 0, new, ack={"epoch": 0, "step": 4}, **named)
    assert again == served
    assert api.next("run", 0, old, 409)["code"] == "fenced"
    assert api.next("run", 1, peer, ack={"epoch": 0, "step": 5})["cursor"] == {"epoch": 0, "step": 6}
    # One that has not finished a step has nothing to acknowledge, and is known by its lease all the same.
    assert (
        api.next("run", 2, fresh, 409, generation=1)["code"] == "fenced"
    )  # an older client can prove nothing
    assert api.next("run", 2, fresh, **named)["cursor"] == {"epoch": 0, "step": 0}
    assert api.next("run", 2, idle, 409)["code"] == "fenced"
    assert api.cursors("run") == [(0, 5), (0, 6), (0, 0)]
    assert 'bucketline_adoptions_total{run="run"} 2.0' in api.ask("GET", "/metrics", 200).text
    lost, unacknowledged = (record for record in caplog.records if record.message == "store_lost_state")
    assert (lost.run, lost.rank, lost.epoch, lost.step) == ("run", 0, 0, 5)  # type: ignore[attr-defined]
    assert (unacknowledged.rank, unacknowledged.step) == (2, 0)  # type: ignore[attr-defined]

    # So does another coordinator, which has never seen the lease.
    other = world.replica().api
    answer = other.next("run", 0, new, ack={"epoch": 0, "step": 5}, **named)
    assert answer["cursor"] == {"epoch": 0, "step": 6}
    assert other.lease("run", 0, "later")["lease"] > new
    assert api.next("run", 0, new, 409)["code"] == "fenced"


def test_without_a_master_it_is_503_until_there_is_one(own_sentinel_set: SentinelSet, world: World) -> None:
    servers, api = own_sentinel_set, world.replica().api
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", SPEC, 201)
    lease = api.lease("run", 0)["lease"]
    until("the replica is level", lambda: servers.is_level)
    servers.master.kill()

    def goes_on() -> bool:
        body = {"lease": lease, "ack": {"epoch": 0, "step": 2}}
        answer = api.ask("POST", "/v1/runs/run/ranks/0/next", json=body)
        if answer.status_code == 503:
            assert answer.json()["code"] == "store_unavailable"
            assert int(answer.headers["Retry-After"]) > 0
            return False
        return answer.json()["cursor"] == {"epoch": 0, "step": 3}

    until("there is a master", goes_on)
    assert api.cursors("run")[0] == (0, 3)
