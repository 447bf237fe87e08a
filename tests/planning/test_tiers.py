"""Which tiers an image is assigned to: ``ImageClassifier`` compared with one image and one ladder at a time."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline_service.planning.buckets import ladder_generators as ladders
from bucketline_service.planning.buckets.assignment import assign
from bucketline_service.planning.buckets.pruning import REASONS
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.line import image_classes as groups_module
from bucketline_service.planning.line.image_classes import PRUNED, ImageClassifier
from bucketline_service.planning.plan_spec import FrameBucket, PlanSpec
from bucketline_service.spec.ladder_kinds import TiersLadder

sides = st.one_of(st.integers(1, 12).map(lambda n: 64 * n), st.integers(30, 900))
sizes = st.tuples(sides, sides)
images = st.lists(sizes, min_size=1, max_size=25)
ladder_lists = st.lists(
    st.lists(sizes, min_size=1, max_size=5, unique=True).map(ladders.explicit), min_size=1, max_size=4
)
choices = st.sampled_from(["highest", "every"])
limits = st.fixed_dictionaries(
    {
        "max_ar_error": st.sampled_from([None, 0.1, 0.5]),
        "max_crop_loss": st.sampled_from([None, 0.125, 0.25]),
        "min_size": st.sampled_from([None, 100]),
    }
)


def spec_of(tiers, choose="highest", **more):
    return PlanSpec("line", tuple(tiers), 4, 42, 2, "spill", choose=choose, **more)


def images_of(images, num_frames=None):
    widths, heights = np.array(images, dtype=np.uint32).T
    frames = None if num_frames is None else np.array(num_frames, dtype=np.uint32)
    return Images([Part(widths.copy(), heights.copy(), num_frames=frames)])


def sorted_into(spec, of):
    """Of each image the (tier, bucket in it, begin, end) of its ways, from the highest tier on, and why it has none."""
    classifier = ImageClassifier(spec, of)
    keys, reasons = classifier.keys(of.read(0, of.num_rows))
    assert np.array_equal(keys < 0, reasons > 0)
    found = []
    for key, reason in zip(keys.tolist(), reasons.tolist(), strict=True):
        ways = []
        for bucket, begin, end in classifier.ways(key) if not reason else []:
            section = [each for each in spec.sections if each.first <= bucket][-1]
            ways.append((section.tier, bucket - section.first, begin, end))
        found.append((ways, PRUNED[reason - 1] if reason else None))
    return found


def nearest(image, ladder, max_ar_error=None, max_crop_loss=None, min_size=None):
    """The nearest bucket of one ladder by ratio, and why it is not the image's."""
    aspect = Fraction(*image)
    ratios = [max(aspect / Fraction(*size), Fraction(*size) / aspect) for size in ladder.sizes]
    ratio = min(ratios)
    reason = None
    if min_size is not None and min(image) < min_size:
        reason = "min_size"
    if max_crop_loss is not None and 1 - 1 / ratio > max_crop_loss:
        reason = "max_crop_loss"
    if max_ar_error is not None and math.log(ratio) >= max_ar_error:
        reason = "max_ar_error"
    return ratios.index(ratio), reason


def fills(image, size):
    return image[0] >= size[0] and image[1] >= size[1]


def expected(spec, image, limits):
    asked = [nearest(image, ladder, **limits) for ladder in spec.tiers]
    ways = [(tier, bucket, 0.0, 1.0) for tier, (bucket, reason) in enumerate(asked) if reason is None][::-1]
    if spec.choose == "highest":
        large_enough = [way for way in ways if way[0] == 0 or fills(image, spec.tiers[way[0]].sizes[way[1]])]
        ways = large_enough[:1]
    return ways, None if ways else asked[0][1]


@given(images, ladder_lists, choices, limits)
def test_an_image_comes_to_the_tiers_that_are_its_own(images, tiers, choose, limits):
    """highest: the highest whose nearest bucket it fills and whose limits let it in, else the lowest. every: all whose
    limits let it in. Where none takes it the reason is that of the lowest."""
    spec = spec_of(tiers, choose, **limits)
    assert sorted_into(spec, images_of(images)) == [expected(spec, image, limits) for image in images]


@given(images, ladder_lists, limits)
def test_only_the_lowest_tier_scales_up(images, tiers, limits):
    """And an image is in no tier below one that would take it as it is."""
    spec = spec_of(tiers, **limits)
    for image, (ways, _) in zip(images, sorted_into(spec, images_of(images)), strict=True):
        assert len(ways) <= 1
        for tier, bucket, _, _ in ways:
            assert tier == 0 or fills(image, spec.tiers[tier].sizes[bucket])
            for above in spec.tiers[tier + 1 :]:
                other, reason = nearest(image, above, **limits)
                assert reason or not fills(image, above.sizes[other])


@given(
    images,
    ladder_lists.filter(lambda tiers: len(tiers) == 1),
    choices,
    limits,
    st.sampled_from(["log", "abs"]),
)
def test_one_tier_is_the_plain_assignment(images, tiers, choose, limits, metric):
    of = images_of(images)
    chunk = of.read(0, of.num_rows)
    made = assign(chunk.widths, chunk.heights, tiers[0], metric=metric, **limits)
    found = sorted_into(spec_of(tiers, choose, metric=metric, **limits), of)
    assert [ways[0][1] if ways else -1 for ways, _ in found] == made.buckets.tolist()
    assert [reason or "assigned" for _, reason in found] == [REASONS[reason] for reason in made.reasons]


@given(
    images, st.lists(st.sampled_from([128, 192, 256, 320, 512]), min_size=1, max_size=4, unique=True), choices
)
def test_tiers_of_resolutions_are_kohyas_ladders_from_the_lowest_on(images, resolution, choose):
    built = TiersLadder(kind="tiers", resolution=resolution, choose=choose).tiers()
    for side, ladder in zip(sorted(resolution), built, strict=True):
        assert ladder.sizes == ladders.kohya(side, max(side // 2, 64), 2 * side, 64).sizes
        assert (ladder.widths * ladder.heights).max() <= side**2
    spec = spec_of(built, choose)
    found = sorted_into(spec, images_of(images))
    assert found == [expected(spec, image, {}) for image in images]
    if choose == "every":
        assert all(len(ways) == len(resolution) for ways, _ in found)


def test_what_one_tier_prunes_the_next_takes():
    """1000 x 400 would lose more than half to the square of the highest tier."""
    tiers = [ladders.explicit(each) for each in ([(200, 80), (100, 100)], [(400, 400)])]
    image = images_of([(1000, 400)])
    assert sorted_into(spec_of(tiers), image) == [([(1, 0, 0.0, 1.0)], None)]
    assert sorted_into(spec_of(tiers, max_crop_loss=0.5), image) == [([(0, 1, 0.0, 1.0)], None)]
    assert sorted_into(spec_of(tiers, "every", max_crop_loss=0.5), image) == [([(0, 1, 0.0, 1.0)], None)]


def test_the_reason_is_that_of_the_lowest_tier():
    """The higher one would prune the image for another, and is too large for it anyway."""
    tiers = [ladders.explicit([size]) for size in ((100, 80), (400, 100))]
    about = {"max_ar_error": 1.0, "max_crop_loss": 0.1}
    for choose in ("highest", "every"):
        assert sorted_into(spec_of(tiers, choose, **about), images_of([(100, 100)])) == [
            ([], "max_crop_loss")
        ]


keeps = st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=3, max_size=3)


@given(images, keeps)
def test_what_a_tier_keeps_only_in_part_goes_on_to_the_next_that_it_fills(images, keep):
    tiers = [ladders.explicit([(side, side)]) for side in (64, 256, 512)]
    spec = spec_of(tiers, frame_buckets=(FrameBucket(1, tuple(keep)),))
    for image, (ways, reason) in zip(images, sorted_into(spec, images_of(images)), strict=True):
        assert reason is None
        left = 1.0
        asked = [tier for tier in (2, 1, 0) if tier == 0 or fills(image, tiers[tier].sizes[0])]
        for (tier, _, begin, end), own in zip(ways, asked, strict=False):
            assert tier == own
            assert begin == 1 - left
            assert end - begin == left * keep[tier]
            left -= end - begin
        # it ends when nothing is left, or no tier
        assert len(ways) == len(asked) or left == 0


@given(images, keeps)
def test_every_tier_keeps_its_own_share(images, keep):
    tiers = [ladders.explicit([(side, side)]) for side in (64, 256, 512)]
    spec = spec_of(tiers, "every", frame_buckets=(FrameBucket(1, tuple(keep)),))
    assert sorted_into(spec, images_of(images)) == [
        ([(tier, 0, 0.0, keep[tier]) for tier in (2, 1, 0)], None) for _ in images
    ]


def test_tiers_of_each_length_are_buckets_of_their_own():
    tiers = [ladders.explicit([(side, side), (2 * side, side)]) for side in (64, 256)]
    spec = spec_of(tiers, frame_buckets=(FrameBucket(1, (1.0, 1.0)), FrameBucket(16, (1.0, 1.0))))
    of = images_of([(300, 300), (100, 100), (600, 300), (300, 300)], [1, 40, 16, 15])
    classifier = ImageClassifier(spec, of)
    keys, reasons = classifier.keys(of.read(0, 4))
    assert [PRUNED[reason - 1] if reason else None for reason in reasons.tolist()] == [
        None,
        None,
        None,
        "num_frames",
    ]
    assert [classifier.ways(key) for key in keys[:3].tolist()] == [
        [(2, 0.0, 1.0)],
        [(4, 0.0, 1.0)],
        [(7, 0.0, 1.0)],
    ]


@pytest.mark.parametrize("table", [1 << 18, 0])
@pytest.mark.parametrize("choose", ["highest", "every"])
def test_a_chunk_is_coded_by_its_keys(monkeypatch, table, choose):
    """Few possible keys are counted in a table, many by sorting: the same codes."""
    monkeypatch.setattr(groups_module, "_TABLE", table)
    rng = np.random.default_rng(1)
    of = images_of(rng.integers(50, 900, (2000, 2)).tolist())
    tiers = [ladders.kohya(side, side // 2, 2 * side, 64) for side in (192, 256, 512)]
    spec = spec_of(tiers, choose, max_crop_loss=0.2, min_size=100)
    classifier = ImageClassifier(spec, of)
    chunk = of.read(0, of.num_rows)
    is_valid = rng.random(of.num_rows) < 0.9
    keys, reasons = classifier.keys(chunk)
    coded = classifier.code(chunk, is_valid)
    is_in = is_valid & (reasons == 0)
    assert np.array_equal(coded.codes >= 0, is_in)
    assert np.array_equal(coded.keys[coded.codes[is_in]], keys[is_in])
    assert np.array_equal(coded.keys, np.unique(keys[is_in]))
    assert np.array_equal(coded.counts, np.bincount(coded.codes[is_in]))
    told = dict(zip(PRUNED, coded.pruned.tolist(), strict=True))
    assert told.pop("valid_ids") == (~is_valid).sum()
    assert told == {name: (is_valid & (reasons == code)).sum() for code, name in enumerate(PRUNED[:-1], 1)}
