"""``tails: "short"`` over HTTP: a pass over every image, as caching latents and validation need it."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.checked import Api
from tests.http.test_lockstep import batches
from tests.worlds import SMALL

SPEC = {"map": "small", "world_size": 4, "batch_size": 7, "tails": "short"}
IDS = [line.split(",")[0] for line in SMALL.splitlines()[1:]]


@pytest.fixture
def short(api: Api) -> Api:
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", SPEC, 201)
    return api


@pytest.mark.parametrize("world_size", [None, 1, 3])
def test_every_image_comes_once_in_its_own_bucket(short: Api, world_size: int | None) -> None:
    more = {} if world_size is None else {"world_size": world_size}
    num_ranks = world_size or 4
    for epoch in (0, 2):
        dealt = batches(short, epoch, num_ranks, **more)
        steps = Counter(batch["step"] for batch in dealt)
        assert set(steps.values()) == {num_ranks}
        assert Counter(str(each) for batch in dealt for each in batch["ids"]) == Counter(IDS)
        empty = [batch for batch in dealt if not batch["ids"]]
        assert {batch["step"] for batch in empty} <= {max(steps)}
        assert len(empty) < num_ranks
        # of each bucket one batch at most is short
        sizes = Counter(batch["bucket"] for batch in dealt if 0 < len(batch["ids"]) < 7)
        assert not sizes or max(sizes.values()) == 1
    place = short.get(f"/v1/runs/run/images/{IDS[5]}")
    assert [each["bucket"] for each in place["served"]] == [place["bucket"]]
    assert place["bucket"] == place["nearest"]["bucket"]


def test_the_stats_and_the_ledger_leave_nothing_out(short: Api) -> None:
    stats = short.get("/v1/runs/run/stats")
    assert (stats["dropped"], stats["repeated"], stats["never_served"]) == (0, 0, 0)
    assert stats["num_batches"] == 4 * stats["num_steps"]
    assert stats["crop_loss_served"] == pytest.approx(stats["crop_loss"]["mean"])
    assert short.ask("GET", "/v1/runs/run/ledger", params={"from": 0, "to": 3}).text.count("\n") == 1


def test_batches_without_an_image_are_acknowledged_like_others(short: Api) -> None:
    num_steps = short.get("/v1/runs/run/stats")["num_steps"]
    for rank in range(4):
        lease = short.lease("run", rank)["lease"]
        short.ack("run", rank, lease, 0, num_steps - 1)
    ranks = short.get("/v1/runs/run/ranks")["ranks"]
    assert {(rank["epoch"], rank["step"]) for rank in ranks} == {(1, 0)}


@pytest.mark.parametrize("include", ["original_size", "crop"])
def test_an_empty_batch_has_empty_columns(short: Api, include: str) -> None:
    dealt = batches(short, 0, 4, include=include)
    assert any(not batch["ids"] for batch in dealt)
    for batch in dealt:
        for column in ("original_sizes", "resize_sizes", "crop_left_tops"):
            assert len(batch.get(column, batch["ids"])) == len(batch["ids"])


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"steps": "same_shape"}, "tails"), ({"last_step": "fill"}, "last_step")],
)
def test_what_does_not_go_with_it_is_refused(api: Api, fields: dict[str, str], field: str) -> None:
    api.put_csv("small", SMALL, 201)
    refused = api.put("/v1/runs/run", {**SPEC, **fields}, 422)
    assert refused["field"] == field
