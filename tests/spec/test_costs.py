"""Every kind of cost in a run spec: planned, previewed, errors named, and runs from before there was a choice."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.checked import Api
from tests.worlds import SMALL, World

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
LADDER = {"kind": "explicit", "sizes": [[512, 512], [1024, 512]]}
TRANSFORMER = {"kind": "transformer", "hidden_size": 64}
ROW = {"width": 512, "height": 512, "batch_size": 4, "seconds": 1.0}
MEASURED = {"kind": "measured", "seconds": [ROW, {**ROW, "width": 1024, "seconds": 4.0}]}


@pytest.fixture
def small(api: Api) -> Api:
    api.put_csv("small", SMALL)
    return api


def put(api: Api, run: str, status: int = 201, **more: Any) -> dict[str, Any]:
    about: dict[str, Any] = api.put(f"/v1/runs/{run}", {**SPEC, **more}, status)
    return about


def test_a_spec_tells_its_cost_with_every_default(small: Api) -> None:
    assert put(small, "plain")["spec"]["cost"] == {"kind": "pixels"}
    about = put(small, "transformer", cost=TRANSFORMER)
    assert about["spec"]["cost"] == {**TRANSFORMER, "stride": 16, "frame_stride": 1}
    rows = put(small, "measured", cost=MEASURED)["spec"]["cost"]["seconds"]
    assert rows == [{**row, "num_frames": 1} for row in MEASURED["seconds"]]  # type: ignore[attr-defined]
    for run in ("plain", "transformer", "measured"):  # what a run tells can be put again
        small.put(f"/v1/runs/{run}", small.get(f"/v1/runs/{run}")["spec"], 200)


def test_another_cost_is_another_plan(small: Api) -> None:
    plain = put(small, "plain")
    assert put(small, "said", cost={"kind": "pixels"})["fingerprint"] == plain["fingerprint"]
    put(small, "transformer", cost=TRANSFORMER)
    refused = small.session("transformer", "s", 409, resume=plain["state"])
    assert (refused["code"], refused["differs"], refused["fields"]) == ("plan_mismatch", ["spec"], ["cost"])
    assert put(small, "plain", 409, cost=TRANSFORMER)["fields"] == ["cost"]
    put(small, "transformer", 200)  # what is left out is what the run has


@pytest.mark.parametrize(
    ("cost", "limit", "sizes"),
    [
        ({"kind": "pixels"}, 5 * 2**19, [10, 5]),
        (TRANSFORMER, 4 * (2048 + 2048**2 / 384), [13, 4]),
        (MEASURED, 3.0, [12, 3]),
        (MEASURED, 1, [4, 1]),
    ],
)
def test_a_budget_of_cost_decides_the_batch_sizes(
    small: Api, cost: dict[str, Any], limit: float, sizes: list[int]
) -> None:
    spec = {"cost": cost, "max_cost_per_batch": limit, "batch_size": None, "ladder": LADDER}
    about = put(small, "run", **spec)
    assert about["spec"]["max_cost_per_batch"] == limit
    stats = small.get("/v1/runs/run/stats")
    assert [bucket["batch_size"] for bucket in stats["buckets"]] == sizes
    (told,) = small.post("/v1/previews", {"map": "small", "specs": [{"world_size": 2, **spec}]})["previews"]
    assert [bucket["batch_size"] for bucket in told["stats"]["buckets"]] == sizes
    served = small.get("/v1/runs/run/batches", epoch=0, step=0, rank=0, count=3)["batches"]
    assert {(batch["width"], len(batch["ids"])) for batch in served} <= {(512, sizes[0]), (1024, sizes[1])}


def wrong_row(index: int, **more: Any) -> dict[str, Any]:
    rows: list[Any] = [{**ROW, "batch_size": 1 + number} for number in range(index + 1)]
    rows[index] = {name: value for name, value in {**rows[index], **more}.items() if value is not None}
    return {"kind": "measured", "seconds": rows}


@pytest.mark.parametrize(
    ("cost", "field", "words"),
    [
        (wrong_row(3, width=0), "cost.seconds.3.width", "must be at least 1, got 0"),
        (wrong_row(3, width=None), "cost.seconds.3.width", "is missing"),
        (wrong_row(2, height=65_537), "cost.seconds.2.height", "must be at most 65536"),
        (wrong_row(2, num_frames=1.5), "cost.seconds.2.num_frames", "must be an integer"),
        (wrong_row(0, batch_size=0), "cost.seconds.0.batch_size", "at least 1"),
        (wrong_row(1, seconds=0), "cost.seconds.1.seconds", "must be at least"),
        (wrong_row(1, seconds="1"), "cost.seconds.1.seconds", "must be a number"),
        (wrong_row(1, second=1), "cost.seconds.1.second", "is it misspelt"),
        (wrong_row(4, batch_size=2), "cost.seconds.4", "is timed in row 1 already"),
        (wrong_row(4, batch_size=2, num_frames=1), "cost.seconds.4", "is timed in row 1 already"),
        ({"kind": "measured", "seconds": []}, "cost.seconds", "1 or more items"),
        ({"kind": "measured"}, "cost.seconds", "is missing"),
        ({"kind": "transformer"}, "cost.hidden_size", "is missing"),
        ({**TRANSFORMER, "stride": 0}, "cost.stride", "at least 1"),
        ({"kind": "pixels", "stride": 8}, "cost.stride", "is it misspelt"),
        ({"kind": "flops"}, "cost", "pixels, transformer, measured"),
        ({}, "cost", "pixels, transformer, measured"),
        ("pixels", "cost", "pixels, transformer, measured"),
        (None, "cost", "pixels, transformer, measured"),
    ],
)
def test_what_is_wrong_is_named(shared_api: Api, cost: Any, field: str, words: str) -> None:
    refused = put(shared_api, "run", 422, cost=cost)
    assert (refused["code"], refused["field"]) == ("invalid", field)
    assert words in refused["detail"]
    body = {"map": "small", "specs": [{"world_size": 2, "batch_size": 8, "cost": cost}]}
    (told,) = shared_api.post("/v1/previews", body)["previews"]
    assert told["problem"]["field"].endswith(field)


def test_a_run_from_before_there_was_a_choice_goes_on(tmp_path: Path) -> None:
    """Its document has neither ``cost`` nor a budget of it."""
    world = World(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "data")
    api = world.replica().api
    api.put_csv("small", SMALL, 201)
    about = put(api, "run")
    world.close()
    with sqlite3.connect(world.store_url.removeprefix("sqlite:///")) as store:
        (encoded,) = store.execute("SELECT document FROM runs").fetchone()
        document = json.loads(encoded)
        del document["spec"]["cost"], document["spec"]["max_cost_per_batch"]
        store.execute("UPDATE runs SET document = ?", (json.dumps(document, sort_keys=True).encode(),))
    store.close()
    api = world.replica().api
    assert api.get("/v1/runs/run")["status"] == "ready"
    assert put(api, "run", 200)["fingerprint"] == about["fingerprint"]
    assert api.session("run", "again", resume=about["state"])["cursor"] == {"epoch": 0, "step": 0}
    world.close()
