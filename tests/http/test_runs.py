from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.checked import Api

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
PutRun = Callable[..., dict[str, Any]]


def test_a_run_is_born_with_generation_1_at_the_beginning(put_run: PutRun, api: Api) -> None:
    run = put_run()
    assert run["status"] == "ready"
    assert (run["generation"], run["session"], run["world_size"]) == (1, None, 2)
    state = run["state"]
    assert (state["epoch"], state["step"], state["offset"], state["world_size"]) == (0, 0, 0, 2)
    assert state["fingerprint"] == run["fingerprint"]
    assert run["num_steps"] == api.get("/v1/runs/run/stats")["num_steps"] > 0
    assert run["spec"]["lockstep"] == 2
    assert api.get("/v1/runs/run") == run
    assert api.get("/v1/runs") == {"runs": [run]}


def test_the_same_spec_again_is_200_also_with_defaults_written_out(put_run: PutRun, api: Api) -> None:
    run = put_run()
    assert api.put("/v1/runs/run", SPEC, 200) == run
    assert api.put("/v1/runs/run", run["spec"], 200) == run
    defaults = {"steps": "balanced", "tails": "shift", "last_step": "drop", "seed": 42}
    assert {name: run["spec"][name] for name in defaults} == defaults
    assert api.put("/v1/runs/run", {**SPEC, **defaults}, 200) == run


def test_of_steps_of_one_shape_too_and_it_may_leave_out_how_they_are_made(put_run: PutRun, api: Api) -> None:
    """As one does that was written before there were other steps."""
    run = put_run(steps="same_shape")
    told = {name: run["spec"][name] for name in ("steps", "tails", "last_step")}
    assert told == {"steps": "same_shape", "tails": "spill", "last_step": None}
    for same in (SPEC, run["spec"], {**SPEC, "tails": "spill"}, {**SPEC, "steps": "same_shape"}):
        assert api.put("/v1/runs/run", same, 200) == run
    problem = api.put("/v1/runs/run", {**SPEC, "steps": "balanced"}, 409)
    assert (problem["code"], "steps" in problem["fields"]) == ("conflict", True)


def test_another_spec_is_a_conflict_that_names_the_fields(put_run: PutRun, api: Api) -> None:
    run = put_run()
    problem = api.put("/v1/runs/run", {**SPEC, "seed": 1, "tails": "pad"}, 409)
    assert (problem["code"], problem["fields"]) == ("conflict", ["seed", "tails"])
    assert api.get("/v1/runs/run") == run


def test_world_size_is_no_part_of_the_fingerprint_but_lockstep_is(put_run: PutRun) -> None:
    one = put_run("one", lockstep=4)
    assert put_run("two", world_size=4, lockstep=4)["fingerprint"] == one["fingerprint"]
    assert put_run("three", lockstep=2)["fingerprint"] != one["fingerprint"]


def test_deleting_a_run_leaves_another_with_the_same_plan_at_work(put_run: PutRun, api: Api) -> None:
    put_run("one")
    put_run("two")
    lease = api.lease("two", 0)["lease"]
    first = api.next("two", 0, lease)["batches"]
    api.ask("DELETE", "/v1/runs/one?force=true", 204)
    assert api.next("two", 0, lease)["batches"] == first
    api.ask("DELETE", "/v1/runs/two?force=true", 204)
    assert api.get("/v1/runs") == {"runs": []}
    assert api.get("/v1/runs/two", 404)["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/runs/none", None),
        ("DELETE", "/v1/runs/none", None),
        ("GET", "/v1/runs/none/stats", None),
        ("GET", "/v1/runs/none/ranks", None),
        ("GET", "/v1/runs/none/images/1", None),
        ("GET", "/v1/runs/none/batches?epoch=0&step=0&rank=0", None),
        ("POST", "/v1/runs/none/sessions", {"session": "s"}),
        ("POST", "/v1/runs/none/ranks/0/lease", {"holder": "h"}),
        ("POST", "/v1/runs/none/ranks/0/next", {"lease": 0}),
        ("GET", "/v1/runs/no%20name%00", None),
        ("GET", "/v1/runs/none/nothing", None),
        ("GET", "/nothing", None),
    ],
)
def test_an_unknown_run(steady: Api, method: str, path: str, body: Any) -> None:
    assert steady.ask(method, path, 404, json=body).json()["code"] == "not_found"


def test_an_unknown_map(api: Api) -> None:
    assert api.put("/v1/runs/run", {**SPEC, "map": "none"}, 404)["code"] == "not_found"
    assert api.get("/v1/runs") == {"runs": []}


def test_unknown_ranks_and_images(steady: Api) -> None:
    assert steady.lease("run", 2, status=404)["code"] == "not_found"
    assert steady.next("run", 2, 2, status=404)["code"] == "not_found"
    assert steady.get("/v1/runs/run/batches", 404, epoch=0, step=0, rank=2)["code"] == "not_found"
    for image in ("200", "-1", "x", "9" * 400, "01"):
        assert steady.get(f"/v1/runs/run/images/{image}", 404)["code"] == "not_found"
    assert steady.cursors("run") == [(0, 2), (0, 0)]


UNMEETABLE = [
    ({"world_size": 200, "lockstep": 1}, "world_size"),
    ({"world_size": 26}, "batch_size"),
    ({"batch_size": 201}, "batch_size"),
    ({"lockstep": 1000}, "batch_size"),
    ({"world_size": 26, "planner": "novelai"}, "world_size"),
    ({"tails": "drop", "batch_size": 60}, "batch_size"),
    ({"steps": "same_shape", "tails": "drop", "batch_size": 40}, "tails"),
    ({"steps": "same_shape", "tails": "short"}, "tails"),
    ({"steps": "same_shape", "last_step": "drop"}, "last_step"),
    ({"tails": "short", "last_step": "fill"}, "last_step"),
    ({"ladder": {"kind": "novelai", "max_size": [64, 64]}}, "ladder.max_size"),
    ({"ladder": {"kind": "novelai", "dim_limit": 100}}, "ladder.dim_limit"),
    ({"ladder": {"kind": "kohya", "resolution": 64}}, "ladder.resolution"),
    ({"ladder": {"kind": "kohya", "bucket_reso_steps": 1000}}, "ladder.min_bucket_reso"),
    ({"ladder": {"kind": "explicit", "sizes": [[512, 512], [512, 512]]}}, "ladder.sizes[1]"),
    ({"ladder": {"kind": "explicit", "sizes": [[10**30, 512]]}}, "ladder.sizes.0.0"),
    ({"assign": {"min_size": 60_000}}, "assign"),
    ({"valid_ids": [1, 2, 1000]}, "valid_ids"),
    ({"valid_ids": ["a"]}, "valid_ids"),
    ({"valid_ids": "no name"}, "valid_ids"),
    ({"valid_ids": [10**30]}, "valid_ids.0"),
    ({"planner": "novelai", "tails": "pad"}, "tails"),
    ({"planner": "novelai", "lockstep": 2}, "lockstep"),
    ({"planner": "novelai", "steps": "balanced"}, "steps"),
    ({"planner": "novelai", "last_step": "fill"}, "last_step"),
    ({"planner": "novelai", "assign": {"metric": "log"}}, "assign.metric"),
    ({"planner": "novelai", "assign": {"max_crop_loss": 0.5}}, "assign.max_crop_loss"),
    ({"planner": "novelai", "assign": {"min_size": 1}}, "assign.min_size"),
    ({"planner": "novelai", "ladder": {"kind": "kohya"}}, "ladder.kind"),
]


@pytest.mark.parametrize(("change", "field"), UNMEETABLE)
def test_a_spec_that_can_not_be_met_leaves_nothing(steady: Api, change: dict[str, Any], field: str) -> None:
    for _ in range(2):  # what is remembered of the first answers the second
        problem = steady.put("/v1/runs/new", {**SPEC, **change}, 422)
        assert (problem["code"], problem["field"]) == ("invalid", field)
        assert problem["detail"].startswith(f"{field}: ")
    assert [run["run"] for run in steady.get("/v1/runs")["runs"]] == ["run", "short"]


WRONG = [
    *(
        (name, value, name)
        for name in ("world_size", "batch_size")
        for value in (0, -1, 1.5, "8", True, None, 10**9)
    ),
    *(("seed", value, "seed") for value in (-1, 2**32, "1", 1.0, False)),
    *(("lockstep", value, "lockstep") for value in (0, 2**20 + 1, "2", [])),
    *(("epochs", value, "epochs") for value in (0, 2**31, "1", 0.5)),
    *(("planner", value, "planner") for value in ("other", 1, None)),
    *(("tails", value, "tails") for value in ("other", 1)),
    *(("steps", value, "steps") for value in ("other", 1)),
    *(("last_step", value, "last_step") for value in ("other", 1)),
    *(("map", value, "map") for value in (1, None, [])),
    *(("valid_ids", value, "valid_ids") for value in (1, {}, [])),
    *(("valid_ids", value, "valid_ids.0") for value in ([1.5], [True], [None], [["a"]])),
    *(("valid_ids", value, "valid_ids.1") for value in ([1, 2.5],)),
    ("ladder", None, "ladder"),
    ("ladder", [], "ladder"),
    ("ladder", {"kind": []}, "ladder"),
    ("ladder", {"kind": "other"}, "ladder"),
    ("ladder", {"kind": "novelai", "other": 1}, "ladder.other"),
    ("ladder", {"kind": "novelai", "max_size": 512}, "ladder.max_size"),
    ("ladder", {"kind": "novelai", "max_size": [512]}, "ladder.max_size.1"),
    ("ladder", {"kind": "novelai", "max_size": [512, 512, 512]}, "ladder.max_size"),
    ("ladder", {"kind": "novelai", "max_size": [512, "512"]}, "ladder.max_size.1"),
    ("ladder", {"kind": "novelai", "base_res": [0, 512]}, "ladder.base_res.0"),
    ("ladder", {"kind": "novelai", "divisible": 0}, "ladder.divisible"),
    ("ladder", {"kind": "novelai", "min_dim": 1.5}, "ladder.min_dim"),
    ("ladder", {"kind": "novelai", "dim_limit": -1}, "ladder.dim_limit"),
    ("ladder", {"kind": "kohya", "resolution": "512"}, "ladder.resolution"),
    ("ladder", {"kind": "kohya", "resolution": [512, 0]}, "ladder.resolution"),
    ("ladder", {"kind": "kohya", "min_bucket_reso": 0}, "ladder.min_bucket_reso"),
    ("ladder", {"kind": "kohya", "max_bucket_reso": None}, "ladder.max_bucket_reso"),
    ("ladder", {"kind": "kohya", "bucket_reso_steps": "64"}, "ladder.bucket_reso_steps"),
    ("ladder", {"kind": "explicit"}, "ladder.sizes"),
    ("ladder", {"kind": "explicit", "sizes": []}, "ladder.sizes"),
    ("ladder", {"kind": "explicit", "sizes": [[512, 512], [1]]}, "ladder.sizes.1.1"),
    ("assign", None, "assign"),
    ("assign", {"metric": "other"}, "assign.metric"),
    ("assign", {"max_ar_error": 0}, "assign.max_ar_error"),
    ("assign", {"max_ar_error": "4"}, "assign.max_ar_error"),
    ("assign", {"max_ar_error": True}, "assign.max_ar_error"),
    ("assign", {"max_crop_loss": 1.1}, "assign.max_crop_loss"),
    ("assign", {"max_crop_loss": -0.1}, "assign.max_crop_loss"),
    ("assign", {"min_size": 0}, "assign.min_size"),
    ("assign", {"min_size": 10**30}, "assign.min_size"),
    ("assign", {"min": 1}, "assign.min"),
    ("other", 1, "other"),
]


@pytest.mark.parametrize(("name", "value", "field"), WRONG)
def test_a_field_that_is_wrong_is_named(shared_api: Api, name: str, value: Any, field: str) -> None:
    problem = shared_api.put("/v1/runs/run", {**SPEC, name: value}, 422)
    assert (problem["code"], problem["field"].partition(".")[0]) == ("invalid", name)
    assert problem["field"] == field or problem["field"] == field.rpartition(".")[0] or name == "ladder"
    assert problem["field"].startswith(field.rpartition(".")[0])
    assert len(problem["detail"]) > len(problem["field"]) + 10
    shared_api.get("/v1/runs/run", 404)


def test_a_ladder_is_novelai_s_unless_it_says_its_kind(put_run: PutRun, api: Api) -> None:
    put_run(ladder={"max_size": [512, 512]})
    run = api.put("/v1/runs/run", {**SPEC, "ladder": {"kind": "novelai", "max_size": [512, 512]}}, 200)
    assert run["spec"]["ladder"]["kind"] == "novelai"
    assert put_run("plain", ladder={})["spec"]["ladder"] == put_run("bare")["spec"]["ladder"]


PAIR = "Give [width, height]"
TAILS = "'shift', 'spill', 'pad', 'drop', 'catch_all' or 'short'"
WORDS = (
    "novelai, kohya, geometric, fitted, native, sd15, sdxl, pixart-512, pixart-1024, or an object, "
    'e.g. {"kind": "kohya", "resolution": 512}'
)
KINDS = "novelai, kohya, geometric, preset, fitted, explicit, native, tiers"


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (
            {"ladder": {"resolution": 512}},
            'ladder: resolution is a field of kind kohya and tiers: add "kind": "kohya"',
        ),
        (
            {"ladder": {"divisible": 8, "sizes": []}},
            'ladder: sizes is a field of kind explicit: add "kind": "explicit"',
        ),
        ({"ladder": {"kind": "other"}}, f"ladder: kind must be one of {KINDS}, got 'other'"),
        ({"ladder": {"kind": None}}, f"ladder: kind must be one of {KINDS}, got None"),
        (
            {"ladder": "explicit"},
            f'ladder: must be one of {WORDS}, got "explicit"',
        ),
        ({"ladder": 5}, f"ladder: must be one of {WORDS}, got 5"),
        ({"seed": -1}, "seed: must be at least 0, got -1"),
        ({"seed": None}, "seed: must be an integer, got null"),
        ({"tails": "dorp"}, f'tails: must be {TAILS}, got "dorp"'),
        ({"steps": "equal"}, "steps: must be 'balanced' or 'same_shape', got \"equal\""),
        (
            {"steps": "same_shape", "last_step": "fill"},
            "last_step: has no effect with steps: same_shape, whose tails are in whole units. Leave it out, or use "
            "tails: pad",
        ),
        (
            {"steps": "same_shape", "tails": "short"},
            "tails: short batches stand beside others at a step, so that it has no one shape. Use it with steps: "
            "balanced",
        ),
        ({"assign": {"max_crop_loss": 2}}, "assign.max_crop_loss: must be at most 1, got 2"),
        ({"ladder": {"kind": "explicit", "sizes": []}}, "ladder.sizes: must have 1 or more items, got 0"),
        ({"ladder": {"kind": "preset"}}, "ladder.name: is missing, and has no default"),
        ({"assign": 5}, "assign: must be an object, got 5"),
        (
            {"ladder": {"max_size": 768}},
            f"ladder.max_size: must be a pair of integers, got 768. {PAIR}",
        ),
        (
            {"ladder": {"kind": "explicit", "sizes": [[512]]}},
            f"ladder.sizes.0: must be a pair of integers. {PAIR}",
        ),
        (
            {"ladder": {"kind": "explicit", "sizes": [[1, 2], [1, 2, 3]]}},
            f"ladder.sizes.1: must be a pair of integers. {PAIR}",
        ),
        (
            {"ladder": {"kind": "kohya", "resolution": [512]}},
            f"ladder.resolution: must be a pair of integers. {PAIR}",
        ),
        ({"sead": 1}, "sead: there is no such field: is it misspelt?"),
        ({"valid_ids": ["x"]}, "valid_ids: must be in the map; missing are 'x'. The ids of this map are integers"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_where_it_is(shared_api: Api, change: dict[str, Any], detail: str) -> None:
    assert shared_api.put("/v1/runs/run", {**SPEC, **change}, 422)["detail"] == detail


@pytest.mark.parametrize("name", ["map", "world_size", "batch_size"])
def test_a_field_that_is_missing_is_named(shared_api: Api, name: str) -> None:
    spec = {field: value for field, value in SPEC.items() if field != name}
    assert shared_api.put("/v1/runs/run", spec, 422)["field"] == name


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{"),
        ("application/json", b""),
        ("application/json", b"null"),
        ("application/json", b"[]"),
        ("application/json", b"\xff\xfe"),
        ("application/json", b"[" * 100_000),
        ("application/json", b'{"seed": ' + b"9" * 5000 + b"}"),
        ("text/csv", b"{}"),
        ("", b"{}"),
    ],
)
def test_a_body_that_is_no_json_object(shared_api: Api, content_type: str, body: bytes) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    problem = shared_api.ask("PUT", "/v1/runs/run", 422, content=body, headers=headers).json()
    assert problem["field"] == "body"
    assert "Send one JSON object" in problem["detail"]


def test_broken_json_is_told_where(shared_api: Api) -> None:
    body, headers = b'{"map": "small",\n "seed": 1 2}', {"Content-Type": "application/json"}
    problem = shared_api.ask("PUT", "/v1/runs/run", 422, content=body, headers=headers).json()
    assert "must be JSON, got an error at line 2, column 12: Expecting ',' delimiter" in problem["detail"]


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(shared_api: Api, text: str) -> None:
    body = f'{{"map": "small", "world_size": 2, "batch_size": 8, "assign": {{"max_ar_error": {text}}}}}'
    headers = {"Content-Type": "application/json"}
    problem = shared_api.ask("PUT", "/v1/runs/run", 422, content=body, headers=headers).json()
    assert problem["field"] == "assign.max_ar_error"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "epoch"),
        ("epoch=0&step=0", "rank"),
        ("epoch=-1&step=0&rank=0", "epoch"),
        ("epoch=0&step=x&rank=0", "step"),
        ("epoch=0&step=0&rank=-1", "rank"),
        ("epoch=0&step=0&rank=0&count=0", "count"),
        ("epoch=0&step=0&rank=0&count=1025", "count"),
        ("epoch=0&step=0&rank=0&world_size=0", "world_size"),
        ("epoch=0&step=0&rank=0&world_size=16000", "world_size"),
        ("epoch=0&step=100000&rank=0", "step"),
        (f"epoch={2**31}&step=0&rank=0", "epoch"),
    ],
)
def test_batches_that_are_none(steady: Api, query: str, field: str) -> None:
    assert steady.ask("GET", f"/v1/runs/run/batches?{query}", 422).json()["field"] == field


@pytest.mark.parametrize(
    ("word", "ladder"),
    [
        ("novelai", {"kind": "novelai"}),
        ("kohya", {"kind": "kohya"}),
        ("fitted", {"kind": "fitted"}),
        ("sdxl", {"kind": "preset", "name": "sdxl"}),
        ("pixart-512", {"kind": "preset", "name": "pixart-512"}),
    ],
)
def test_a_ladder_that_a_word_says_is_the_same_as_its_object(
    shared_api: Api, word: str, ladder: dict[str, str]
) -> None:
    spelt = shared_api.put("/v1/runs/spelt", {**SPEC, "ladder": ladder}, 201)
    assert shared_api.put("/v1/runs/spelt", {**SPEC, "ladder": word}, 200) == spelt
    shared_api.ask("DELETE", "/v1/runs/spelt", 204)
