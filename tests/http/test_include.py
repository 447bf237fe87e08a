"""``include``: batches with each image's size and crop, which are those of the map and of ``geometry``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bucketline_service.planning.geometry import cover
from tests.checked import Api
from tests.worlds import World

Key = tuple[str | None, int | str]
Sizes = dict[Key, tuple[int, int]]
BOTH = "original_size,crop"
CROP_FIELDS = {"resize_sizes", "crop_left_tops"}
FIELDS = {"": set(), "original_size": {"original_sizes"}, "crop": CROP_FIELDS}
FIELDS[BOTH] = FIELDS["crop,original_size"] = FIELDS["crop,crop,original_size"] = {
    "original_sizes",
    *CROP_FIELDS,
}

PHOTOS = [(i, 300 + 37 * i % 900, 280 + 53 * i % 700, 1 + i % 8) for i in range(240)]
CLIPS = [(f'clip-{i}"é', 300 + 41 * i % 800, 300 + 29 * i % 600, [1, 9, 20][i % 3]) for i in range(150)]
PHOTO_SIZES = {i: (height, width) if turned > 4 else (width, height) for i, width, height, turned in PHOTOS}
CLIP_SIZES = {i: (width, height) for i, width, height, _ in CLIPS}
OF_PHOTOS: Sizes = {(None, i): size for i, size in PHOTO_SIZES.items()}
OF_CLIPS: Sizes = {(None, i): size for i, size in CLIP_SIZES.items()}
OF_BOTH: Sizes = {("photos", i): size for i, size in PHOTO_SIZES.items()} | {
    ("clips", i): size for i, size in CLIP_SIZES.items()
}

TIERS = {"kind": "tiers", "resolution": [256, 512], "choose": "every"}
BOTH_MAPS = [{"map": "photos", "num_repeats": 2}, {"map": "clips"}]
SPECS: dict[str, tuple[dict[str, Any], Sizes]] = {
    "spilled": ({"map": "photos", "batch_size": 16}, OF_PHOTOS),
    "padded, some twice": ({"map": "photos", "tails": "pad", "num_repeats": 1.5}, OF_PHOTOS),
    "novelai": ({"map": "photos", "planner": "novelai"}, OF_PHOTOS),
    "tiers, by pixels": (
        {"map": "clips", "batch_size": None, "max_pixels_per_batch": 2**20, "ladder": TIERS},
        OF_CLIPS,
    ),
    "clips": ({"map": "clips", "frame_buckets": [1, 9]}, OF_CLIPS),
    "several": ({"maps": BOTH_MAPS, "frame_buckets": [1, 9], "tails": "pad"}, OF_BOTH),
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One coordinator with the maps: nothing here is the store's doing."""
    folder = tmp_path_factory.mktemp("include")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    api = world.replica().api
    photos = "".join(f"{i},{width},{height},{turned}\n" for i, width, height, turned in PHOTOS)
    api.put_csv("photos", "id,width,height,orientation\n" + photos, 201)
    clips = "".join(f'"{i.replace(chr(34), chr(34) * 2)}",{w},{h},{frames}\n' for i, w, h, frames in CLIPS)
    api.put_csv("clips", "id,width,height,num_frames\n" + clips, 201)
    yield api
    world.close()


@pytest.fixture
def put(api: Api) -> Iterator[Any]:
    def put(spec: dict[str, Any]) -> int:
        """Steps of an epoch."""
        return int(api.put("/v1/runs/run", {"world_size": 2, "batch_size": 8, **spec}, 201)["num_steps"])

    yield put
    api.ask("DELETE", "/v1/runs/run?force=true", 204)


def plan(api: Api, rank: int, count: int, include: str | None = None) -> list[dict[str, Any]]:
    asked = {"epoch": 0, "step": 0, "rank": rank, "count": count}
    more = {} if include is None else {"include": include}
    found: list[dict[str, Any]] = api.get("/v1/runs/run/batches", **asked, **more)["batches"]
    return found


def without(batches: list[dict[str, Any]], fields: set[str]) -> list[dict[str, Any]]:
    return [{name: value for name, value in batch.items() if name not in fields} for batch in batches]


@pytest.mark.parametrize("name", SPECS)
def test_they_are_the_maps_sizes_and_the_crops_of_the_geometry(api: Api, put: Any, name: str) -> None:
    spec, sizes = SPECS[name]
    num_steps = put(spec)
    told = set()
    for rank in range(2):
        batches = plan(api, rank, num_steps, BOTH)
        assert without(batches, FIELDS[BOTH]) == plan(api, rank, num_steps)
        for batch in batches:
            ids = list(zip(batch.get("maps", [None] * len(batch["ids"])), batch["ids"], strict=True))
            assert batch["original_sizes"] == [list(sizes[each]) for each in ids]
            fits = [cover(*sizes[each], batch["width"], batch["height"]) for each in ids]
            assert batch["resize_sizes"] == [list(fit[:2]) for fit in fits]
            assert batch["crop_left_tops"] == [list(fit[2:4]) for fit in fits]
            told.update(ids)
    assert len(told) > 0.8 * len(sizes)


@pytest.mark.parametrize("name", ["spilled", "novelai", "several"])
def test_an_image_is_told_the_same_where_it_comes(api: Api, put: Any, name: str) -> None:
    """Also one that is served at another bucket than its own."""
    num_steps = put(SPECS[name][0])
    batches = {(batch["step"], rank): batch for rank in (0, 1) for batch in plan(api, rank, num_steps, BOTH)}
    checked, is_elsewhere = 0, False
    for batch in list(batches.values())[:: max(1, num_steps // 8)]:
        which = {"map": batch["maps"][0]} if "maps" in batch else {}
        about = api.get(f"/v1/runs/run/images/{batch['ids'][0]}", epoch=0, **which)
        for each in about["served"]:
            if each["step"] is None:
                continue
            there, slot = batches[each["step"], each["rank"]], each["slot"]
            assert there["original_sizes"][slot] == [about["width"], about["height"]]
            assert there["resize_sizes"][slot] == [each["resize_width"], each["resize_height"]]
            assert there["crop_left_tops"][slot] == [each["crop_left"], each["crop_top"]]
            is_elsewhere |= each["bucket"] != about["bucket"]
            checked += 1
    assert checked > 10
    assert is_elsewhere or name != "novelai"


@pytest.mark.parametrize("include", FIELDS)
def test_what_is_asked_for_is_told_and_nothing_else(api: Api, put: Any, include: str) -> None:
    num_steps = put({"map": "photos"})
    every = plan(api, 0, num_steps, BOTH)
    expected = without(every, FIELDS[BOTH] - FIELDS[include])
    lease = api.lease("run", 0)["lease"]
    words = include.split(",") if include else []
    if len(words) > 2:
        assert plan(api, 0, num_steps, include) == expected
        assert "at most 2" in api.next("run", 0, lease, 422, include=words)["detail"]
        return
    assert api.next("run", 0, lease, count=num_steps, include=words)["batches"] == expected
    if include:
        assert plan(api, 0, num_steps, include) == expected


def test_nothing_asked_for_is_the_answer_as_it_was(api: Api, put: Any) -> None:
    """Byte for byte: older clients, and batches planned ahead, do not have further fields."""
    put({"map": "clips"})
    lease = api.lease("run", 0)["lease"]
    path, body = "/v1/runs/run/ranks/0/next", {"lease": lease, "count": 2}
    plain = api.ask("POST", path, 200, json=body).content
    assert api.ask("POST", path, 200, json={**body, "include": []}).content == plain
    assert api.ask("POST", path, 200, json={**body, "include": None}).content == plain
    fields = ["epoch", "step", "rank", "bucket", "width", "height", "ids"]
    assert [list(batch) for batch in api.next("run", 0, lease, count=2)["batches"]] == [fields, fields]


@pytest.mark.parametrize("include", ["crops", "", "crop,", "crop, original_size", "CROP", "x" * 300])
def test_words_that_are_none_are_refused(api: Api, put: Any, include: str) -> None:
    put({"map": "photos"})
    asked = {"epoch": 0, "step": 0, "rank": 0, "include": include}
    problem = api.get("/v1/runs/run/batches", 422, **asked)
    assert problem["field"] == "include"
    if len(include) < 256:
        assert "original_size, crop" in problem["detail"]


@pytest.mark.parametrize(
    ("include", "field"), [(["crop", "crops"], "include.1"), ("crop", "include"), ([["crop"]], "include.0")]
)
def test_a_next_that_asks_for_what_there_is_not_moves_nothing(
    api: Api, put: Any, include: Any, field: str
) -> None:
    put({"map": "photos"})
    lease = api.lease("run", 0)["lease"]
    problem = api.next("run", 0, lease, 422, ack={"epoch": 0, "step": 3}, include=include)
    assert problem["field"] == field
    if field != "include":
        assert "'original_size' or 'crop'" in problem["detail"]
    assert api.cursors("run")[0] == (0, 0)
