"""``bucket_no_upscale``: the buckets that kohya's trainer makes, and nothing is scaled up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets import ladder_generators as ladders
from bucketline_service.planning.buckets.assignment import assign
from bucketline_service.planning.buckets.ladder_generators import MAX_BUCKETS, MAX_SIDE
from bucketline_service.planning.buckets.no_upscale import NoUpscale, needed
from bucketline_service.planning.buckets.pruning import REASONS, Limits
from bucketline_service.planning.geometry import crop_loss

NO_LIMITS = Limits()
SQUARE = NoUpscale(512 * 512, 64)

steps = st.sampled_from([1, 7, 8, 32, 64, 100])
resolutions = st.one_of(st.integers(64, 2048), st.tuples(st.integers(64, 2048), st.integers(64, 2048)))
rules = st.builds(NoUpscale.of, resolutions, steps)
# whole steps and their neighbours, where rounding turns, and sizes of any aspect
side = st.one_of(
    st.integers(1, 4000),
    st.builds(lambda n, off: max(1, 64 * n + off), st.integers(1, 40), st.integers(-1, 1)),
    st.integers(1, 2**31 - 1),
)
images = st.lists(st.tuples(side, side), min_size=1, max_size=30).map(lambda rows: np.array(rows).T)
ordinary = st.lists(st.tuples(*[st.integers(30, 3000)] * 2), min_size=1, max_size=30).map(
    lambda rows: np.array(rows).T
)


def restated(rule, width, height):
    """The size of one image's bucket, step by step in plain floats, as sd-scripts goes about it; None where it has no
    bucket there: a side of 0, or a division by 0 of both ways to round."""

    def floor_to_step(value):
        value = int(value + 0.5)
        return value - value % rule.step

    def distance(bucket):
        return abs(bucket[0] / bucket[1] - aspect) if bucket[1] else math.inf

    aspect = width / height
    if width * height > rule.area:
        scaled_width = math.sqrt(rule.area * aspect)
        scaled_height = rule.area / scaled_width
        width_first, height_first = floor_to_step(scaled_width), floor_to_step(scaled_height)
        by_width = distance((width_first, floor_to_step(width_first / aspect)))
        by_height = distance((floor_to_step(height_first * aspect), height_first))
        if by_width < by_height:
            width, height = width_first, int(width_first / aspect + 0.5)
        else:
            width, height = int(height_first * aspect + 0.5), height_first
    bucket = (width - width % rule.step, height - height % rule.step)
    return bucket if 0 < min(bucket) <= max(bucket) <= MAX_SIDE else None


def sizes(rule, images):
    """Of each image, None where it has no bucket."""
    found = zip(*(axis.tolist() for axis in rule.sizes(*images)), strict=True)
    return [size if size[0] else None for size in found]


@given(rules, images)
@example(SQUARE, np.array([(513, 512), (512, 512), (512, 513), (64, 4096), (63, 9000), (64, 4097)]).T)
@example(SQUARE, np.array([(10_000, 100), (4161, 64), (64, 4161), (1, 2**31 - 1), (2**31 - 1, 1)]).T)
@example(NoUpscale(MAX_SIDE**2, 64), np.array([(70_000, 64), (MAX_SIDE, 64), (2**31 - 1, 2**31 - 1)]).T)
def test_the_size_is_that_of_the_original(rule, images):
    assert sizes(rule, images) == [restated(rule, *image) for image in images.T.tolist()]


@pytest.mark.parametrize("step", [8, 64])
def test_the_sizes_of_many_images_are_those_of_the_original(step):
    rng = np.random.default_rng(step)
    images = rng.integers(1, 3000, (2, 20_000))
    rule = NoUpscale.of((1024, 768), step)
    assert sizes(rule, images) == [restated(rule, *image) for image in images.T.tolist()]


def test_sizes_worked_out_by_hand():
    assert restated(SQUARE, 500, 300) == (448, 256)  # small: its own size, down to steps
    assert restated(SQUARE, 512, 512) == (512, 512)
    # 4:3 at the area of 512 x 512 is 591.2 x 443.4; in steps the width is 576, the height 384. By the width it would be
    # 576 x 384, which is 1.5; by the height 512 x 384, which is 4:3
    assert restated(SQUARE, 1600, 1200) == (512, 384)
    # 2:1 is 724.1 x 362.0: 704 x 320 is 2.2, 640 x 320 is 2
    assert restated(SQUARE, 2000, 1000) == (640, 320)
    # 1:2 is 362.0 x 724.1: 320 x 640 is 0.5, and by the height 320 x 704 is 0.45; then 704 is not taken
    assert restated(SQUARE, 1000, 2000) == (320, 640)
    assert restated(SQUARE, 63, 2000) is None
    assert sizes(SQUARE, np.array([(1600, 1200), (63, 2000)]).T) == [(512, 384), None]


@given(rules, images)
def test_no_image_is_scaled_up(rule, images):
    across, down = rule.sizes(*images)
    assert np.all(across <= images[0])
    assert np.all(down <= images[1])
    assert np.all(across % rule.step == 0)
    assert np.all(down % rule.step == 0)
    assert np.array_equal(across == 0, down == 0)


@given(rules, ordinary)
def test_the_buckets_that_are_needed_are_those_of_the_images(rule, images):
    own = [restated(rule, *image) for image in images.T.tolist()]
    assume(any(own))
    found = needed(rule, *images, NO_LIMITS)
    expected = {size for size in own if size}
    assert found == sorted(expected, key=lambda size: (size[0] / size[1], size[0] * size[1]))
    assert ladders.explicit(found).sizes == found
    made = assign(*images, ladders.explicit(found), no_upscale=rule)
    assert [found[bucket] if bucket >= 0 else None for bucket in made.buckets.tolist()] == own
    assert [REASONS[reason] for reason in made.reasons.tolist()] == [
        "assigned" if size else "bucket_no_upscale" for size in own
    ]


@given(
    ordinary,
    st.sampled_from(["log", "abs"]),
    st.one_of(st.none(), st.floats(0.01, 1)),
    st.one_of(st.none(), st.floats(0, 0.5)),
    st.one_of(st.none(), st.integers(1, 1000)),
)
def test_limits_are_held_against_the_own_bucket(images, metric, max_ar_error, max_crop_loss, min_size):
    def reason(width, height):
        size = restated(SQUARE, width, height)
        if size is not None:
            aspects = width / height, size[0] / size[1]
            error = (
                abs(aspects[0] - aspects[1]) if metric == "abs" else abs(math.log(aspects[0] / aspects[1]))
            )
            if max_ar_error is not None:
                assume(
                    abs(error - max_ar_error) > 1e-9
                )  # not on an edge, where the logarithm's last bit decides
                if error > max_ar_error:
                    return "max_ar_error"
            if max_crop_loss is not None and crop_loss(width, height, *size) > max_crop_loss:
                return "max_crop_loss"
        if min_size is not None and min(width, height) < min_size:
            return "min_size"
        return "assigned" if size else "bucket_no_upscale"

    limits = Limits(metric, max_ar_error, max_crop_loss, min_size)
    expected = [reason(*image) for image in images.T.tolist()]
    assume("assigned" in expected)
    found = needed(SQUARE, *images, limits)
    kept = [
        restated(SQUARE, *image)
        for image, why in zip(images.T.tolist(), expected, strict=True)
        if why == "assigned"
    ]
    assert set(found) == set(kept)
    made = assign(*images, ladders.explicit(found), no_upscale=SQUARE, **limits._asdict())
    assert [REASONS[reason] for reason in made.reasons.tolist()] == expected
    assert [found[bucket] for bucket in made.buckets.tolist() if bucket >= 0] == kept


def test_a_bucket_that_the_ladder_has_not_is_none():
    """The nearest aspect is not asked: 448 x 448 is no bucket here, and 512 x 512 would scale it up."""
    made = assign(
        np.array([448, 512]), np.array([448, 512]), ladders.explicit([(512, 512)]), no_upscale=SQUARE
    )
    assert made.buckets.tolist() == [-1, 0]
    assert [REASONS[reason] for reason in made.reasons] == ["bucket_no_upscale", "assigned"]


def test_chunks_need_the_same_buckets(monkeypatch):
    images = np.random.default_rng(3).integers(1, 2000, (2, 1000))
    expected = needed(SQUARE, *images, NO_LIMITS)
    for module in ("buckets.no_upscale", "buckets.assignment"):
        monkeypatch.setattr(f"bucketline_service.planning.{module}._CHUNK", 7)
    assert needed(SQUARE, *images.astype(np.uint32), NO_LIMITS) == expected
    made = assign(*images, ladders.explicit(expected), no_upscale=SQUARE)
    assert np.array_equal(made.buckets >= 0, images.min(axis=0) >= 64)


def test_area_and_step_are_all_that_the_rule_knows():
    assert NoUpscale.of(512, 64) == NoUpscale.of((1024, 256), 64) == SQUARE


@pytest.mark.parametrize(
    ("make", "field", "hint"),
    [
        (lambda: NoUpscale.of(0, 64), "ladder.resolution", "Use"),
        (lambda: NoUpscale.of((512,), 64), "ladder.resolution", "Give"),
        (lambda: NoUpscale.of(512, 0), "ladder.bucket_reso_steps", "Use"),
        (
            lambda: needed(SQUARE, np.array([63]), np.array([640]), NO_LIMITS),
            "ladder.bucket_reso_steps",
            "smaller steps",
        ),
        (
            lambda: needed(SQUARE, np.array([64]), np.array([64]), Limits(min_size=65)),
            "ladder.bucket_reso_steps",
            "loosen the limits",
        ),
        (
            lambda: needed(SQUARE, np.array([64]), np.array([64]), Limits(min_size=-1)),
            "assign.min_size",
            "Use",
        ),
    ],
)
def test_what_can_not_be_used_is_named(make, field, hint):
    with pytest.raises(Invalid) as caught:
        make()
    assert caught.value.field == field
    assert hint in str(caught.value)


def test_too_many_buckets_are_refused():
    """In steps of 1 pixel every size is a bucket."""
    widths = np.arange(1, MAX_BUCKETS + 2)
    rule = NoUpscale.of(512, 1)
    assert len(needed(rule, widths[:-1], np.full(MAX_BUCKETS, 10), NO_LIMITS)) == MAX_BUCKETS
    with pytest.raises(Invalid, match="more than 4096 buckets") as caught:
        needed(rule, widths, np.full(MAX_BUCKETS + 1, 10), NO_LIMITS)
    assert caught.value.field == "ladder.bucket_reso_steps"
    # the hint is true: pruned images need none
    assert len(needed(rule, widths, np.full(MAX_BUCKETS + 1, 10), Limits(min_size=2))) == MAX_BUCKETS
