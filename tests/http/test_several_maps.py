"""Runs that draw on several maps, by repeats and by weights, of clips and by budgets: as a trainer sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from bucketline._wire import batch_from
from bucketline_service.runs import delivery
from tests.checked import Api
from tests.http.test_previews import OF_A_RUN, close
from tests.worlds import World

CATS = "id,width,height,num_repeats\n" + "".join(
    f"{i},{500 + 64 * (i % 5)},{512 + 64 * (i % 3)},{[1, 2, 0.5, 0][i % 4]}\n" for i in range(80)
)
DOGS = "id,width,height\n" + "".join(f"{i},{512 + 64 * (i % 4)},512\n" for i in range(40, 140))
NAMED = "id,width,height\n" + "".join(f"img-{i},640,{512 + 64 * (i % 3)}\n" for i in range(50))
ONE_EACH = {"world_size": 1, "batch_size": 1, "tails": "drop"}
Image = tuple[str, int | str]


CLIPS = "id,width,height,num_frames\n" + "".join(f"{i},640,512,{[1, 9, 20][i % 3]}\n" for i in range(30))


@pytest.fixture(scope="module")
def all_maps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One coordinator with the maps: nothing here is the store's doing."""
    folder = tmp_path_factory.mktemp("maps")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    api = world.replica().api
    few = "id,width,height\n" + "".join(f"img-{i},1,1\n" for i in range(5))
    for name, content in (("cats", CATS), ("dogs", DOGS), ("named", NAMED), ("clips", CLIPS), ("few", few)):
        api.put_csv(name, content, 201)
    yield api
    world.close()


@pytest.fixture
def maps(all_maps: Api) -> Iterator[Api]:
    """Without runs."""
    yield all_maps
    for run in all_maps.get("/v1/runs")["runs"]:
        all_maps.ask("DELETE", f"/v1/runs/{run['run']}?force=true", 204)


def put(api: Api, *maps: dict[str, Any], status: int | None = 201, **more: Any) -> Any:
    return api.put("/v1/runs/run", {**ONE_EACH, "maps": list(maps), **more}, status)


def batches(api: Api, epoch: int = 0, rank: int = 0, count: int = 1024) -> list[dict[str, Any]]:
    asked = {"epoch": epoch, "step": 0, "rank": rank, "count": count}
    found: list[dict[str, Any]] = api.get("/v1/runs/run/batches", **asked)["batches"]
    return [batch for batch in found if batch["epoch"] == epoch]


def served(api: Api, epoch: int = 0) -> Counter[Image]:
    """How often each (map, id) comes."""
    return Counter(
        pair for batch in batches(api, epoch) for pair in zip(batch["maps"], batch["ids"], strict=True)
    )


def test_ids_are_told_apart_by_their_maps(maps: Api) -> None:
    """40 to 79 are in two maps, and the third's ids are strings."""
    put(maps, {"map": "cats"}, {"map": "dogs"}, {"map": "named"})
    found = served(maps, 3)
    assert {image for image in found if image[0] == "dogs"} == {("dogs", i) for i in range(40, 140)}
    assert {image for image in found if image[0] == "named"} == {("named", f"img-{i}") for i in range(50)}
    for i in range(80):
        assert found["cats", i] in ((1,), (2,), (0, 1), (0,))[i % 4]
    assert abs(sum(found["cats", i] for i in range(2, 80, 4)) - 10) <= 5  # half the time, by group
    for name, image in [("cats", 44), ("dogs", 44), ("named", "img-7")]:
        about = maps.get(f"/v1/runs/run/images/{image}", map=name, epoch=3)
        assert (about["map"], about["id"], len(about["served"])) == (name, image, found[name, image])
        for place in about["served"]:
            batch = batches(maps, 3)[place["step"]]
            assert (batch["maps"][place["slot"]], batch["ids"][place["slot"]]) == (name, image)


def test_which_map_must_be_said_where_two_have_the_image(maps: Api) -> None:
    put(maps, {"map": "cats"}, {"map": "dogs"})
    problem = maps.get("/v1/runs/run/images/44", 422)
    assert (problem["field"], "cats and dogs" in problem["detail"]) == ("map", True)
    assert maps.get("/v1/runs/run/images/1")["map"] == "cats"
    assert maps.get("/v1/runs/run/images/100")["map"] == "dogs"
    assert maps.get("/v1/runs/run/images/44", 422, map="named")["field"] == "map"
    assert maps.get("/v1/runs/run/images/1", 404, map="dogs")["code"] == "not_found"
    assert maps.get("/v1/runs/run/images/1000", 404)["code"] == "not_found"


def test_repeats_of_the_run_the_map_and_the_image_multiply(maps: Api) -> None:
    put(maps, {"map": "cats", "num_repeats": 2}, {"map": "dogs", "repeats": 2}, num_repeats=2)
    found = served(maps)
    assert {found["dogs", i] for i in range(40, 140)} == {6}
    for i in range(80):
        assert found["cats", i] == (4, 8, 2, 0)[i % 4]
    told = maps.get("/v1/runs/run/stats")
    assert [(each["map"], each["num_assigned"], each["num_samples"]) for each in told["maps"]] == [
        ("cats", 60, 280),
        ("dogs", 100, 600),
    ]
    assert (told["num_samples"], told["pruned"]["num_repeats"]) == (sum(found.values()), 20)


@pytest.mark.parametrize("num_repeats", [None, 2])
def test_weights_are_shares_of_the_epoch(maps: Api, num_repeats: int | None) -> None:
    """Within an image for each bucket of each map; the epoch is as long as without them."""
    weights = {"cats": 1, "dogs": 2, "named": 0.5}
    put(maps, *({"map": name, "weight": weight} for name, weight in weights.items()), num_repeats=num_repeats)
    told = maps.get("/v1/runs/run/stats")
    total = (70 + 100 + 50) * (num_repeats or 1)
    buckets = len([bucket for bucket in told["buckets"] if bucket["num_images"]])
    for epoch in range(3):
        found = served(maps, epoch)
        for name, weight in weights.items():
            num = sum(count for (of, _), count in found.items() if of == name)
            assert abs(num - total * weight / 3.5) <= 4 * buckets
        assert abs(sum(found.values()) - total) <= 6 * buckets
    for each in told["maps"]:
        assert each["share"] == pytest.approx(weights[each["map"]] / 3.5)
        assert each["num_samples"] == pytest.approx(total * weights[each["map"]] / 3.5)
    # an image that comes twice as often as its neighbours does so whatever the weight
    times = {
        i: maps.get(f"/v1/runs/run/images/{i}", map="cats")["buckets"][0]["num_samples"] for i in (0, 1, 2)
    }
    assert (times[1], times[2]) == pytest.approx((2 * times[0], times[0] / 2))


def test_valid_ids_are_of_each_map(maps: Api) -> None:
    put(
        maps,
        {"map": "dogs", "valid_ids": [41, 139, 41]},
        {"map": "named", "valid_ids": "few"},
        {"map": "cats"},
    )
    found = served(maps)
    assert {image for image in found if image[0] != "cats"} == {
        ("dogs", 41),
        ("dogs", 139),
        *(("named", f"img-{i}") for i in range(5)),
    }
    assert maps.get("/v1/runs/run/stats")["pruned"]["valid_ids"] == 98 + 45
    for used in ("dogs", "named", "few", "cats"):
        problem = maps.ask("DELETE", f"/v1/maps/{used}", 409).json()
        assert "run" in problem["detail"]


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"maps": [{"map": "cats", "weight": 1}, {"map": "dogs"}]}, "maps.1.weight", "Give a weight to all maps"),
    (
        {"maps": [{"map": "cats", "weight": 1, "num_repeats": 2}, {"map": "dogs", "weight": 1}]},
        "maps.0.weight",
        "num_r",
    ),
    (
        {"maps": [{"map": "cats", "weight": 1, "repeats": 2}, {"map": "dogs", "weight": 1}]},
        "maps.0.weight",
        "must not be given together with repeats",
    ),
    ({"maps": [{"map": "cats", "repeats": 2, "num_repeats": 1}]}, "maps.0.repeats", "num_repeats"),
    ({"maps": [{"map": "cats"}, {"map": "dogs"}, {"map": "cats"}]}, "maps.2.map", "more than once"),
    ({"maps": [{"map": "cats"}], "map": "dogs"}, "map", "one of map and maps"),
    ({}, "map", "one of map and maps"),
    ({"maps": []}, "maps", ""),
    ({"maps": [{"map": "cats", "weight": 0}]}, "maps.0.weight", ""),
    ({"maps": [{"map": "cats", "weight": 1e308}]}, "maps.0.weight", ""),
    ({"maps": [{"map": "cats", "num_repeats": "2"}]}, "maps.0.num_repeats", ""),
    (
        {"maps": [{"map": "cats"}, {"map": "dogs"}], "valid_ids": [41]},
        "valid_ids",
        "ambiguous with several maps",
    ),
    ({"maps": [{"map": "cats"}, {"map": "dogs", "valid_ids": [1]}]}, "maps.1.valid_ids", "1"),
    ({"maps": [{"map": "dogs", "valid_ids": [1]}]}, "maps.0.valid_ids", "1"),
    ({"maps": [{"map": "cats"}, {"map": "dogs", "valid_ids": "no name"}]}, "maps.1.valid_ids", "'no name'"),
    ({"maps": [{"map": "cats"}, {"map": "named", "valid_ids": [1]}]}, "maps.1.valid_ids", ""),
    ({"maps": [{"map": "cats"}, {"map": "dogs"}], "planner": "novelai"}, "maps", "one map"),
    (
        {"maps": [{"map": "cats", "weight": 1, "valid_ids": [3]}, {"map": "dogs", "weight": 1}]},
        "maps.0.weight",
        "pruned",
    ),
]


@pytest.mark.parametrize(("spec", "field", "words"), WRONG)
def test_wrong_maps_are_refused(maps: Api, spec: dict[str, Any], field: str, words: str) -> None:
    problem = maps.put("/v1/runs/run", {**ONE_EACH, "tails": None, **spec}, 422)
    assert problem["field"] == field
    assert words in problem["detail"]
    assert maps.get("/v1/runs")["runs"] == []


def test_a_map_that_is_missing_is_not_found(maps: Api) -> None:
    assert "birds" in put(maps, {"map": "cats"}, {"map": "birds"}, status=404)["detail"]


TOLD: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    ([{"map": "cats"}, {"map": "dogs", "num_repeats": 1.5}], {}),
    (
        [{"map": "cats", "weight": 1}, {"map": "dogs", "weight": 3, "valid_ids": list(range(40, 99))}],
        {"num_repeats": 1.3, "tails": "pad", "batch_size": 3, "world_size": 2},
    ),
    ([{"map": "named", "repeats": 1}], {"num_repeats": 1.3, "tails": "pad"}),
    ([{"map": "named", "weight": 1}], {}),
    # boundaries are moved over all maps; where images come a fraction of a time none can be
    (
        [{"map": "cats", "num_repeats": 2}, {"map": "dogs"}, {"map": "clips"}],
        {"tails": None, "batch_size": 4},
    ),
    ([{"map": "dogs"}, {"map": "named", "num_repeats": 2}], {"tails": None, "batch_size": 4}),
    ([{"map": "dogs"}], {"steps": "same_shape", "tails": None, "batch_size": 4, "world_size": 2}),
]


@pytest.mark.parametrize(("of_maps", "more"), TOLD)
def test_what_is_told_of_a_spec_can_be_put_again_and_previewed(
    maps: Api, of_maps: list[dict[str, Any]], more: dict[str, Any]
) -> None:
    run = put(maps, *of_maps, **more)
    assert maps.put("/v1/runs/run", run["spec"], 200)["spec"] == run["spec"]
    specs = [{**ONE_EACH, **more}]
    preview = maps.post("/v1/previews", {"maps": of_maps, "specs": specs})["previews"][0]
    stats = maps.get("/v1/runs/run/stats")
    assert preview["stats"] == close({name: stats[name] for name in stats.keys() - OF_A_RUN})


def test_a_client_reads_maps_and_lengths(maps: Api) -> None:
    put(maps, {"map": "clips"}, {"map": "dogs"}, frame_buckets=[1, 17])
    lease = maps.lease("run", 0)["lease"]
    found = maps.next("run", 0, lease, count=1024)["batches"]
    for batch in map(batch_from, found):
        assert batch.maps in (["clips"], ["dogs"])
        assert batch.num_frames in (1, 17)
        if batch.num_frames == 17:
            assert (batch.maps, batch.ids[0] % 3) == (["clips"], 2)
    put_one = maps.put("/v1/runs/one", {**ONE_EACH, "map": "dogs"}, 201)["run"]
    plain = maps.get(f"/v1/runs/{put_one}/batches", epoch=0, step=0, rank=0)["batches"][0]
    assert not {"maps", "num_frames"} & plain.keys()
    assert (batch_from(plain).maps, batch_from(plain).num_frames) == (None, None)


def test_an_answer_holds_no_more_ids_than_it_may(maps: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many a bucket's batches hold; and one batch at least."""
    put(maps, {"map": "dogs"}, {"map": "named"}, batch_size=None, max_pixels_per_batch=2**21, tails="pad")
    every = batches(maps)
    sizes = [len(batch["ids"]) for batch in every]
    assert len(set(sizes)) > 1
    for most in (3 * max(sizes), max(sizes) - 1):
        monkeypatch.setattr(delivery, "MAX_IDS", most)
        count = max(
            1, most // max(bucket["batch_size"] for bucket in maps.get("/v1/runs/run/stats")["buckets"])
        )
        assert batches(maps) == every[:count]
