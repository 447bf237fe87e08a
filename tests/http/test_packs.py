"""Packs over HTTP: batches of images at their own sizes, that fill a budget of tokens."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from bucketline_service.planning.geometry import cover
from tests.checked import Api
from tests.http.test_lockstep import batches
from tests.http.test_previews import OF_A_RUN, close
from tests.worlds import World

LADDER = {"kind": "native", "max_pixels": 40_000, "divisible": 16}
SPEC: dict[str, Any] = {"map": "photos", "world_size": 2, "ladder": LADDER, "pack": {"max_tokens": 400}}
FIELDS = {"epoch", "step", "rank", "kind", "ids", "sizes", "lengths"}

PHOTOS = {i: (60 + 37 * i % 300, 50 + 53 * i % 250) for i in range(150)}
CLIPS = {f"clip-{i}": (60 + 41 * i % 200, 60 + 29 * i % 160, [1, 9, 20][i % 3]) for i in range(60)}
FRAMES = {1: 1, 9: 9, 20: 9}
"""With frame_buckets 1 and 9."""
RUNS: dict[str, dict[str, Any]] = {
    "photos": SPEC,
    "some twice": {**SPEC, "num_repeats": 1.5, "world_size": 3},
    "clips": {
        **SPEC,
        "map": "clips",
        "frame_buckets": [1, 9],
        "pack": {"max_tokens": 900, "frame_stride": 4},
    },
    "several": {
        **{name: value for name, value in SPEC.items() if name != "map"},
        "maps": [{"map": "photos", "num_repeats": 2}, {"map": "clips"}],
        "frame_buckets": [1, 9],
        "pack": {"max_tokens": 2_000},
        "first": "largest",
    },
}
MOST = {("some twice", None): 2, ("several", "photos"): 2}
"""How often an epoch asks for the images of a run and map at most, where that is not once."""
of_each = pytest.mark.parametrize("name", RUNS)
most_in_test_all = pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[] if each == "several" else pytest.mark.exhaustive) for each in RUNS]
)


def put_maps(api: Api) -> Api:
    photos = "".join(f"{i},{width},{height}\n" for i, (width, height) in PHOTOS.items())
    clips = "".join(f"{i},{width},{height},{frames}\n" for i, (width, height, frames) in CLIPS.items())
    api.put_csv("photos", "id,width,height\n" + photos, 201)
    api.put_csv("clips", "id,width,height,num_frames\n" + clips, 201)
    return api


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One coordinator with the maps: nothing here is the store's doing."""
    folder = tmp_path_factory.mktemp("packs")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    yield put_maps(world.replica().api)
    world.close()


@pytest.fixture
def api(maps: Api) -> Iterator[Api]:
    """Without runs."""
    yield maps
    for run in maps.get("/v1/runs")["runs"]:
        maps.ask("DELETE", f"/v1/runs/{run['run']}?force=true", 204)


def own_size(of_map: str | None, id: int | str) -> tuple[int, int, int]:
    """Width, height and frames in the map."""
    if of_map in (None, "photos") and isinstance(id, int):
        return (*PHOTOS[id], 1)
    return CLIPS[str(id)]


def images(pack: dict[str, Any]) -> list[tuple[str | None, int | str]]:
    return list(zip(pack.get("maps", [None] * len(pack["ids"])), pack["ids"], strict=True))


@of_each
def test_a_pack_has_of_each_image_its_size_and_its_slot(api: Api, name: str) -> None:
    spec = RUNS[name]
    told = api.put("/v1/runs/run", spec, 201)
    most, stride = spec["pack"]["max_tokens"], spec["pack"].get("frame_stride", 1)
    more = {"num_frames"} if "frame_buckets" in spec else set()
    more |= {"maps"} if "maps" in spec else set()
    for epoch in (0, 3):
        served: Counter[tuple[str | None, int | str]] = Counter()
        slots: dict[int, list[int]] = {}
        packs = batches(api, epoch, spec["world_size"], include="original_size,crop")
        assert len(packs) == told["num_steps"] * spec["world_size"]
        for pack in packs:
            assert set(pack) == {*FIELDS, *more, "original_sizes", "resize_sizes", "crop_left_tops"}
            served.update(images(pack))
            frames = pack.get("num_frames", [1] * len(pack["ids"]))
            assert sum(pack["lengths"]) <= most
            assert pack["lengths"] == sorted(pack["lengths"], reverse=True)
            # a kind has the same slots wherever it comes
            assert slots.setdefault(pack["kind"], pack["lengths"]) == pack["lengths"]
            for image, size, length, num_frames, original, resize, left_top in zip(
                images(pack),
                pack["sizes"],
                pack["lengths"],
                frames,
                pack["original_sizes"],
                pack["resize_sizes"],
                pack["crop_left_tops"],
                strict=True,
            ):
                width, height, has = own_size(*image)
                assert original == [width, height]
                assert num_frames == FRAMES[has]
                assert size[0] % 16 == size[1] % 16 == 0
                assert 0 < size[0] * size[1] <= 40_000
                assert size[0] * size[1] // 256 * -(-num_frames // stride) <= length
                # covered at no more than its own size, and cropped by less than a cell
                fit = cover(width, height, *size)
                assert resize == [fit.resize_width, fit.resize_height]
                assert left_top == [fit.crop_left, fit.crop_top]
                assert resize[0] <= width
                assert resize[1] <= height
                assert resize[0] - size[0] < 16 or resize[1] - size[1] < 16
        # no image comes oftener than asked
        most_of = {image: MOST.get((name, image[0]), 1) for image in served}
        assert all(num <= most_of[image] for image, num in served.items())
        assert served.total() > 0.8 * api.get("/v1/runs/run/stats")["num_samples"]


@most_in_test_all
def test_the_answers_agree_about_an_epoch(api: Api, name: str) -> None:
    spec = RUNS[name]
    api.put("/v1/runs/run", spec, 201)
    stats = api.get("/v1/runs/run/stats")
    preview = {key: value for key, value in spec.items() if key not in ("map", "maps")}
    of_maps = {key: spec[key] for key in ("map", "maps") if key in spec}
    told = api.post("/v1/previews", {**of_maps, "specs": [preview]})["previews"][0]["stats"]
    assert told == close({key: stats[key] for key in stats.keys() - OF_A_RUN})
    packs = batches(api, 0, spec["world_size"])
    about = stats["packs"]
    tokens = sum(sum(pack["lengths"]) for pack in packs)
    assert about["unused"] == pytest.approx(1 - tokens / (len(packs) * spec["pack"]["max_tokens"]))
    assert {pack["kind"] for pack in packs} == {each["kind"] for each in about["kinds"] if each["num_packs"]}
    num_served = sum(len(pack["ids"]) for pack in packs)
    assert stats["dropped"] == stats["num_samples"] - num_served
    rows = api.ask("GET", "/v1/runs/run/ledger", params={"from": 0}).text.splitlines()[1:]
    assert sum(int(row.rpartition(",")[2]) for row in rows) == stats["dropped"]
    assert all('"left_out"' in row or "left_out" in row for row in rows)


def test_an_image_tells_its_slots(api: Api) -> None:
    api.put("/v1/runs/run", SPEC, 201)
    packs = {(pack["step"], pack["rank"]): pack for pack in batches(api, 2, 2)}
    lengths = {each["bucket"]: each["length"] for each in api.get("/v1/runs/run/stats")["packs"]["lengths"]}
    served = {image: place for place, pack in packs.items() for image in pack["ids"]}
    left_out = next(id for id in PHOTOS if id not in served)
    for id in (left_out, *range(0, len(PHOTOS), 4)):
        width, height = PHOTOS[id]
        place = api.get(f"/v1/runs/run/images/{id}", epoch=2)
        assert [(each["step"], each["rank"]) for each in place["served"]] == (
            [served[id]] if id in served else []
        )
        assert place["left_out"] == (None if id in served else "tail")
        assert place["bucket"] == place["nearest"]["bucket"]
        for each in place["served"]:
            pack = packs[each["step"], each["rank"]]
            slot = each["slot"]
            assert (pack["ids"][slot], pack["kind"], pack["lengths"][slot]) == (
                id,
                each["kind"],
                each["length"],
            )
            assert pack["sizes"][slot] == [each["width"], each["height"]]
            assert lengths[each["bucket"]] == each["length"] <= lengths[0]
            assert each["bucket"] <= place["bucket"]
            assert each["resize_width"] <= width
            assert each["resize_height"] <= height


def test_an_image_that_is_less_than_a_token_is_pruned(api: Api) -> None:
    api.put_csv("tiny", "id,width,height\n0,15,300\n1,40,40\n2,16,16\n")
    spec = {**SPEC, "map": "tiny", "world_size": 1, "assign": {"min_size": 16}}
    api.put("/v1/runs/run", spec, 201)
    told = [api.get(f"/v1/runs/run/images/{id}") for id in range(3)]
    assert [each["pruned"] for each in told] == ["min_size", None, None]
    assert (told[0]["bucket"], told[0]["nearest"], told[0]["served"]) == (None, None, [])
    assert [each["nearest"]["width"] for each in told[1:]] == [32, 16]
    api.put("/v1/runs/other", {**spec, "assign": {}}, 201)
    assert api.get("/v1/runs/other/images/0")["pruned"] == "bucket_no_upscale"
    rows = api.ask("GET", "/v1/runs/other/ledger").text.splitlines()
    assert [row.split(",")[1:4] for row in rows if "pruned" in row] != []
    assert api.get("/v1/runs/other/stats")["pruned"]["bucket_no_upscale"] == 1


def test_the_largest_packs_come_first(api: Api) -> None:
    api.put("/v1/runs/run", {**SPEC, "first": "largest"}, 201)
    kinds = {each["kind"]: each["num_tokens"] for each in api.get("/v1/runs/run/stats")["packs"]["kinds"]}
    first = batches(api, 0, 2, count=1)
    assert {kinds[pack["kind"]] for pack in first} == {max(kinds.values())}


# --- one spec, one run ----------------------------------------------------------------------------------------------


def test_the_same_spec_is_the_same_run_and_another_is_a_conflict(api: Api) -> None:
    first = api.put("/v1/runs/run", SPEC, 201)
    again = api.put("/v1/runs/run", SPEC, 200)
    assert again["fingerprint"] == first["fingerprint"]
    api.put("/v1/runs/run", {**SPEC, "steps": "balanced", "last_step": "drop", "lockstep": 2}, 200)
    others = {"pack": {"max_tokens": 500}, "ladder": {**LADDER, "num_lengths": 3}, "seed": 1}
    for field, value in others.items():
        assert api.put("/v1/runs/run", {**SPEC, field: value}, 409)["fields"] == [field]
    elsewhere = api.put("/v1/runs/other", SPEC, 201)
    assert elsewhere["fingerprint"] == first["fingerprint"]


@most_in_test_all
def test_a_run_continues_after_a_restart(world: World, name: str) -> None:
    first = put_maps(world.replica().api)
    first.put("/v1/runs/run", RUNS[name], 201)
    before, stats = batches(first, 1, 2), first.get("/v1/runs/run/stats")
    second = world.replica().api
    assert batches(second, 1, 2) == before
    assert second.get("/v1/runs/run/stats") == stats
    second.put("/v1/runs/run", RUNS[name], 200)


def documents(world: World) -> Any:
    return closing(sqlite3.connect(world.store_url.removeprefix("sqlite:///")))


def change(world: World, edit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Edit the document of ``run``, which the store has."""
    with documents(world) as db, db:
        (data,) = db.execute("SELECT document FROM runs WHERE run = 'run'").fetchone()
        document: dict[str, Any] = json.loads(data)
        edit(document)
        db.execute("UPDATE runs SET document = ? WHERE run = 'run'", (json.dumps(document).encode(),))
    return document


def one_more(document: dict[str, Any]) -> None:
    document["packs"]["counts"][0] += 1


def too_short(document: dict[str, Any]) -> None:
    document["packs"]["kinds"][0].pop()


def too_many(document: dict[str, Any]) -> None:
    document["packs"]["counts"].append(3)


def missing(document: dict[str, Any]) -> None:
    del document["packs"]


def of_another(document: dict[str, Any]) -> None:
    document["packs"] = [[1], [[1]], [1]]


def negative(document: dict[str, Any]) -> None:
    document["packs"]["kinds"][0][0] = -1


def no_number(document: dict[str, Any]) -> None:
    document["packs"]["lengths"][0] = "x"


def huge(document: dict[str, Any]) -> None:
    document["packs"]["counts"][0] = 10**30


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "edit",
    [
        *(one_more, missing, huge),
        *(
            pytest.param(each, marks=pytest.mark.exhaustive)
            for each in (too_short, too_many, of_another, negative, no_number)
        ),
    ],
)
def test_a_damaged_document_is_damaged(world: World, edit: Callable[[dict[str, Any]], None]) -> None:
    first = put_maps(world.replica().api)
    first.put("/v1/runs/run", SPEC, 201)
    change(world, edit)
    second = world.replica().api
    told = second.get("/v1/runs/run/batches", 409, epoch=0, step=0, rank=0)
    assert told["code"] == "damaged"
    assert "its document" in told["detail"]
    # nothing else suffers
    second.put("/v1/runs/other", SPEC, 201)


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_a_run_without_packs_has_none_in_its_document(world: World) -> None:
    api = put_maps(world.replica().api)
    api.put("/v1/runs/run", {"map": "photos", "world_size": 2, "batch_size": 4}, 201)
    assert "packs" not in change(world, lambda document: None)
    api.ask("DELETE", "/v1/runs/run?force=true", 204)
    api.put("/v1/runs/run", SPEC, 201)
    packs = change(world, lambda document: None)["packs"]
    assert {name: len(column) for name, column in packs.items()} == {
        "lengths": len(packs["lengths"]),
        "kinds": len(packs["counts"]),
        "counts": len(packs["counts"]),
    }


# --- elsewhere ------------------------------------------------------------------------------------------------------


def test_a_state_dict_resumes_on_other_ranks(api: Api) -> None:
    """Starts on three, two and one rank deal what four have left of the epoch."""
    run = {**SPEC, "world_size": 4}
    num_steps = api.put("/v1/runs/run", run, 201)["num_steps"]
    whole = [
        pack["ids"] for pack in sorted(batches(api, 0, 4), key=lambda pack: (pack["step"], pack["rank"]))
    ]
    state = api.get("/v1/runs/run")["state"]
    dealt: list[list[int]] = []
    for start, world_size in enumerate((4, 3, 2, 1)):
        session = api.session("run", f"s{start}", world_size=world_size, resume=state if start else "start")
        steps = 2 if world_size > 1 else session["num_steps"] - session["cursor"]["step"]
        leases = [api.lease("run", rank, f"s{start}")["lease"] for rank in range(world_size)]
        packs = [api.next("run", rank, lease, count=steps)["batches"] for rank, lease in enumerate(leases)]
        dealt += [pack["ids"] for step in zip(*packs, strict=True) for pack in step]
        for rank, lease in enumerate(leases):
            api.ack("run", rank, lease, 0, packs[rank][-1]["step"])
        state = api.get("/v1/runs/run")["state"]
    assert num_steps * 4 == len(whole)
    assert dealt == whole


@pytest.mark.parametrize(
    ("fields", "differs"),
    [
        ({"pack": {"max_tokens": 500}}, ["buckets"]),
        ({"ladder": {**LADDER, "num_lengths": 3}}, ["buckets"]),
        ({"ladder": {**LADDER, "max_pixels": 40_001}}, ["buckets"]),
        ({"seed": 1}, ["spec"]),
    ],
)
def test_a_state_dict_of_other_packs_is_refused(api: Api, fields: dict[str, Any], differs: list[str]) -> None:
    api.put("/v1/runs/run", SPEC, 201)
    api.put("/v1/runs/other", {**SPEC, **fields}, 201)
    problem = api.session("run", "s", 409, resume=api.get("/v1/runs/other")["state"])
    assert (problem["code"], problem["differs"]) == ("plan_mismatch", differs)


# --- what is refused ------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "without native": ({"ladder": {"kind": "novelai"}}, "pack", "native"),
    "native without packs": ({"pack": None, "batch_size": 4}, "ladder.kind", '"pack"'),
    "with a batch size": ({"batch_size": 4}, "batch_size", "alone"),
    "with a budget": ({"max_pixels_per_batch": 10**6}, "batch_size", "alone"),
    "tails": ({"tails": "shift"}, "tails", "Leave it out"),
    "one shape": ({"steps": "same_shape"}, "steps", "Leave it out"),
    "filled": ({"last_step": "fill"}, "last_step", "Use drop|or use drop"),
    "measured": (
        {
            "cost": {
                "kind": "measured",
                "seconds": [{"width": 64, "height": 64, "batch_size": 1, "seconds": 1.0}],
            }
        },
        "cost.kind",
        "Use pixels or transformer",
    ),
    "novelai": ({"planner": "novelai"}, "", "novelai"),
    "too long an image": ({"pack": {"max_tokens": 100}}, "pack.max_tokens", "Use at least"),
    "too few packs": ({"world_size": 500}, "pack", "Use at most"),
    "a tier": ({"ladder": {"kind": "tiers", "ladders": [LADDER]}}, "ladder", ""),
    "too large a token": ({"ladder": {**LADDER, "divisible": 300}}, "ladder.max_pixels", "Use an integer"),
    "no tokens": ({"pack": {"max_tokens": 0}}, "pack.max_tokens", ""),
    "all pruned": ({"assign": {"min_size": 4000}}, "assign", "Loosen"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_met_is_refused_with_what_would_do(api: Api, name: str) -> None:
    fields, field, remedy = REFUSED[name]
    told = api.put("/v1/runs/run", {**SPEC, **fields}, 422)
    assert told["code"] == "invalid"
    assert told["field"].startswith(field)
    assert any(each in told["detail"] + (told.get("hint") or "") for each in remedy.split("|"))
    assert api.get("/v1/runs")["runs"] == []


def test_the_least_budget_is_told_and_does(api: Api) -> None:
    told = api.put("/v1/runs/run", {**SPEC, "pack": {"max_tokens": 1}}, 422)
    least = int(told["detail"].partition("at least ")[2].split(",")[0].replace(",", ""))
    api.put("/v1/runs/run", {**SPEC, "pack": {"max_tokens": least - 1}}, 422)
    api.put("/v1/runs/run", {**SPEC, "pack": {"max_tokens": least}}, 201)


def test_a_pruned_image_of_a_map_of_clips_is_explained_where_the_plan_has_stills_only(api: Api) -> None:
    api.put_csv("m", "id,width,height,num_frames\n1,5,500,9\n2,400,400,1\n3,400,300,1\n", 201)
    spec = {"map": "m", "world_size": 1, "ladder": "native", "pack": {"max_tokens": 1000}}
    api.put("/v1/runs/run", spec, 201)
    told = api.get("/v1/runs/run/images/1")
    assert (told["pruned"], told["nearest"], told["served"]) == ("bucket_no_upscale", None, [])


@pytest.mark.parametrize("max_tokens", [400, 4_000, 20_000])
def test_a_remedy_for_too_few_packs_does(api: Api, max_tokens: int) -> None:
    """First a lower budget, as long as that holds the longest image; then fewer ranks."""
    for world_size in (30, 60, 200, 500):
        spec = {**SPEC, "world_size": world_size, "pack": {"max_tokens": max_tokens}}
        response = api.ask("PUT", "/v1/runs/run", json=spec)
        if response.status_code == 201:
            api.ask("DELETE", "/v1/runs/run", 204)
            continue
        problem = response.json()
        if problem["field"] == "pack.max_tokens":
            spec["pack"] = {
                "max_tokens": int(re.findall(r"Use at most ([\d,]+),", problem["detail"])[0].replace(",", ""))
            }
        else:
            assert problem["field"] == "pack"
            spec["world_size"] = int(re.findall(r"at most (\d+) rank", problem["detail"])[0])
        api.put("/v1/runs/run", spec, 201)
        api.ask("DELETE", "/v1/runs/run", 204)
