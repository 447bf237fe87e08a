"""Ladders with several sizes of one aspect: which one an image is assigned to, and runs from before this rule."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.checked import Api
from tests.worlds import World

SQUARES = {"kind": "explicit", "sizes": [[512, 512], [1024, 1024], [1536, 1536]]}
THREE = "id,width,height\n1,1024,1024\n2,512,512\n3,1536,1536\n"
DEAL = {"world_size": 1, "batch_size": 1}
SPEC = {"map": "m", **DEAL}
SAME_SHAPE = {**SPEC, "steps": "same_shape"}

BEFORE = "2-985bdc8b-1d8fc6ce-d379bc3e-58520616-5fee7f03d2089d2073f0a139a3ea082a"
"""The fingerprint of THREE in SQUARES under SAME_SHAPE, as a version before gave it: all three go to 512 x 512."""

IMAGES = {
    (1024, 1024): (1024, 1024),
    (512, 512): (512, 512),
    (1536, 1536): (1536, 1536),
    (4000, 4000): (1536, 1536),
    (1535, 1536): (1024, 1024),
    (100, 100): (512, 512),
    (768, 512): (768, 512),
    (1536, 1024): (1536, 1024),
    (1600, 1024): (1536, 1024),
    (1535, 1024): (768, 512),
    (2000, 1000): (768, 512),
    (30, 20): (768, 512),
}
"""To the largest of its aspect that it fills without being scaled up, else to the smallest."""
SIZES = [[1536, 1536], [512, 512], [1536, 1024], [1024, 1024], [768, 512]]

LADDERS: list[dict[str, Any]] = [
    {"ladder": {"kind": "explicit", "sizes": SIZES}},
    {"ladder": {"kind": "explicit", "sizes": SIZES}, "assign": {"metric": "abs"}},
    {"ladder": {"kind": "explicit", "sizes": SIZES}, "frame_buckets": [1, 17]},
    {"ladder": {"kind": "tiers", "ladders": [{"kind": "explicit", "sizes": SIZES}]}},
    {
        "ladder": {
            "kind": "tiers",
            "ladders": [
                {"kind": "explicit", "sizes": [size for size in SIZES if size[0] < 1536]},
                {"kind": "explicit", "sizes": [size for size in SIZES if size[0] >= 1536]},
            ],
        }
    },
]


def listed(api: Api, name: str, sizes: list[tuple[int, int]]) -> None:
    rows = "".join(f"{row},{width},{height}\n" for row, (width, height) in enumerate(sizes))
    api.put_csv(name, f"id,width,height\n{rows}", 201)


def ready(api: Api, run: str) -> dict[str, Any]:
    """The run, once it is planned: each answer waits a moment for that."""
    while (about := api.get(f"/v1/runs/{run}"))["status"] == "planning":
        pass
    assert about["status"] == "ready"
    return about  # type: ignore[no-any-return]


def served(api: Api, run: str, num: int) -> dict[int, tuple[int, int]]:
    """The size of each image in epoch 0 of a run with one rank and batches of one."""
    ready(api, run)
    batches = api.get(f"/v1/runs/{run}/batches", epoch=0, step=0, rank=0, count=num)["batches"]
    return {batch["ids"][0]: (batch["width"], batch["height"]) for batch in batches}


by_steps = pytest.mark.parametrize("steps", ["balanced", "same_shape"])


@by_steps
def test_exact_sizes_come_to_their_own(api: Api, steps: str) -> None:
    api.put_csv("m", THREE, 201)
    api.put("/v1/runs/run", {**SPEC, "ladder": SQUARES, "steps": steps}, 201)
    assert served(api, "run", 3) == {1: (1024, 1024), 2: (512, 512), 3: (1536, 1536)}


@by_steps
@pytest.mark.parametrize("more", LADDERS)
def test_others_come_to_the_largest_that_they_fill(api: Api, more: dict[str, Any], steps: str) -> None:
    listed(api, "m", list(IMAGES))
    more = {**more, "steps": steps}
    api.put("/v1/runs/run", {**SPEC, **more}, 201)
    sizes = served(api, "run", len(IMAGES))
    assert {image: sizes[row] for row, image in enumerate(IMAGES)} == IMAGES
    for row, wanted in enumerate(IMAGES.values()):
        about = api.get(f"/v1/runs/run/images/{row}", epoch=0)
        nearest = about["nearest"]
        assert (nearest["width"], nearest["height"]) == wanted
        assert nearest["bucket"] == about["bucket"]
    stats = api.get("/v1/runs/run/stats")
    (told,) = api.post("/v1/previews", {"map": "m", "specs": [{**DEAL, **more}]})["previews"]
    assert [bucket["num_images"] for bucket in told["stats"]["buckets"]] == [
        bucket["num_images"] for bucket in stats["buckets"]
    ]


def test_the_square_beside_novelais_base_is_no_dead_bucket(api: Api) -> None:
    ladder = {"kind": "novelai", "max_size": [1024, 1024], "dim_limit": 2048}
    sizes = [(1024, 1024), (512, 512), (3000, 3000), (700, 700)]
    listed(api, "m", sizes)
    api.put("/v1/runs/line", {**SPEC, "ladder": ladder}, 201)
    assert [width for _, (width, _) in sorted(served(api, "line", 4).items())] == [1024, 512, 1024, 512]
    # the original takes the first of its list, and so does its exact planner
    api.put("/v1/runs/exact", {**SPEC, "ladder": ladder, "planner": "novelai"}, 201)
    assert set(served(api, "exact", 4).values()) == {(512, 512)}
    assert api.get("/v1/runs/exact")["fingerprint"].startswith("2-")


@pytest.fixture
def world(tmp_path: Path) -> Any:
    world = World(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "data")
    yield world
    world.close()


def put_before(world: World) -> None:
    """Run ``run`` in the store, as the version before wrote it."""
    earlier = World(world.store_url, world.data_dir)
    api = earlier.replica().api
    api.put_csv("m", THREE, 201)
    api.put("/v1/runs/run", {**SAME_SHAPE, "ladder": SQUARES}, 201)
    earlier.close()
    with sqlite3.connect(world.store_url.removeprefix("sqlite:///")) as store:
        (document,) = store.execute("SELECT document FROM runs").fetchone()
        kept = json.loads(document)
        for name in ("steps", "last_step"):  # which specs have only had since
            del kept["spec"][name]
        document = json.dumps({**kept, "fingerprint": BEFORE}, sort_keys=True).encode()
        store.execute("UPDATE runs SET document = ?", (document,))
    store.close()


def test_a_run_of_before_goes_on_with_its_plan(world: World) -> None:
    put_before(world)
    api = world.replica().api
    about = ready(api, "run")
    assert (about["fingerprint"], about["state"]["fingerprint"]) == (BEFORE, BEFORE)
    assert served(api, "run", 3) == dict.fromkeys((1, 2, 3), (512, 512))
    assert [bucket["num_images"] for bucket in api.get("/v1/runs/run/stats")["buckets"]] == [3, 0, 0]
    assert api.get("/v1/runs/run/images/3")["nearest"]["width"] == 512
    # the script that starts the job puts its spec again
    assert api.put("/v1/runs/run", {**SPEC, "ladder": SQUARES}, 200)["fingerprint"] == BEFORE
    assert api.session("run", "again", resume=about["state"])["cursor"] == {"epoch": 0, "step": 0}


@pytest.mark.parametrize(("spec", "differs"), [(SAME_SHAPE, ["version"]), (SPEC, ["version", "spec"])])
def test_put_anew_it_is_another_plan(world: World, spec: dict[str, Any], differs: list[str]) -> None:
    put_before(world)
    api = world.replica().api
    state = ready(api, "run")["state"]
    api.put("/v1/runs/other", {**spec, "ladder": SQUARES}, 201)
    assert served(api, "other", 3)[3] == (1536, 1536)
    refused = api.session("other", "s", 409, resume=state)
    assert (refused["code"], refused["differs"], refused["run"]) == ("plan_mismatch", differs, "run")
    assert served(api, "run", 3) == dict.fromkeys((1, 2, 3), (512, 512))
    assert {*world.data_dir.joinpath("plans").iterdir()} >= {
        world.data_dir / "plans" / api.get(f"/v1/runs/{run}")["fingerprint"] for run in ("run", "other")
    }


AS_BEFORE: list[tuple[dict[str, Any], str]] = [
    ({"kind": "explicit", "sizes": [[512, 512], [768, 512]]}, "7fa9efc23bbbd66e80b87a0a5abc2ae6"),
    ({"kind": "novelai"}, "737196526f604ef72018bf008e054925"),
    ({"kind": "kohya", "resolution": 1024, "max_bucket_reso": 2048}, "3c20cb747bd01ebff9099fd86030e731"),
    ({"kind": "kohya", "bucket_no_upscale": True}, "f73e27d533f80dd721d0e7ad4a8a8b6e"),
    ({"kind": "tiers", "resolution": [512, 1024]}, "a267e93cfeede76237e8c21ff698e59f"),
    ({"kind": "preset", "name": "sdxl"}, "438a0ddc3f110d15750b7e81581d0c62"),
    ({"kind": "geometric"}, "380e8646534f35e2cb30eb2234882f91"),
    ({"kind": "fitted", "num_buckets": 2}, "9946d497e1be9e1f1cab96916c469b55"),
]
"""Ladders of distinct aspects, and the end of the fingerprint that the version before gave THREE in them."""


@pytest.mark.parametrize(("ladder", "end"), AS_BEFORE)
def test_ladders_of_distinct_aspects_keep_their_fingerprint(
    api: Api, ladder: dict[str, Any], end: str
) -> None:
    api.put_csv("m", THREE, 201)
    found = api.put("/v1/runs/run", {**SAME_SHAPE, "ladder": ladder}, 201)["fingerprint"]
    assert (found[:2], found.rpartition("-")[2]) == ("2-", end)
