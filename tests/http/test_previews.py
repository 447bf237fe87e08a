"""A preview shows in advance what a run's stats show later."""

from __future__ import annotations

from typing import Any

import pytest

from bucketline_service.previews import estimate
from tests.checked import Api
from tests.worlds import SMALL

SPEC = {"world_size": 2, "batch_size": 8}
OF_A_RUN = {"run", "fingerprint", "planner", "epoch", "world_size", "lockstep"}
SPECS: list[dict[str, Any]] = [
    {},
    *({"tails": tails} for tails in ("spill", "pad", "catch_all")),
    {"last_step": "fill", "lockstep": 5, "world_size": 3},
    *({"tails": tails, "lockstep": 5, "world_size": 3} for tails in ("shift", "drop", "short")),
    {"max_pixels_per_batch": 2**21, "batch_size": None},
    *({"tails": tails, "steps": "same_shape"} for tails in ("shift", "spill", "drop")),
    *(
        {"tails": tails, "steps": "same_shape", "lockstep": 5, "world_size": 3}
        for tails in ("spill", "pad", "catch_all")
    ),
    {"ladder": {"kind": "preset", "name": "sdxl"}, "assign": {"max_crop_loss": 0.1}},
    {"ladder": {"kind": "fitted", "num_buckets": 3}},
    {"ladder": {"kind": "fitted", "num_buckets": 3}, "valid_ids": list(range(0, 150))},
    {"ladder": {"kind": "kohya"}, "valid_ids": "even"},
    {"ladder": {"kind": "kohya", "bucket_no_upscale": True}, "valid_ids": "even"},
    {"planner": "novelai"},
    {"planner": "novelai", "valid_ids": list(range(10, 190))},
]


def close(stats: Any) -> Any:
    """All floats to 12 digits, all else as it is."""
    if isinstance(stats, dict):
        return {name: close(value) for name, value in stats.items()}
    if isinstance(stats, list):
        return [close(value) for value in stats]
    return pytest.approx(stats, rel=1e-12, abs=1e-15) if isinstance(stats, float) else stats


def test_previews_are_the_stats_of_the_runs(api: Api) -> None:
    api.put_csv("small", SMALL)
    api.put_csv("even", "id,width,height\n" + "".join(f"{i},1,1\n" for i in range(0, 200, 2)))
    previews: list[Any] = []
    for some in (SPECS[:12], SPECS[12:]):
        found = api.post("/v1/previews", {"map": "small", "specs": [{**SPEC, **spec} for spec in some]})
        assert (found["map"], found["num_images"]) == ("small", 200)
        previews += found["previews"]
    for spec, told in zip(SPECS, previews, strict=True):
        run = api.put("/v1/runs/run", {"map": "small", **SPEC, **spec}, 201)
        stats = api.get("/v1/runs/run/stats")
        assert {**told["spec"], "map": "small", "maps": None} == run["spec"]
        assert run["warnings"] in (
            told["warnings"],
            None,
        )  # None on a busy machine that has not computed them yet
        assert told["stats"] == close({name: stats[name] for name in stats.keys() - OF_A_RUN})
        api.ask("DELETE", "/v1/runs/run", 204)


def test_nothing_is_kept(api: Api) -> None:
    api.put_csv("small", SMALL)
    first = api.post("/v1/previews", {"map": "small", "specs": [SPEC]})
    assert api.post("/v1/previews", {"map": "small", "specs": [SPEC]}) == first
    assert api.get("/v1/runs")["runs"] == []
    api.ask("DELETE", "/v1/maps/small", 204)


@pytest.mark.parametrize(
    ("wrong", "code", "field"),
    [
        ({"batch_size": 150}, "invalid", "batch_size"),
        ({"world_size": 300, "batch_size": 1, "lockstep": 1}, "invalid", "world_size"),
        ({"planner": "novelai", "tails": "pad"}, "invalid", "tails"),
        ({"ladder": {"kind": "novelai", "min_dim": 2000}}, "invalid", "ladder.dim_limit"),
        ({"assign": {"min_size": 5000}}, "invalid", "assign"),
        ({"valid_ids": [1, 2, 999]}, "invalid", "valid_ids"),
        ({"valid_ids": "nothing"}, "not_found", None),
        ({"valid_ids": "no name"}, "invalid", "valid_ids"),
    ],
)
def test_one_that_can_not_be_met_does_not_hide_the_others(
    shared_api: Api, wrong: dict[str, Any], code: str, field: str | None
) -> None:
    specs = [SPEC, {**SPEC, **wrong}, {**SPEC, "tails": "drop"}]
    one, two, three = shared_api.post("/v1/previews", {"map": "small", "specs": specs})["previews"]
    assert one["stats"]["num_images"] == three["stats"]["num_images"] == 200
    assert "stats" not in two
    assert (two["problem"]["code"], two["problem"].get("field")) == (code, field)
    assert two["problem"]["status"] == (404 if code == "not_found" else 422)
    assert {name: two["spec"][name] for name in wrong if name != "ladder"}.keys() == wrong.keys() - {"ladder"}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"batch_size": 8}, "world_size"),
        ({**SPEC, "batch_size": "8"}, "batch_size"),
        ({**SPEC, "map": "small"}, "map"),
        ({**SPEC, "ladder": {"kind": "kohya", "x": 1}}, "ladder.x"),
        ([], "body"),
        (None, "body"),
    ],
)
def test_one_that_is_no_spec_does_not_hide_the_others(shared_api: Api, wrong: Any, field: str) -> None:
    body = {"map": "small", "specs": [SPEC, wrong, SPEC]}
    one, two, three = shared_api.post("/v1/previews", body)["previews"]
    assert one["stats"] == three["stats"]
    assert (two["spec"], two["problem"]["code"], two["problem"]["field"]) == (None, "invalid", field)
    only = shared_api.post("/v1/previews", {"map": "small", "specs": [wrong]})
    assert (only["num_images"], only["previews"]) == (200, [two])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"map": "small"}, "specs"),
        ({"specs": [SPEC]}, "map"),
        ({"map": "small", "specs": []}, "specs"),
        ({"map": "small", "specs": [SPEC] * 17}, "specs"),
        ({"map": "small", "specs": SPEC}, "specs"),
        ({"map": "small", "specs": [SPEC], "more": 1}, "more"),
        ({"map": "a/b", "specs": [SPEC]}, "map"),
        ([], "body"),
    ],
)
def test_bad_bodies_are_told_by_field(shared_api: Api, body: Any, field: str) -> None:
    assert shared_api.post("/v1/previews", body, 422)["field"] == field


def test_a_map_that_is_not_there(shared_api: Api) -> None:
    assert shared_api.post("/v1/previews", {"map": "none", "specs": [SPEC]}, 404)["code"] == "not_found"


def test_novelai_is_for_integer_ids_and_not_too_many(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.put_csv("named", "id,width,height\n" + "".join(f"x{i},512,512\n" for i in range(40)))
    novelai = {**SPEC, "planner": "novelai"}
    body = {"map": "named", "specs": [novelai]}
    problem = api.post("/v1/previews", body)["previews"][0]["problem"]
    assert (problem["field"], "integer ids" in problem["detail"]) == ("planner", True)
    monkeypatch.setattr(estimate, "MAX_PLANNED_IMAGES", 39)
    problem = api.post("/v1/previews", body)["previews"][0]["problem"]
    assert (problem["field"], "at most 39 images" in problem["detail"]) == ("planner", True)


def test_people_get_a_table_and_charts(shared_api: Api) -> None:
    """On request; the numbers are the same, and the best of a row is marked."""
    specs = [SPEC, {**SPEC, "tails": "drop"}, {**SPEC, "assign": {"min_size": 5000}}]
    body = {"map": "small", "specs": specs}
    plain = shared_api.post("/v1/previews", body)
    told = shared_api.post("/v1/previews?figure=dark", {**body, "names": ["<b>one", "two", "three"]})
    assert "comparison" not in plain
    figures = [each.pop("figure", None) for each in told["previews"]]
    found = told.pop("comparison")
    assert told == plain
    assert [figure is not None for figure in figures] == [True, True, False]
    stats = [each["stats"] for each in plain["previews"][:2]]
    rows = {row["label"]: row for row in found["rows"]}
    assert rows["left out"]["cells"] == [*(f"{each['dropped']:,}" for each in stats), None]
    assert rows["left out"]["best"] == [True, False, False]
    mixed = [each["mixed_steps"] for each in stats]
    assert rows["of mixed shapes"]["best"] == [*(num < max(mixed) for num in mixed), False]
    assert rows["images"]["best"] == rows["repeated"]["best"] == [False] * 3
    assert "min_size" not in rows
    names = found["figure"]["layout"]["yaxis"]["ticktext"]
    assert names == ["&lt;b&gt;one", "two", "three"]
    light, narrow = (
        shared_api.post(f"/v1/previews?figure={query}", body)["comparison"]["figure"]["layout"]
        for query in ("light", "light&narrow=true")
    )
    assert light["template"] != found["figure"]["layout"]["template"]
    assert light["yaxis"]["ticktext"][2] == "spec 3"
    assert light["height"] < narrow["height"]


def test_a_reason_that_prunes_has_a_row(shared_api: Api) -> None:
    specs = [SPEC, {**SPEC, "assign": {"min_size": 520}}]
    told = shared_api.post("/v1/previews?figure=light", {"map": "small", "specs": specs})
    rows = {row["label"]: row for row in told["comparison"]["rows"]}
    num = told["previews"][1]["stats"]["pruned"]["min_size"]
    assert rows["min_size"]["cells"] == rows["pruned"]["cells"] == ["0", str(num)]
    assert (rows["min_size"]["level"], rows["pruned"]["best"]) == (2, [True, False])


@pytest.mark.parametrize(
    ("query", "more", "field"),
    [
        ("figure=blue", {}, "figure"),
        ("narrow=perhaps", {}, "narrow"),
        ("theme=dark", {}, "theme"),
        ("figure=dark", {"names": ["one", "two"]}, "names"),
        ("figure=dark", {"names": [""]}, "names.0"),
    ],
)
def test_a_chart_that_can_not_be(shared_api: Api, query: str, more: dict[str, Any], field: str) -> None:
    body = {"map": "small", "specs": [SPEC], **more}
    assert shared_api.post(f"/v1/previews?{query}", body, 422)["field"] == field
