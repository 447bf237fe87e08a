"""``tails: "shift"`` over HTTP: where an image was moved to, in every epoch and on any number of ranks."""

from __future__ import annotations

import pytest

from tests.checked import Api
from tests.http.test_lockstep import batches
from tests.worlds import World

SIZES = [(512, 768)] * 5 + [(560, 760)] * 6 + [(640, 640)] * 21 + [(760, 640)] * 7 + [(768, 512)] * 10
ROWS = "id,width,height\n" + "".join(f"{i},{w},{h}\n" for i, (w, h) in enumerate(SIZES))
SPEC = {
    "map": "mixed",
    "world_size": 2,
    "batch_size": 4,
    "ladder": {"kind": "explicit", "sizes": [[512, 768], [640, 640], [768, 512]]},
}


@pytest.fixture
def mixed(api: Api) -> Api:
    api.put_csv("mixed", ROWS, 201)
    api.put("/v1/runs/run", SPEC, 201)
    return api


def test_a_moved_image_has_one_bucket_that_is_not_the_nearest(mixed: Api) -> None:
    stats = mixed.get("/v1/runs/run/stats")
    assert (stats["tails"], mixed.get("/v1/runs/run")["spec"]["tails"]) == ("shift", "shift")
    places = [mixed.get(f"/v1/runs/run/images/{row}") for row in range(len(SIZES))]
    moved = [place for place in places if place["bucket"] != place["nearest"]["bucket"]]
    assert len(moved) == stats["moved"] > 0
    for place in moved:
        extra = [each["crop_loss"] - place["nearest"]["crop_loss"] for each in place["served"]]
        assert all(0 <= each <= stats["max_extra_crop"] + 1e-9 for each in extra)
    bucket_of = {place["id"]: place["bucket"] for place in places}
    for world_size in (1, 2, 3, 5):
        for epoch in (0, 1, 7):
            for batch in batches(mixed, epoch, world_size, world_size=world_size):
                assert {bucket_of[each] for each in batch["ids"]} == {batch["bucket"]}
    # whole batches in every bucket but the largest, which has the remainder
    rests = [bucket["num_images"] % 4 for bucket in stats["buckets"]]
    assert rests == [0, len(SIZES) % 4, 0]


def test_the_plan_on_the_disk_keeps_what_was_moved(world: World) -> None:
    first = world.replica().api
    first.put_csv("mixed", ROWS, 201)
    first.put("/v1/runs/run", SPEC, 201)
    places = [first.get(f"/v1/runs/run/images/{row}")["bucket"] for row in range(len(SIZES))]
    before, told = batches(first, 3, 2), first.get("/v1/runs/run/stats")
    second = world.replica().api  # opens the plan, and does not build it
    assert batches(second, 3, 2) == before
    assert second.get("/v1/runs/run/stats") == told
    assert [second.get(f"/v1/runs/run/images/{row}")["bucket"] for row in range(len(SIZES))] == places
