"""One record in the store is not what was written: its run says so, and everything else continues."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from bucketline_service.store.redis import keys
from tests.checked import Api
from tests.runs.test_run_gauges import scraped
from tests.server import ServerProcess, run_command
from tests.worlds import *  # noqa: F403
from tests.worlds import SMALL, World

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
BAD, GOOD = "a-bad", "good"

Damage = Callable[[World], None]


def in_redis(*commands: tuple[Any, ...]) -> Damage:
    def damage(world: World) -> None:
        with closing(redis.Redis.from_url(world.store_url)) as client:
            for command in commands:
                client.execute_command(*command)

    return damage


def in_sqlite(statement: str) -> Damage:
    def damage(world: World) -> None:
        path = world.store_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path)) as db, db:
            assert db.execute(f"UPDATE {statement} WHERE run = '{BAD}'").rowcount

    return damage


DOCUMENT, GENERATION, RANKS = keys.document(BAD), keys.generation(BAD), keys.ranks(BAD)

DOCUMENTS: dict[str, tuple[str, Damage]] = {
    **{
        f"redis {text!r}": ("redis", in_redis(("SET", DOCUMENT, text)))
        for text in ("", "{", "[]", "null", "{}", b"\xff\xfe", '{"spec": {"map": "small"}}')
    },
    "redis cut": ("redis", in_redis(("SETRANGE", DOCUMENT, 40, "\0" * 20))),
    "redis missing": ("redis", in_redis(("DEL", DOCUMENT))),
    "redis another type": ("redis", in_redis(("DEL", DOCUMENT), ("SADD", DOCUMENT, "x"))),
    **{
        f"sqlite {value}": ("sqlite", in_sqlite(f"runs SET document = {value}"))
        for value in ("''", "x''", "x'7b'", "x'ff'", "5", "CAST('{}' AS BLOB)", "substr(document, 9)")
    },
}
GENERATIONS: dict[str, tuple[str, Damage]] = {
    **{
        f"redis {text!r}": ("redis", in_redis(("SET", GENERATION, text)))
        for text in ("", "garbage", "1 2 3", b"\xff \xfe", "1.b x 0 0 0 -", "1.b 2 0 -3 0 -", "1.b 0 0 0 0 -")
    },
    "redis another type": ("redis", in_redis(("DEL", GENERATION), ("RPUSH", GENERATION, "x"))),
    **{
        f"sqlite {column}": ("sqlite", in_sqlite(f"runs SET {column}"))
        for column in (
            "world_size = 'x'",
            "world_size = 0",
            "world_size = 16384",
            "step = -1",
            '"offset" = 0.5',
            "birth = x'ff'",
        )
    },
}
RANK_RECORDS: dict[str, tuple[str, Damage]] = {
    **{
        f"redis {text!r}": ("redis", in_redis(("HSET", RANKS, "0", text)))
        for text in ("", "garbage", b"\xff\xfe", "1.b 1 0 x 1.0 0 0 1.0 me", "1.b 1 0 0 nan 0 0 1.0 me")
    },
    "redis another rank": ("redis", in_redis(("HSET", RANKS, "x", "garbage"))),
    "redis another type": ("redis", in_redis(("DEL", RANKS), ("SET", RANKS, "x"))),
    **{
        f"sqlite {column}": ("sqlite", in_sqlite(f"ranks SET {column}"))
        for column in ("epoch = 'x'", "step = -1", "lease = 0.5", "holder = x'ff'", "last_seen_s = 'never'")
    },
}


TYPICAL = {
    *("redis cut", "redis another type", "sqlite CAST('{}' AS BLOB)"),
    *("redis '1.b x 0 0 0 -'", "sqlite world_size = 0"),
    *("redis 'garbage'", "sqlite epoch = 'x'"),
}


def each(records: dict[str, tuple[str, Damage]]) -> list[Any]:
    """A few typical ones in ``make test``, all in ``make test-all``."""
    return [
        pytest.param(*record, id=name, marks=[] if name in TYPICAL else [pytest.mark.exhaustive])
        for name, record in records.items()
    ]


def damaged(world: World, damage: Damage) -> Api:
    """A fresh coordinator over a store with two runs, of which one is damaged."""
    before = world.replica().api
    before.put_csv("small", SMALL, 201)
    for run in (BAD, GOOD):
        before.put(f"/v1/runs/{run}", SPEC, 201)
        for rank in range(2):
            before.ack(run, rank, before.lease(run, rank)["lease"], 0, 3)
    damage(world)
    return world.replica().api


def check_that_all_else_goes_on(api: Api) -> dict[str, Any]:
    """The damaged run, as it is listed."""
    bad, good = api.get("/v1/runs")["runs"]
    assert (good["run"], good["status"], good["state"]["step"]) == (GOOD, "ready", 4)
    assert (bad["run"], bad["status"], bad["state"]) == (BAD, "failed", None)
    statuses = scraped(api)["bucketline_run_status"]
    assert statuses == {(BAD, "failed"): 1, (GOOD, "ready"): 1}
    assert api.ack(GOOD, 0, api.lease(GOOD, 0)["lease"], 0, 4)["cursor"]["step"] == 5
    assert api.session(GOOD, "s", resume="cursor")["generation"] == 2
    api.put("/v1/runs/another", {**SPEC, "seed": 1})
    api.ask("DELETE", "/v1/runs/another", 204)
    assert api.get("/readyz")["status"] == "ready"
    api.get("/v1/events")
    return bad


def check_that_it_says_so(api: Api, bad: dict[str, Any]) -> None:
    problem = api.get(f"/v1/runs/{BAD}", 409)
    assert (problem["code"], problem["run"]) == ("damaged", BAD)
    assert problem["detail"] == bad["detail"]
    assert "backup" in problem["detail"]
    assert api.session(BAD, "s", 409, resume="cursor")["code"] == "damaged"


def check_that_it_can_be_put_anew(api: Api) -> None:
    """Deleted as any run whose ranks may be at work is: by who says so."""
    problem = api.ask("DELETE", f"/v1/runs/{BAD}", 409).json()
    assert problem["code"] == "conflict"
    assert problem["detail"].endswith("delete the run anyway with ?force=true")
    api.ask("DELETE", f"/v1/runs/{BAD}?force=true", 204)
    api.put(f"/v1/runs/{BAD}", SPEC, 201)
    assert [run["status"] for run in api.get("/v1/runs")["runs"]] == ["ready", "ready"]
    assert api.lease(BAD, 0)["cursor"]["step"] == 0


@pytest.mark.parametrize(("world", "damage"), each(DOCUMENTS), indirect=["world"])
def test_a_damaged_document(world: World, damage: Damage) -> None:
    api = damaged(world, damage)
    bad = check_that_all_else_goes_on(api)
    assert (bad["spec"], bad["fingerprint"]) == (None, None)
    check_that_it_says_so(api, bad)
    assert api.lease(BAD, 0, status=409)["code"] == "damaged"
    assert api.put(f"/v1/runs/{BAD}", SPEC, 409)["code"] == "damaged"
    # nobody can tell which maps it needs: perhaps this one
    assert api.ask("DELETE", "/v1/maps/small", 409).json()["runs"] == [BAD, GOOD]
    check_that_it_can_be_put_anew(api)


@pytest.mark.parametrize(("world", "damage"), each(GENERATIONS), indirect=["world"])
def test_a_damaged_generation(world: World, damage: Damage) -> None:
    api = damaged(world, damage)
    check_that_it_says_so(api, check_that_all_else_goes_on(api))
    assert api.lease(BAD, 0, status=409)["code"] == "damaged"
    check_that_it_can_be_put_anew(api)


@pytest.mark.parametrize(("world", "damage"), each(RANK_RECORDS), indirect=["world"])
def test_a_damaged_rank(world: World, damage: Damage) -> None:
    api = damaged(world, damage)
    bad = check_that_all_else_goes_on(api)
    assert bad["spec"]["map"] == "small"
    assert (bad["world_size"], bad["generation"]) == (2, 1)
    assert api.get(f"/v1/runs/{BAD}/ranks", 409)["code"] == "damaged"
    check_that_it_says_so(api, bad)
    check_that_it_can_be_put_anew(api)


CHANGES = {
    "seed": (b'"seed": 42', b'"seed": 43'),
    "batch_size": (b'"batch_size": 8', b'"batch_size": 9'),
}


@pytest.mark.parametrize("change", ["seed", pytest.param("batch_size", marks=pytest.mark.exhaustive)])
def test_a_document_that_can_be_read_and_is_another(world: World, change: str) -> None:
    """With one changed byte it would be served under the fingerprint of the run that was put."""
    old, new = CHANGES[change]

    def damage(world: World) -> None:
        replica = world.replica()
        document = replica._wait(replica.coordinator.store.read_run(BAD)).document
        assert old in document
        changed = document.replace(old, new)
        if world.store_url.startswith("sqlite"):
            in_sqlite(f"runs SET document = x'{changed.hex()}'")(world)
        else:
            in_redis(("SET", DOCUMENT, changed))(world)

    api = damaged(world, damage)
    bad = check_that_all_else_goes_on(api)
    assert "fingerprint" in bad["detail"]
    assert api.lease(BAD, 0, status=409)["code"] == "damaged"
    assert api.get(f"/v1/runs/{BAD}")["status"] == "failed"
    check_that_it_can_be_put_anew(api)


def test_a_damaged_event(world: World) -> None:
    api = world.replica().api
    api.put_csv("small", SMALL, 201)
    while "map_put" not in {event["event"] for event in api.get("/v1/events")["events"]}:
        pass
    if world.store_url.startswith("sqlite"):
        path = world.store_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE events SET document = x'7b' WHERE document LIKE '%coordinator_started%'")
    else:
        in_redis(
            ("ZADD", keys.EVENTS, 5, "garbage"),
            ("ZADD", keys.EVENTS, 6, "mark - {"),
            ("ZADD", keys.EVENTS, 7, "mark - {}"),
        )(world)
    assert "map_put" in {event["event"] for event in api.get("/v1/events")["events"]}


def test_the_command_line_lists_it_with_the_others(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data")
    try:
        api = server.api()
        api.put_csv("small", SMALL, 201)
        for run in (BAD, GOOD):
            api.put(f"/v1/runs/{run}", SPEC, 201)
        with closing(sqlite3.connect(tmp_path / "data" / "state.sqlite")) as db, db:
            db.execute(f"UPDATE runs SET document = x'7b', number = -1 WHERE run = '{BAD}'")
        environ = {"BUCKETLINE_URL": server.url}
        status, out, errors = run_command("run", "list", environ=environ)
        assert (status, errors) == (0, "")
        rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
        assert "failed" in rows[BAD]
        assert "ready" in rows[GOOD]
        status, _, errors = run_command("run", "show", BAD, environ=environ)
        assert status != 0
        assert "in the store cannot be read" in errors
        status, _, errors = run_command("run", "delete", BAD, environ=environ)
        assert status != 0
        assert errors.endswith("delete the run anyway with --force\n")
        assert run_command("run", "delete", "--force", BAD, environ=environ)[0] == 0
    finally:
        server.close()
