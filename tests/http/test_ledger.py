"""The ledger as it is sent: both formats, every kind of map, its errors, and its end."""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from bucketline_service.planning import ledger as ledgers
from tests.checked import Api
from tests.server import Replica
from tests.worlds import SMALL

PutRun = Callable[..., dict[str, Any]]
Row = dict[str, Any]


def ledger(api: Api, run: str = "run", **params: Any) -> list[Row]:
    """Its rows, which both formats agree on."""
    table = pq.read_table(io.BytesIO(ask(api, run, format="parquet", **params)))
    rows: list[Row] = table.to_pylist()
    text = ask(api, run, format="csv", **params).decode()
    told = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [
        {name: "" if value is None else str(value) for name, value in row.items()} for row in rows
    ] == told
    return rows


def ask(api: Api, run: str, **params: Any) -> bytes:
    if "first" in params:
        params["from"] = params.pop("first")
    response = api.ask("GET", f"/v1/runs/{run}/ledger", 200, params=params)
    kind = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
    assert response.headers["content-type"] == kind[params["format"]]
    assert response.headers["content-disposition"].endswith(f'.{params["format"]}"')
    return response.content


def sums(rows: list[Row], by: str = "what") -> dict[Any, int]:
    found: Counter[Any] = Counter()
    for row in rows:
        found[row["epoch"], row[by]] += row["num"]
    return found


def dealt(api: Api, run: str, epoch: int, world_size: int) -> Counter[Any]:
    """How often each image comes in an epoch, as the plan has it; by map too where there are several."""
    found: Counter[Any] = Counter()
    # where repeats are rounded epochs differ by a few batches: what comes of the next one is passed over
    count = api.get(f"/v1/runs/{run}/stats")["num_batches"] // world_size + 4
    for rank in range(world_size):
        asked = {"epoch": epoch, "step": 0, "rank": rank, "count": count, "world_size": world_size}
        for batch in api.get(f"/v1/runs/{run}/batches", **asked)["batches"]:
            if batch["epoch"] == epoch:
                ids = batch["ids"]
                found.update(zip(batch["maps"], map(str, ids), strict=True) if "maps" in batch else ids)
    return found


TYPICAL = [
    ("balanced", "drop", 1, 3),
    ("balanced", "shift", 5, 2),
    ("balanced", "short", 2, 3),
    ("balanced", "pad", 5, 3),
    ("same_shape", "spill", 5, 2),
    ("same_shape", "catch_all", 2, 3),
    ("same_shape", "pad", 2, 2),
]
EVERY = {
    "balanced": ("shift", "short", "drop", "spill", "catch_all", "pad"),
    "same_shape": ("shift", "drop", "spill", "catch_all", "pad"),
}


@pytest.mark.parametrize(
    ("steps", "tails", "lockstep", "world_size"),
    [
        each if each in TYPICAL else pytest.param(*each, marks=pytest.mark.exhaustive)
        for steps, tails in EVERY.items()
        for each in itertools.product((steps,), tails, (1, 2, 5), (2, 3))
    ],
)
def test_it_adds_up_to_the_stats(
    shared_api: Api, steps: str, tails: str, lockstep: int, world_size: int
) -> None:
    plan = {"steps": steps, "tails": tails, "lockstep": lockstep}
    spec = {"map": "small", "world_size": world_size, "batch_size": 8, **plan}
    shared_api.put("/v1/runs/run", spec, 201)
    try:
        stats = shared_api.get("/v1/runs/run/stats")
        rows = ledger(shared_api)
        told = sums(rows)
        assert told[0, "left_out"] + told[None, "never_served"] == stats["dropped"]
        assert told[0, "repeated"] == stats["repeated"]
        assert told[None, "never_served"] == stats["never_served"]
        times = dealt(shared_api, "run", 0, world_size)
        for row in rows:
            times[row["id"]] += row["num"] * (-1 if row["what"] == "repeated" else 1)
        assert times == Counter(range(200))
    finally:
        shared_api.ask("DELETE", "/v1/runs/run", 204)


@pytest.mark.parametrize("plan", [{}, {"steps": "same_shape"}, {"planner": "novelai"}])
def test_several_epochs_are_each_as_told_alone(put_run: PutRun, api: Api, plan: dict[str, str]) -> None:
    put_run(**plan, batch_size=9)
    together = ledger(api, first=2, to=5)
    assert {row["epoch"] for row in together} == {2, 3, 4, 5}
    alone = [row for epoch in range(2, 6) for row in ledger(api, first=epoch)]
    assert together == alone
    for epoch in range(2, 6):
        mine = {row["id"] for row in together if row["epoch"] == epoch}
        assert mine == set(range(200)) - set(dealt(api, "run", epoch, 2))


def test_another_world_size_is_dealt_from_the_epochs_start(put_run: PutRun, api: Api) -> None:
    put_run(lockstep=1, tails="pad")
    for world_size in (1, 3, 7):
        rows = ledger(api, first=4, world_size=world_size)
        times = dealt(api, "run", 4, world_size)
        assert {row["id"] for row in rows if row["reason"] == "last_step"} == set(range(200)) - set(times)
        again = sum(row["num"] for row in rows if row["what"] == "repeated")
        assert again == times.total() - len(times)


def test_a_resumed_epoch_is_told_as_if_it_were_dealt_from_its_start(put_run: PutRun, api: Api) -> None:
    """As in the stats: what the previous generation has handed out of it is not described separately."""
    put_run(lockstep=1)
    lease = api.lease("run", 0)["lease"]
    api.lease("run", 1)
    api.ack("run", 0, lease, 0, 3)
    api.session("run", "s", world_size=5)
    assert api.get("/v1/runs/run/stats")["world_size"] == 5
    rows = ledger(api)
    assert rows == ledger(api, first=0, world_size=5)
    assert sums(rows)[0, "left_out"] == api.get("/v1/runs/run/stats")["dropped"]


def test_the_present_epoch_is_the_slowest_ranks(put_run: PutRun, api: Api) -> None:
    num_steps = put_run(tails="drop", batch_size=14)["num_steps"]
    for rank in (0, 1):
        api.ack("run", rank, api.lease("run", rank)["lease"], 1, num_steps - 1)
    assert {row["epoch"] for row in ledger(api)} == {None, 2}
    assert {row["epoch"] for row in ledger(api, to=3)} == {None, 2, 3}


def test_maps_of_both_kinds_of_ids_and_repeats(api: Api) -> None:
    """Ids are strings then, and a map's name says which is meant."""
    api.put_csv("small", SMALL, 201)
    odd = ['a "b"', "c,d", "7", "e\u00fc'", " f", "007"]
    named = "id,width,height\n" + "".join(
        '"{}",{},512\n'.format(each.replace('"', '""'), 512 + 64 * i) for i, each in enumerate(odd)
    )
    api.put_csv("odd", named, 201)
    maps = [{"map": "small", "num_repeats": 1.5}, {"map": "odd", "num_repeats": 3}]
    api.put("/v1/runs/run", {"maps": maps, "world_size": 3, "batch_size": 16, "tails": "drop"}, 201)
    rows = ledger(api, to=2)
    assert list(rows[0]) == ["epoch", "what", "reason", "map", "id", "num"]
    assert {row["id"] for row in rows if row["map"] == "odd"} <= set(odd)
    assert {row["map"] for row in rows} == {"small", "odd"}
    never = {(row["map"], row["id"]) for row in rows if row["what"] == "never_served"}
    for epoch in range(3):
        times = dealt(api, "run", epoch, 3)
        assert never.isdisjoint(times)
        for row in rows:
            if row["epoch"] == epoch:
                times[row["map"], row["id"]] += row["num"]
        assert all(times["odd", each] == 3 for each in odd if ("odd", each) not in never)
        assert {times["small", str(i)] for i in range(200) if ("small", str(i)) not in never} <= {1, 2}


@pytest.mark.parametrize("is_map", [False, True])
def test_valid_ids_are_a_reason_before_all_others(api: Api, is_map: bool) -> None:
    text = "id,width,height\n" + "".join(f"{i},{100 + 10 * i},512\n" for i in range(60))
    api.put_csv("m", text, 201)
    valid = list(range(0, 60, 3))
    api.put_csv("third", "id,width,height\n" + "".join(f'"{i}",1,1\n' for i in valid), 201)
    spec = {"map": "m", "world_size": 1, "batch_size": 2, "assign": {"min_size": 200}}
    api.put("/v1/runs/run", {**spec, "valid_ids": "third" if is_map else valid}, 201)
    rows = ledger(api)
    stats = api.get("/v1/runs/run/stats")
    told: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row["what"] == "pruned":
            assert (row["epoch"], row["num"]) == (None, 1)
            told[row["reason"]].add(row["id"])
    assert told["valid_ids"] == set(range(60)) - set(valid)
    assert told["min_size"] == {i for i in valid if i < 10}
    assert {reason: len(ids) for reason, ids in told.items()} == {
        reason: num for reason, num in stats["pruned"].items() if num
    }


@pytest.mark.parametrize(
    ("params", "field", "words"),
    [
        ({"from": 3, "to": 2}, "to", "must be at least from, 3"),
        ({"from": 1, "to": 1001}, "to", "at most 1000"),
        ({"from": -1}, "from", "must be at least 0"),
        ({"to": 4}, "to", "must be less than 4"),
        ({"from": 4}, "from", "must be less than 4"),
        ({"format": "arrow"}, "format", "'csv' or 'parquet'"),
        ({"world_size": 100}, "world_size", "must be 1 to"),
    ],
)
def test_what_can_not_be_told(steady: Api, params: Any, field: str, words: str) -> None:
    problem = steady.ask("GET", "/v1/runs/short/ledger", 422, params=params).json()
    assert problem["field"] == field
    assert words in problem["detail"]


def test_no_run_no_ledger(shared_api: Api) -> None:
    shared_api.ask("GET", "/v1/runs/none/ledger", 404)
    shared_api.ask("GET", "/v1/runs/run/ledger", 404, params={"format": "parquet"})


def test_nothing_to_tell_is_a_table_without_rows(api: Api) -> None:
    api.put_csv("m", "id,width,height\n1,512,512\n2,512,512\n", 201)
    api.put("/v1/runs/run", {"map": "m", "world_size": 1, "batch_size": 2}, 201)
    assert ledger(api) == []
    assert ask(api, "run", format="csv") == b'"epoch","what","reason","id","num"\n'


def test_head_makes_no_ledger(put_run: PutRun, api: Api) -> None:
    put_run()
    response = api.ask("HEAD", "/v1/runs/run/ledger", 200, params={"from": 3, "to": 900})
    assert response.headers["content-disposition"] == 'attachment; filename="run-epochs-3-900.csv"'
    assert "content-length" not in response.headers


def call(replica: Replica, go_after: int | None) -> list[bytes]:
    """The chunks of a long ledger that were sent until a client that goes away after some of them was noticed."""
    chunks: list[bytes] = []

    async def ask() -> None:
        is_gone = asyncio.Event()
        requests = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> dict[str, Any]:
            if requests:
                return requests.pop()
            await is_gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body" and message["body"]:
                chunks.append(message["body"])
            if len(chunks) == go_after:
                is_gone.set()

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": "GET",
            "path": "/v1/runs/run/ledger",
            "raw_path": b"/v1/runs/run/ledger",
            "query_string": b"from=0&to=99",
            "headers": [],
            "scheme": "http",
            "server": ("coordinator", 80),
        }
        await replica.app(scope, receive, send)

    replica._wait(ask())
    return chunks


def test_a_client_that_goes_away_stops_it(
    put_run: PutRun, shared_replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_run(tails="drop")
    monkeypatch.setattr(ledgers, "BLOCK", 250)
    whole = call(shared_replica, None)
    assert len(whole) > 6
    assert max(chunk.count(b"\n") for chunk in whole) < 2 * ledgers.BLOCK
    assert len(call(shared_replica, 2)) < 5
    assert call(shared_replica, None) == whole


@pytest.mark.parametrize(
    ("more", "reasons"),
    [
        ({"batch_size": 9}, {"tail", None}),
        ({"batch_size": 14, "tails": "drop"}, {"small_bucket", "tail", None}),
        ({"tails": "drop", "last_step": "fill", "lockstep": 5}, {"tail", "last_step", None}),
        (
            {"steps": "same_shape", "tails": "drop", "batch_size": 12},
            {"small_bucket", "tail", None},
        ),
        (
            {"steps": "same_shape", "tails": "spill", "lockstep": 1, "world_size": 3},
            {"tail", "last_step", None},
        ),
        ({"num_repeats": 0.4}, {"not_drawn", "tail", None}),
        ({"num_repeats": 1.5}, {"tail", None}),
        ({"planner": "novelai"}, {"last_step", None}),
    ],
)
def test_an_image_tells_the_ledgers_reason(
    shared_api: Api, more: dict[str, Any], reasons: set[str | None]
) -> None:
    shared_api.put("/v1/runs/run", {"map": "small", "world_size": 2, "batch_size": 8, **more}, 201)
    try:
        told = defaultdict(set)
        for row in ledger(shared_api, first=1, to=1):
            if row["what"] in ("left_out", "never_served"):
                told[row["id"]].add(row["reason"])
        found = set()
        for image in {*list(told)[::4], *range(0, 200, 9)}:
            about = shared_api.get(f"/v1/runs/run/images/{image}", epoch=1)
            assert about["pruned"] is None
            comes = sum(each["step"] is not None for each in about["served"])
            if about["left_out"] == "not_drawn":
                assert (comes, image in told) == (0, False)
            elif about["left_out"] is None:
                assert (comes > 0, image in told) == (True, False)
            else:
                assert about["left_out"] in told[image]
            found.add(about["left_out"])
        assert found <= reasons
        assert {None} < found
    finally:
        shared_api.ask("DELETE", "/v1/runs/run", 204)
