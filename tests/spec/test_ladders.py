"""Every kind of ladder in a run spec: planned, errors named, and fitted sizes stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from bucketline_service.planning.buckets import ladder_generators
from bucketline_service.planning.buckets.preset_ladders import PRESETS
from bucketline_service.runs.run_document import RunDocument
from bucketline_service.spec.ladder_kinds import PresetLadder
from bucketline_service.spec.run_spec import RunSpec
from tests.checked import Api
from tests.worlds import SMALL, World

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
FITTED = {"kind": "fitted", "num_buckets": 3, "max_size": [1024, 1024], "dim_limit": 2048}


@pytest.fixture
def small(api: Api) -> Api:
    api.put_csv("small", SMALL)
    return api


def sizes(api: Api, run: str) -> list[tuple[int, int]]:
    buckets = api.get(f"/v1/runs/{run}/stats")["buckets"]
    return [(bucket["width"], bucket["height"]) for bucket in buckets]


def crop_loss(api: Api, run: str) -> float:
    loss: float = api.get(f"/v1/runs/{run}/stats")["crop_loss"]["mean"]
    return loss


def put(api: Api, run: str, ladder: dict[str, Any], status: int = 201, **more: Any) -> dict[str, Any]:
    about: dict[str, Any] = api.put(f"/v1/runs/{run}", {**SPEC, "ladder": ladder, **more}, status)
    return about


def test_the_presets_of_the_spec_are_all_there_are() -> None:
    assert get_args(PresetLadder.model_fields["name"].annotation) == tuple(PRESETS)


def test_presets_and_geometric_are_planned(small: Api) -> None:
    for name, expected in PRESETS.items():
        put(small, name, {"kind": "preset", "name": name})
        assert sorted(sizes(small, name)) == sorted(expected)
    put(small, "geometric", {"kind": "geometric", "num_ar_buckets": 5, "base_res": 1024})
    assert sizes(small, "geometric") == ladder_generators.geometric(0.5, 2.0, 5, 1024, 32).sizes


def test_one_plan_serves_all_who_name_the_same_sizes(small: Api) -> None:
    prints = [
        put(small, f"run{number}", kind)["fingerprint"]
        for number, kind in enumerate(
            [
                {"kind": "preset", "name": "sdxl"},
                {"kind": "preset", "name": "pixart-1024"},
                {"kind": "explicit", "sizes": [list(size) for size in PRESETS["sdxl"]]},
            ]
        )
    ]
    assert len(set(prints)) == 1


def test_fitted_is_planned_and_better(small: Api) -> None:
    about = put(small, "fitted", FITTED)
    assert about["spec"]["ladder"] == {**FITTED, "divisible": 64, "min_dim": 256, "min_fill": 0.75}
    put(small, "geometric", {"kind": "geometric", "num_ar_buckets": 3, "base_res": 1024})
    assert len(sizes(small, "fitted")) == 3
    assert crop_loss(small, "fitted") < crop_loss(small, "geometric")
    explicit = [list(size) for size in sizes(small, "fitted")]
    same = put(small, "explicit", {"kind": "explicit", "sizes": explicit})
    assert same["fingerprint"] == about["fingerprint"]


def test_fitted_can_be_put_again_and_is_not_another(small: Api) -> None:
    first = put(small, "fitted", FITTED)
    assert put(small, "fitted", FITTED, 200)["fingerprint"] == first["fingerprint"]
    assert put(small, "fitted", {**FITTED, "num_buckets": 2}, 409)["code"] == "conflict"


def test_fitted_is_for_the_ids_that_count(small: Api) -> None:
    """The images with numbers divisible by 15 are all 512 x 512."""
    squares = list(range(0, 200, 15))
    put(small, "listed", FITTED, valid_ids=squares, batch_size=2)
    small.put_csv("squares", "id,width,height\n" + "".join(f"{i},1,1\n" for i in squares))
    put(small, "named", FITTED, valid_ids="squares", batch_size=2)
    assert sizes(small, "listed") == sizes(small, "named") == [(1024, 1024)]


def test_what_was_fitted_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that opens the run does not look at the images again: a later version may choose otherwise."""
    world = World(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "data")
    first = world.replica().api
    first.put_csv("small", SMALL)
    put(first, "run", FITTED)
    question = {"epoch": 2, "step": 0, "rank": 1, "count": 10}
    expected = first.get("/v1/runs/run/batches", **question)

    def choose(*args: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr("bucketline_service.spec.ladder_kinds.fitted", choose)
    for folder in (world.data_dir / "plans").glob("*"):
        for file in folder.glob("*"):
            file.unlink()
    second = world.replica().api
    assert second.get("/v1/runs/run/batches", **question) == expected
    while (again := put(second, "run", FITTED, 200))["status"] == "planning":
        pass  # each answer waits a moment for the plan
    assert again["status"] == "ready"
    world.close()


def test_a_run_of_before_there_were_fitted_ladders_opens() -> None:
    spec = RunSpec(map="m", world_size=1, batch_size=1).resolved()
    document = RunDocument(spec, "f", ["m"], [None], 0.0)
    about = json.loads(document.encode())
    del about["fitted_sizes"]
    assert RunDocument.decode("run", json.dumps(about).encode()) == document


WRONG = [
    ({"kind": "geometric", "min_ar": 0}, "ladder.min_ar"),
    ({"kind": "geometric", "min_ar": "0.5"}, "ladder.min_ar"),
    ({"kind": "geometric", "min_ar": 0.0001}, "ladder.min_ar"),
    ({"kind": "geometric", "max_ar": None}, "ladder.max_ar"),
    ({"kind": "geometric", "max_ar": 0.4}, "ladder.max_ar"),
    ({"kind": "geometric", "num_ar_buckets": 0}, "ladder.num_ar_buckets"),
    ({"kind": "geometric", "num_ar_buckets": 1.5}, "ladder.num_ar_buckets"),
    ({"kind": "geometric", "base_res": 10}, "ladder.base_res"),
    ({"kind": "geometric", "divisible": 10**6}, "ladder.divisible"),
    ({"kind": "preset"}, "ladder.name"),
    ({"kind": "preset", "name": "sd3"}, "ladder.name"),
    ({"kind": "preset", "name": "sdxl", "divisible": 64}, "ladder.divisible"),
    ({"kind": "fitted", "num_buckets": 0}, "ladder.num_buckets"),
    ({"kind": "fitted", "num_buckets": 4097}, "ladder.num_buckets"),
    ({"kind": "fitted", "max_size": [128, 128]}, "ladder.max_size"),
    ({"kind": "fitted", "divisible": 1}, "ladder.divisible"),
    ({"kind": "fitted", "min_dim": True}, "ladder.min_dim"),
    ({"kind": "fitted", "dim_limit": 100}, "ladder.dim_limit"),
    ({"kind": "fitted", "min_fill": 1.5}, "ladder.min_fill"),
    ({"kind": "fitted", "base_res": 512}, "ladder.base_res"),
]


@pytest.mark.parametrize(("kind", "field"), WRONG)
def test_a_field_that_is_wrong_is_named(shared_api: Api, kind: dict[str, Any], field: str) -> None:
    problem = put(shared_api, "run", kind, 422)
    assert (problem["code"], problem["field"]) == ("invalid", field)
    shared_api.get("/v1/runs/run", 404)


@pytest.mark.parametrize("kind", [FITTED, {"kind": "geometric"}, {"kind": "preset", "name": "sdxl"}])
def test_the_novelai_planner_has_its_own_ladder_only(shared_api: Api, kind: dict[str, Any]) -> None:
    assert put(shared_api, "run", kind, 422, planner="novelai")["field"] == "ladder.kind"
