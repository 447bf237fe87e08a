"""A ladder that depends on the images counts each as often as it is served."""

from __future__ import annotations

import numpy as np
import pytest

from bucketline_service.errors import Invalid
from bucketline_service.planning.build_plan import prepare
from bucketline_service.planning.distinct_sizes import distinct_sizes
from bucketline_service.planning.images import Images, Part
from bucketline_service.spec.maps import MapSpec
from bucketline_service.spec.run_spec import PlanFields

FITTED = {"kind": "fitted", "num_buckets": 1, "max_size": [768, 512]}
NO_UPSCALE = {"kind": "kohya", "bucket_no_upscale": True}
WIDE, TALL = (2000, 800), (800, 1200)


def spec(ladder=FITTED, **fields):
    given = {"world_size": 1, "batch_size": 1, "ladder": ladder, **fields}
    return PlanFields.model_validate(given).resolved()


def part(*of, repeats=(1.0,), frames=False):
    """``of``: (size, code, frames, how many)."""
    rows = [(*size, code, length) for size, code, length, num in of for _ in range(num)]
    widths, heights, codes, lengths = np.array(rows, dtype=np.uint32).T.copy()
    return Part(widths, heights, codes.astype(np.uint8), np.array(repeats), lengths if frames else None)


def only(*sizes):
    return part(*((size, 0, 1, 1) for size in sizes))


def test_images_that_never_come_have_no_say():
    of = part((WIDE, 0, 1, 90), (TALL, 1, 1, 10), repeats=(0.0, 1.0))
    assert spec().fit([of]) == spec().fit([only(TALL)]) != spec().fit([only(WIDE)])
    assert len(spec(NO_UPSCALE).fit([of])) == 1 < len(spec(NO_UPSCALE).fit([only(WIDE, TALL)]))


@pytest.mark.parametrize(("rare", "often"), [(0.1, 100.0), (0.25, 90.5)])
def test_images_that_come_more_often_count_more(rare, often):
    of = part((WIDE, 0, 1, 90), (TALL, 1, 1, 10), repeats=(rare, often))
    assert spec().fit([of]) == spec().fit([only(TALL)])
    turned = part((WIDE, 1, 1, 90), (TALL, 0, 1, 10), repeats=(rare, often))
    assert spec().fit([turned]) == spec().fit([only(WIDE)])


@pytest.mark.parametrize("field", ["num_repeats", "weight"])
def test_maps_count_as_often_as_they_come(field):
    parts = [part((WIDE, 0, 1, 50)), part((TALL, 0, 1, 50))]
    for high, chosen in enumerate((WIDE, TALL)):
        maps = [MapSpec(map=name, **{field: 99.0 if at == high else 1.0}) for at, name in enumerate("ab")]
        assert spec().fit(parts, maps) == spec().fit([only(chosen)])


def test_a_common_factor_changes_nothing():
    rng = np.random.default_rng(3)
    sides = rng.integers(300, 900, (2, 400)).astype(np.uint32)
    ladder = {**FITTED, "num_buckets": 5}
    plain = spec(ladder).fit([Part(*sides)])
    assert spec(ladder, num_repeats=3.3).fit([Part(*sides)]) == plain
    assert spec(ladder).fit([Part(*sides, None, np.array([0.7]))]) == plain


def test_what_is_too_small_or_too_short_has_no_say():
    of = part((WIDE, 0, 4, 90), (TALL, 0, 20, 10), frames=True)
    assert spec(frame_buckets=[17]).fit([of]) == spec().fit([only(TALL)])
    keep = [{"num_frames": 4, "keep_prob": 0.001}, 17]
    assert spec(frame_buckets=keep).fit([of]) == spec().fit([only(TALL)])
    small = part(((250, 100), 0, 1, 90), (TALL, 0, 1, 10))
    assert spec(assign={"min_size": 101}).fit([small]) == spec().fit([only(TALL)])
    assert spec(assign={"min_size": 100}).fit([small]) == spec().fit([only((250, 100))])


ALL_OUT = [
    (
        {"frame_buckets": [100]},
        part((WIDE, 0, 60, 5), frames=True),
        "frame_buckets",
        "longest clip has 60 fr",
    ),
    ({"frame_buckets": [17]}, part((WIDE, 0, 1, 5)), "frame_buckets", "all of them are still images"),
    (
        {"frame_buckets": [1]},
        part((WIDE, 0, 9, 5), frames=True),
        "frame_buckets",
        "1 is for still images only",
    ),
    ({}, part((WIDE, 0, 1, 5), repeats=(0.0,)), "num_repeats", "5 by num_repeats"),
    ({"assign": {"min_size": 5000}}, part((WIDE, 0, 1, 5)), "assign", "5 by min_size"),
]


@pytest.mark.parametrize(("fields", "of", "field", "words"), ALL_OUT)
@pytest.mark.parametrize("ladder", [FITTED, NO_UPSCALE, {"kind": "kohya"}])
def test_where_none_is_left_the_field_is_named(fields, of, field, words, ladder):
    one = spec(ladder, **fields)
    with pytest.raises(Invalid, match=words) as caught:
        prepare(one.plan_spec(one.fit([of])), Images([of]))
    assert caught.value.field == field


def test_keep_prob_is_named_where_it_takes_all():
    of = part((WIDE, 0, 60, 5), frames=True)
    one = spec({"kind": "kohya"}, frame_buckets=[{"num_frames": 17, "keep_prob": 1e-6}])
    with pytest.raises(Invalid, match="keep_prob") as caught:
        prepare(one.plan_spec(), Images([of]))
    assert caught.value.field == "frame_buckets"


def test_distinct_sizes_are_those_of_size_class_and_length():
    rng = np.random.default_rng(7)
    columns = [rng.integers(1, 5, 2000).astype(kind) for kind in (np.uint32, np.uint32, np.uint8, np.uint32)]
    columns[0][::2] += 900_000
    widths, heights, codes, frames = columns
    of = Part(widths, heights, codes, np.arange(6.0), frames)
    rows = np.flatnonzero(rng.random(2000) < 0.7)
    for at in (None, rows):
        found = distinct_sizes(of, at)
        told = zip(found.widths, found.heights, found.codes, found.num_frames, strict=True)
        table = np.stack(columns, axis=1)[slice(None) if at is None else at]
        expected, counts = np.unique(table.astype(np.int64), axis=0, return_counts=True)
        assert [tuple(map(int, row)) for row in told] == [tuple(row) for row in expected.tolist()]
        assert found.counts.tolist() == counts.tolist()
        assert found.repeats.tolist() == of.repeats.tolist()
