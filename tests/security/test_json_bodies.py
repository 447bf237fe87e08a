"""JSON bodies that are made to be expensive: each is refused with a short error, before it has cost much."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bucketline_service.http.body_limits import MAX_FIELDS, MAX_LISTS, MAX_VALUES
from tests.checked import Api
from tests.server import ServerProcess
from tests.worlds import SMALL

SPEC: dict[str, Any] = {"map": "small", "world_size": 2, "batch_size": 8}
PLAN = {"world_size": 2, "batch_size": 8}
TIMING = ("width", "height", "num_frames", "batch_size", "seconds")
GOOD_TIMING = dict.fromkeys(TIMING, 1)
JSON = {"Content-Type": "application/json"}
RUN, PREVIEWS, MAP = ("PUT", "/v1/runs/r"), ("POST", "/v1/previews"), ("PUT", "/v1/maps/other")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("json") / "data")
    api = server.api()
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", SPEC, 201)
    yield server
    server.close()


@pytest.fixture(scope="module")
def api(server: ServerProcess) -> Api:
    return server.api()


def spec(**more: Any) -> bytes:
    return json.dumps({**SPEC, **more}, separators=(",", ":")).encode()


def previews(**more: Any) -> bytes:
    return json.dumps({"map": "small", "specs": [PLAN], **more}, separators=(",", ":")).encode()


def fields(num: int) -> dict[str, int]:
    return dict.fromkeys(map(str, range(num)), 1)


def explicit(num: int, size: Any) -> dict[str, Any]:
    return {"kind": "explicit", "sizes": [size] * num}


COSTLY: dict[str, tuple[tuple[str, str], Callable[[], bytes]]] = {
    "ids that are lists": (RUN, lambda: spec(valid_ids=[[]] * 2_600_000)),
    "fewer of them": (RUN, lambda: spec(valid_ids=[[]] * (MAX_LISTS - 9))),
    "ids that are numbers of another kind": (RUN, lambda: spec(valid_ids=[1.5] * 500_000)),
    "ids of two kinds": (RUN, lambda: spec(valid_ids=[*range(60_000), "x", *["y"] * 5_000])),
    "maps that are numbers": (RUN, lambda: spec(maps=[0] * 4_000_000)),
    "fewer maps": (RUN, lambda: spec(maps=[0] * 500_000)),
    "maps without a name": (RUN, lambda: spec(maps=[{}] * (MAX_LISTS - 9))),
    "sizes that are empty": (RUN, lambda: spec(ladder=explicit(2_600_000, []))),
    "fewer sizes": (RUN, lambda: spec(ladder=explicit(MAX_LISTS - 9, []))),
    "sizes of strings": (RUN, lambda: spec(ladder=explicit(150_000, ["a", "b"]))),
    "sizes, good but many": (RUN, lambda: spec(ladder=explicit(100_000, [512, 512]))),
    "lengths that are lists": (RUN, lambda: spec(frame_buckets=[[]] * 2_600_000)),
    "fewer lengths": (RUN, lambda: spec(frame_buckets=[[]] * (MAX_LISTS - 9))),
    "shares of a length": (RUN, lambda: spec(frame_buckets=[{"num_frames": 1, "keep_prob": ["x"] * 500_000}])),
    "timings that are numbers": (RUN, lambda: spec(cost={"kind": "measured", "seconds": [0] * 500_000})),
    "timings without a field": (RUN, lambda: spec(cost={"kind": "measured", "seconds": [{}] * (MAX_LISTS - 9)})),
    "timings, good but many": (RUN, lambda: spec(cost={"kind": "measured", "seconds": [GOOD_TIMING] * 80_000})),
    "a long kind of cost": (RUN, lambda: spec(cost={"kind": "x" * 8_000_000})),
    "sides of tiers": (RUN, lambda: spec(ladder={"kind": "tiers", "resolution": ["x"] * 500_000})),
    "fields that are none": (RUN, lambda: spec(**fields(600_000))),
    "fewer fields": (RUN, lambda: spec(**fields(50_000))),
    "fields of each of many maps": (RUN, lambda: spec(maps=[{"map": "m", **fields(60)}] * 256)),
    "fields of a ladder": (RUN, lambda: spec(ladder={"kind": "kohya", **fields(300_000)})),
    "one field again and again": (RUN, lambda: b'{"map":"small",' + b'"batch_size":8,' * 500_000 + b'"seed":1}'),
    "a long name of a field": (RUN, lambda: spec(**{"x" * 8_000_000: 1})),
    "a long name of a map": (RUN, lambda: spec(map="x" * 8_000_000)),
    "a long kind of ladder": (RUN, lambda: spec(ladder={"kind": "x" * 8_000_000})),
    "lists in lists": (RUN, lambda: b"[" * 8_000_000),
    "fewer lists in lists": (RUN, lambda: b"[" * 200_000),
    "objects in objects": (RUN, lambda: b'{"a":' * 1_300_000),
    "lists of deep lists": (RUN, lambda: b"[" + b",".join([b"[" * 500 + b"]" * 500] * 500) + b"]"),
    "digits": (RUN, lambda: b'{"map":"small","seed":' + b"9" * 8_000_000 + b"}"),
    "digits before a point": (RUN, lambda: b'{"map":"small","seed":' + b"9" * 8_000_000 + b".5}"),
    "an exponent": (RUN, lambda: b'{"map":"small","seed":1e' + b"9" * 8_000_000 + b"}"),
    "many long numbers": (RUN, lambda: b'{"map":"small","valid_ids":[1' + b",1e-999999" * 500_000 + b"]}"),
    "names of previews": (PREVIEWS, lambda: previews(names=[1] * 500_000)),
    "previews that are numbers": (PREVIEWS, lambda: previews(specs=[0] * 500_000)),
    "maps of previews": (PREVIEWS, lambda: previews(map=None, maps=[{"map": "m", **fields(60)}] * 256)),
    "where a map is": (MAP, lambda: json.dumps({"uri": "file:///x", "format": [[]] * 2_600_000}).encode()),
    "fields of where a map is": (MAP, lambda: json.dumps({"uri": "file:///x", **fields(50_000)}).encode()),
}  # fmt: skip


TYPICAL = {
    *("fewer of them", "ids of two kinds", "maps without a name", "sizes, good but many", "fewer fields"),
    *("one field again and again", "a long name of a field", "lists in lists", "digits", "many long numbers"),
    *("names of previews", "fields of where a map is", "timings, good but many"),
}


def peak_bytes(server: ServerProcess) -> int:
    """The most memory that the process has held so far; 0 if that is unknown."""
    status = Path(f"/proc/{server.process.pid}/status")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) * 1024 if status.exists() else 0


@pytest.fixture(scope="module")
def peak_at_rest(server: ServerProcess) -> int:
    return peak_bytes(server)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in TYPICAL else [pytest.mark.exhaustive]) for name in COSTLY],
)
def test_it_is_refused_in_brief(api: Api, server: ServerProcess, peak_at_rest: int, name: str) -> None:
    """And takes little memory, where it took gigabytes before it was bounded."""
    (method, path), make = COSTLY[name]
    response = api.ask(method, path, content=make(), headers=JSON)
    assert response.status_code in (413, 422)
    assert len(response.content) < 8_000
    problem = response.json()
    assert problem["code"] in ("invalid", "too_large")
    assert len(problem.get("errors", [])) <= 20
    assert peak_bytes(server) - peak_at_rest < 400 << 20


def test_so_are_the_specs_of_previews(api: Api, server: ServerProcess, peak_at_rest: int) -> None:
    ladder = {"kind": "tiers", "ladders": [explicit(600, ["x", "y"])] * 16}
    one = json.dumps({**PLAN, "ladder": ladder, **fields(50)}).encode()
    body = b'{"map":"small","specs":[' + b",".join([one] * 16) + b"]}"
    for each in api.ask("POST", "/v1/previews", 200, content=body, headers=JSON).json()["previews"]:
        assert each["problem"]["code"] == "invalid"
        assert len(each["problem"]["errors"]) <= 20
    assert peak_bytes(server) - peak_at_rest < 400 << 20


def test_what_is_left_out_of_the_list_of_faults_is_counted(api: Api) -> None:
    problem = api.put("/v1/runs/r", {**SPEC, "map": None, "maps": [{"map": "m", **fields(10)}] * 5}, 422)
    assert [each["field"] for each in problem["errors"]] == [
        f"maps.{at}.{i}" for at in (0, 1) for i in range(10)
    ]
    assert problem["num_more_errors"] == 30
    assert "30 more fields are wrong" in problem["detail"]
    few = api.put("/v1/runs/r", {**SPEC, **fields(20)}, 422)
    assert len(few["errors"]) == 20
    assert "num_more_errors" not in few


def test_ids_that_are_too_many_are_told_the_other_way(api: Api) -> None:
    for num in (65_537, MAX_VALUES + 10):
        problem = api.ask("PUT", "/v1/runs/r", content=spec(valid_ids=list(range(num))), headers=JSON).json()
        assert "put them as a map" in problem["detail"]
        assert "name" in problem["detail"]


CALLS = [
    ("PUT", "/v1/runs/r", {**SPEC}),
    ("POST", "/v1/previews", {"map": "small", "specs": [PLAN]}),
    ("PUT", "/v1/maps/other", {"uri": "file:///x"}),
    ("POST", "/v1/runs/run/sessions", {"session": "s"}),
    ("POST", "/v1/runs/run/ranks/0/lease", {"holder": "h"}),
    ("POST", "/v1/runs/run/ranks/0/next", {"lease": 1}),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_every_call_reads_within_the_same_bounds(
    api: Api, method: str, path: str, body: dict[str, Any]
) -> None:
    name, value = next(iter(body.items()))
    twice = f'{{"{name}": {json.dumps(value)}, {json.dumps(body)[1:]}'.encode()
    for bad, field, words in (
        (twice, name, "must be given once"),
        (
            json.dumps({**body, **fields(MAX_FIELDS)}).encode(),
            "body",
            f"at most {MAX_FIELDS} fields, got {MAX_FIELDS + len(body)}",
        ),
        (b"[" * 60_000, "body", "nested too deeply"),
        (b'{"a":' * 10_000, "body", "nested too deeply"),
        (json.dumps(body).encode()[:-1] + b', "n": ' + b"9" * 5_000 + b"}", "body", "thousands of digits"),
        (b'{"x": "\xff"}', "body", "must be UTF-8, got an error at byte 7"),
        (b'{"x": 1,}', "body", "must be JSON, got an error at line 1, column"),
    ):
        problem = api.ask(method, path, 422, content=bad, headers=JSON).json()
        assert (problem["code"], problem["field"]) == ("invalid", field)
        assert words in problem["detail"]


@pytest.mark.parametrize(
    "more",
    [
        {"ladder": {"kind": "kohya", "resolution": "N"}},
        {"ladder": {"kind": "kohya", "resolution": ["N", "N"]}},
        {"ladder": {"kind": "novelai", "max_size": ["N", "N"]}},
        {"ladder": {"kind": "novelai", "divisible": "N"}},
        {"ladder": {"kind": "explicit", "sizes": [["N", "N"]]}},
        {"ladder": {"kind": "geometric", "base_res": "N"}},
        {"ladder": {"kind": "fitted", "max_size": ["N", "N"], "dim_limit": "N"}},
        {"ladder": {"kind": "tiers", "resolution": ["N"], "bucket_reso_steps": "N"}},
        {"valid_ids": ["N"]},
        {"seed": "N"},
        {"num_repeats": "N"},
        {"epochs": "N"},
        {"max_pixels_per_batch": "N", "batch_size": None},
        {"max_cost_per_batch": "N", "batch_size": None},
        {"cost": {"kind": "transformer", "hidden_size": "N"}},
        {"cost": {"kind": "measured", "seconds": [dict.fromkeys(TIMING, "N")]}},
        {"frame_buckets": ["N"]},
        {"assign": {"min_size": "N"}},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "number",
    [
        str(2**63),
        pytest.param(str(2**53 - 1), marks=pytest.mark.exhaustive),
        pytest.param("9" * 4_000, marks=pytest.mark.exhaustive),
    ],
)
def test_numbers_of_any_length(api: Api, more: dict[str, Any], number: str) -> None:
    body = spec(**more).replace(b'"N"', number.encode())
    problem = api.ask("PUT", "/v1/runs/r", content=body, headers=JSON)
    may_be_large = {"max_pixels_per_batch", "max_cost_per_batch", "num_repeats"}
    assert problem.status_code == 422 or may_be_large & set(more)
    assert len(problem.content) < 16_000
    api._send("DELETE", "/v1/runs/r")
    # a preview repeats a spec that cannot be met
    sent = previews(specs=[{**PLAN, **more}]).replace(b'"N"', number.encode())
    told = api.ask("POST", "/v1/previews", 200, content=sent, headers=JSON)
    assert len(told.content) < 32_000
