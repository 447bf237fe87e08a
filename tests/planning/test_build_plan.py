from __future__ import annotations

import re

import numpy as np
import pytest

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets import ladder_generators as ladders
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.line.classify import NoCheckpoint
from bucketline_service.planning.line.planner import LinePlanner
from bucketline_service.planning.line.units import layout_of
from bucketline_service.planning.novelai.planner import NovelaiPlanner
from bucketline_service.planning.plan_spec import PlanSpec
from tests.planning.lines import samples_of

LADDER = ladders.explicit([(512, 768), (512, 512), (768, 512)])
TALL, SQUARE, WIDE = (600, 900), (640, 640), (900, 600)


def spec(batch_size=2, lockstep=2, tails="spill", planner="line", **limits):
    return PlanSpec(planner, (LADDER,), batch_size, 42, lockstep, tails, **limits)


def columns(*images):
    table = np.array(images, dtype=np.uint32).reshape(-1, 2)
    return Images.of(table[:, 0].copy(), table[:, 1].copy())


def planner_of(spec, images, **kwargs):
    prepared = prepare(spec, images, **kwargs)
    return new_planner(spec, prepared, images), prepared


def rows_of(planner, epoch=0):
    return planner.batches(epoch, np.arange(planner.num_batches(epoch, 1)), 1).rows


def test_images_are_assigned_sorted_and_summed_up():
    images = columns(WIDE, TALL, (9000, 600), SQUARE, WIDE, (3, 3))
    prepared = prepare(spec(1, 1, max_ar_error=0.5, min_size=10), images)
    assert prepared.groups.counts.tolist() == [1, 1, 2]
    assert prepared.order.tolist() == [1, 3, 0, 4]
    assert prepared.order.dtype == np.uint32
    assert prepared.summary["num_images"] == 6
    assert prepared.summary["pruned"] == {
        "max_ar_error": 1,
        "max_crop_loss": 0,
        "min_size": 1,
        "bucket_no_upscale": 0,
        "num_frames": 0,
        "num_repeats": 0,
        "valid_ids": 0,
    }
    assert prepared.summary["crop_loss"]["max"] == 0


def test_the_order_is_written_where_the_caller_says(tmp_path):
    class Files(NoCheckpoint):
        def array(self, name, num, dtype):
            return np.memmap(tmp_path / name, dtype=dtype, mode="w+", shape=(num,))

    prepared = prepare(spec(1, 1), columns(WIDE, TALL, SQUARE), checkpoint=Files())
    assert prepared.order.tolist() == [1, 2, 0]
    assert np.fromfile(tmp_path / "order", dtype=np.uint32).tolist() == [1, 2, 0]


def test_valid_rows_restrict_the_plan():
    images = columns(*[SQUARE] * 6, *[WIDE] * 4, (9000, 600), (9000, 600))
    valid = np.array([9, 1, 2, 6, 10])
    planner, prepared = planner_of(spec(1, 1, max_ar_error=0.5), images, valid_rows=valid)
    assert sorted(rows_of(planner).tolist()) == [1, 2, 6, 9]
    assert prepared.summary["pruned"] == {
        "max_ar_error": 1,
        "max_crop_loss": 0,
        "min_size": 0,
        "bucket_no_upscale": 0,
        "num_frames": 0,
        "num_repeats": 0,
        "valid_ids": 7,
    }
    assert prepared.summary["num_images"] == 12
    for row in range(12):
        assert len(planner.locate(0, row, 1)) == (row in (1, 2, 6, 9))


def test_pruned_rows_are_located_nowhere():
    images = columns(SQUARE, (9000, 600), WIDE, (5, 5), TALL)
    planner, _ = planner_of(spec(1, 1, max_ar_error=0.5, min_size=10), images)
    assert [len(planner.locate(3, row, 1)) for row in range(5)] == [1, 0, 1, 0, 1]


def test_all_pruned_says_by_what():
    images = columns((9000, 600), (9000, 600), (5, 5), SQUARE)
    limited = spec(1, 1, max_ar_error=0.5, min_size=10)
    with pytest.raises(Invalid) as raised:
        prepare(limited, images, valid_rows=np.array([0, 1, 2]))
    assert raised.value.field == "assign"
    for words in ("2 by max_ar_error", "1 by min_size", "1 by valid_ids"):
        assert words in raised.value.detail
    assert "max_crop_loss" not in raised.value.detail


def test_no_valid_rows_are_all_pruned():
    with pytest.raises(Invalid, match="2 by valid_ids"):
        prepare(spec(1, 1), columns(SQUARE, WIDE), valid_rows=np.array([], dtype=np.int64))


@pytest.mark.parametrize("tails", ["spill", "drop", "catch_all"])
@pytest.mark.parametrize("given", [[SQUARE] * 3, [SQUARE] * 2 + [WIDE]])
def test_fewer_images_than_a_unit(tails, given):
    images = columns(*given)
    with pytest.raises(Invalid) as raised:
        prepare(spec(2, 2, tails), images)
    detail = raised.value.detail
    assert raised.value.field == "batch_size"
    assert "lockstep 2 x batch_size 2 = 4 images" in detail
    assert "only 3 are assigned" in detail
    # what it says would do does
    most = int(re.search(r"at most (\d+)", detail).group(1))
    assert "tails: pad" in detail
    prepare(spec(most, 1, tails), images)
    prepare(spec(1, most, tails), images)
    prepare(spec(2, 2, "pad"), images)
    with pytest.raises(Invalid):
        prepare(spec(most + 1, 1, tails), images)


def test_enough_images_but_no_bucket_with_a_unit():
    images = columns(SQUARE, SQUARE, WIDE, WIDE, TALL, TALL)
    with pytest.raises(Invalid) as raised:
        prepare(spec(2, 2, "drop"), images)
    assert raised.value.field == "tails"
    assert "no bucket has as many" in raised.value.detail
    for tails in ("spill", "pad", "catch_all"):
        prepared = prepare(spec(2, 2, tails), images)
        assert layout_of(spec(2, 2, tails), samples_of(spec(2, 2, tails), images, prepared)).num_batches.sum()
        assert tails in raised.value.detail or tails == "catch_all"


def test_one_image_is_enough_for_pad():
    planner, _ = planner_of(spec(4, 3, "pad"), columns(SQUARE))
    assert rows_of(planner).tolist() == [0] * 12


def test_the_catch_all_is_the_last_target():
    assert spec(tails="catch_all").targets == [*LADDER.sizes, LADDER.base]
    assert len(spec(tails="catch_all").batch_sizes) == 4
    assert spec(tails="spill").targets == LADDER.sizes


def test_the_port_has_both_planners():
    images = columns(*[SQUARE] * 8)
    prepared = prepare(spec(), images)
    assert isinstance(new_planner(spec(), prepared, images), LinePlanner)
    exact = spec(planner="novelai", tails="catch_all", metric="abs", max_ar_error=4.0)
    prepared = prepare(exact, images)
    planner = new_planner(exact, prepared, images, np.arange(8) + 100)
    assert isinstance(planner, NovelaiPlanner)
    assert sorted(planner.batches(0, np.arange(4), 2).rows.tolist()) == list(range(8))
    with pytest.raises(Invalid, match="integer ids"):
        new_planner(exact, prepared, images)


def test_novelai_gets_the_buckets_of_the_plan():
    images = columns(*[SQUARE, WIDE] * 8)
    exact = spec(planner="novelai", tails="catch_all", metric="abs", max_ar_error=4.0)
    prepared = prepare(exact, images, valid_rows=np.arange(12))
    block = new_planner(exact, prepared, images, np.arange(16)).batches(0, np.arange(6), 1)
    assert sorted(block.rows.tolist()) == list(range(12))
    for bucket, rows in zip(block.buckets, block.rows.reshape(-1, 2), strict=True):
        assert set(rows % 2) == {0: set(), 1: {0}, 2: {1}}[int(bucket)]


def test_novelai_takes_no_repeats():
    wide = np.full(8, 512, dtype=np.uint32)
    exact = spec(planner="novelai", tails="catch_all", metric="abs", max_ar_error=4.0)
    images = Images([Part(wide, wide, np.array([0, 1] * 4, dtype=np.uint8), np.array([1.0, 2.0]))])
    with pytest.raises(Invalid, match="num_repeats") as raised:
        prepare(exact, images)
    assert raised.value.field == "planner"
