"""Clips: each is assigned to the longest length that it fills, and a tier keeps its share of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bucketline_service.errors import Invalid
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.plan_stats import epoch_stats
from bucketline_service.spec.run_spec import PlanFields

TIERS = {"kind": "tiers", "resolution": [256, 512]}
ONE = {"kind": "explicit", "sizes": [[512, 512], [512, 768], [768, 512]]}
LARGE, SMALL = (1920, 1080), (300, 260)
"""The one fills both tiers, the other the lower one alone."""


def resolved(**fields):
    return PlanFields.model_validate({"world_size": 1, "batch_size": 1, "tails": "drop", **fields}).resolved()


class Epochs:
    """What a plan of these clips, (width, height, frames), serves."""

    def __init__(self, clips, **fields):
        table = np.array(clips, dtype=np.uint32).reshape(-1, 3)
        self.images = Images([Part(table[:, 0].copy(), table[:, 1].copy(), num_frames=table[:, 2].copy())])
        self.plan = resolved(**fields).plan_spec()
        self.prepared = prepare(self.plan, self.images)
        self.planner = new_planner(self.plan, self.prepared, self.images)
        self.tiers = np.repeat(
            [each.tier for each in self.plan.sections], [len(each.ladder) for each in self.plan.sections]
        )

    def served(self, epoch):
        """Rows, and of each the frames and the tier that it is served in."""
        block = self.planner.batches(epoch, np.arange(self.planner.num_batches(epoch, 1)), 1)
        targets = np.repeat(block.buckets, np.diff(block.bounds))
        return block.rows, self.plan.target_frames[targets], self.tiers[targets]

    def stats(self, epoch=0):
        return epoch_stats(self.plan, self.prepared, self.images, self.planner, epoch, 1)


def length_of(frames, lengths):
    """The longest that it fills; 1 is for stills alone."""
    filled = [length for length in lengths if length <= frames and (length > 1 or frames == 1)]
    return max(filled, default=None)


clips = st.lists(
    st.tuples(
        st.integers(100, 2000),
        st.integers(100, 2000),
        st.one_of(st.integers(1, 40), st.integers(1, 2**31 - 1)),
    ),
    min_size=1,
    max_size=40,
)


@given(clips, st.sets(st.integers(1, 60), min_size=1, max_size=4), st.sampled_from([ONE, TIERS]))
def test_a_clip_goes_to_the_longest_length_that_it_fills(clips, lengths, ladder):
    fields = {"frame_buckets": sorted(lengths, reverse=True), "ladder": ladder}
    expected = {
        row: length for row, (_, _, frames) in enumerate(clips) if (length := length_of(frames, lengths))
    }
    if not expected:
        with pytest.raises(Invalid, match=f"{len(clips)} by num_frames"):
            Epochs(clips, **fields)
        return
    epochs = Epochs(clips, **fields)
    for epoch in (0, 5):
        rows, frames, _ = epochs.served(epoch)
        assert dict(zip(rows.tolist(), frames.tolist(), strict=True)) == expected
        assert len(rows) == len(expected)
    assert epochs.prepared.summary["pruned"]["num_frames"] == len(clips) - len(expected)
    for row in range(len(clips)):
        assert len(epochs.planner.locate(0, row, 1)) == (row in expected)


@pytest.mark.parametrize("tails", ["spill", "pad", "drop"])
def test_a_batch_is_of_one_length_and_one_size(tails):
    rng = np.random.default_rng(2)
    clips = np.stack(
        [rng.integers(300, 1500, 600), rng.integers(300, 1500, 600), rng.integers(1, 50, 600)], axis=1
    )
    epochs = Epochs(clips, tails=tails, batch_size=3, frame_buckets=[1, 9, 17, 33], ladder=TIERS)
    rows, frames, _ = epochs.served(1)
    for length, of in zip(frames.tolist(), clips[rows, 2].tolist(), strict=True):
        assert length == length_of(of, [1, 9, 17, 33])
    assert np.all(frames.reshape(-1, 3) == frames.reshape(-1, 3)[:, :1])


def test_images_without_a_number_of_frames_are_stills():
    sides = np.full(10, 600, dtype=np.uint32)
    plan = resolved(frame_buckets=[1, 17]).plan_spec()
    images = Images([Part(sides, sides), Part(sides, sides, num_frames=np.full(10, 17, dtype=np.uint32))])
    planner = new_planner(plan, prepare(plan, images), images)
    block = planner.batches(0, np.arange(20), 1)
    frames = plan.target_frames[block.buckets]
    assert dict(zip(block.rows.tolist(), frames.tolist(), strict=True)) == {
        row: 1 if row < 10 else 17 for row in range(20)
    }


# --- keep_prob --------------------------------------------------------------------------------------------------------


def test_what_a_tier_does_not_keep_comes_to_the_next_lower_one():
    """Each clip once an epoch, here or there; and which is where changes."""
    clips = [(*LARGE, 40)] * 31 + [(*SMALL, 40)] * 12
    epochs = Epochs(clips, ladder=TIERS, frame_buckets=[{"num_frames": 33, "keep_prob": [1.0, 0.3]}])
    kept = []
    for epoch in range(100):
        rows, _, tiers = epochs.served(epoch)
        assert sorted(rows.tolist()) == list(range(43))
        assert set(tiers[rows >= 31].tolist()) == {0}
        kept.append(frozenset(rows[tiers == 1].tolist()))
    sizes = [len(each) for each in kept]
    assert set(sizes) == {9, 10}  # 0.3 of 31 is 9.3
    assert 10 < sizes.count(10) < 55
    often = np.bincount([row for each in kept for row in each], minlength=31)
    assert 5 < often.min() <= often.max() < 60  # 30 are expected; the deviation is 4.6
    assert len(set(kept)) > 95
    assert epochs.stats()["dropped"] == 0


def test_what_the_lowest_tier_does_not_keep_is_not_asked_for():
    clips = [(*LARGE, 40)] * 50 + [(*SMALL, 40)] * 20
    epochs = Epochs(clips, ladder=TIERS, frame_buckets=[{"num_frames": 33, "keep_prob": [0.6, 0.3]}])
    told = epochs.stats()
    # of the large 15 above and 0.6 of 35 below, of the small 0.6 of 20
    assert (told["num_assigned"], told["num_samples"], told["dropped"]) == (70, 15 + 21 + 12, 0)
    ever = set()
    for epoch in range(40):
        rows, _, tiers = epochs.served(epoch)
        assert max(Counter(rows.tolist()).values()) == 1
        found = Counter(zip(tiers.tolist(), (rows >= 50).tolist(), strict=True))
        assert found == {(1, False): 15, (0, False): 21, (0, True): 12}
        ever |= set(rows.tolist())
    assert ever == set(range(70))


def test_one_number_is_for_all_tiers_and_each_length_has_its_own():
    clips = [(*LARGE, 1)] * 40 + [(*LARGE, 20)] * 40
    one = {"ladder": TIERS, "frame_buckets": [{"num_frames": 1, "keep_prob": 0.5}, 17]}
    listed = {"ladder": TIERS, "frame_buckets": [17, {"num_frames": 1, "keep_prob": [0.5, 0.5]}]}
    for fields in (one, listed):
        _, frames, tiers = Epochs(clips, **fields).served(0)
        assert Counter(zip(frames.tolist(), tiers.tolist(), strict=True)) == {
            (1, 1): 20,
            (1, 0): 10,
            (17, 1): 40,
        }
    assert [each.tolist() for each in Epochs(clips, **one).served(3)] == [
        each.tolist() for each in Epochs(clips, **listed).served(3)
    ]


def test_with_every_tier_each_keeps_its_own_share():
    clips = [(*LARGE, 20)] * 40
    fields = {
        "ladder": {**TIERS, "choose": "every"},
        "frame_buckets": [{"num_frames": 17, "keep_prob": [0.75, 0.25]}],
    }
    _, _, tiers = Epochs(clips, **fields).served(0)
    assert Counter(tiers.tolist()) == {0: 30, 1: 10}


def test_repeats_multiply_what_is_kept():
    clips = [(*LARGE, 40)] * 20
    fields = {
        "ladder": TIERS,
        "frame_buckets": [{"num_frames": 33, "keep_prob": [1.0, 0.3]}],
        "num_repeats": 2.5,
    }
    epochs = Epochs(clips, **fields)
    rows, _, tiers = epochs.served(0)
    assert Counter(tiers.tolist()) == {1: 15, 0: 35}
    assert set(Counter(rows.tolist()).values()) == {2, 3}


@given(clips, st.lists(st.sampled_from([0.25, 0.5, 0.9, 1.0]), min_size=2, max_size=2), st.integers(0, 99))
def test_no_clip_comes_twice_and_none_is_missed(clips, keep, epoch):
    """Whatever tiers they fill. One that every tier below it keeps comes for sure."""
    clips = [(width, height, 20) for width, height, _ in clips]
    fields = {"ladder": TIERS, "tails": "pad", "frame_buckets": [{"num_frames": 9, "keep_prob": keep}]}
    rows, _, _ = Epochs([*clips, *[(*SMALL, 20)] * 4], **fields).served(epoch)
    assert max(Counter(rows.tolist()).values()) == 1
    if keep[0] == 1.0:
        assert len(rows) == len(clips) + 4


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"frame_buckets": [1, 17, 1]}, "frame_buckets.2", "length 1 is listed more than once"),
        (
            {"frame_buckets": [{"num_frames": 9, "keep_prob": [0.5, 0.5]}]},
            "frame_buckets.0.keep_prob",
            "must have one number for each of 1 tier, got 2",
        ),
        (
            {"frame_buckets": [1, {"num_frames": 9, "keep_prob": [0.5]}], "ladder": TIERS},
            "frame_buckets.1.keep_prob",
            "each of 2 tiers, got 1",
        ),
        ({"frame_buckets": [1], "tails": "catch_all"}, "frame_buckets", "must not be mixed"),
        ({"ladder": TIERS, "tails": "catch_all"}, "ladder.kind", "must not be mixed"),
        ({"frame_buckets": [1], "planner": "novelai", "tails": None}, "frame_buckets", "novelai"),
    ],
)
def test_wrong_lengths_are_refused(fields, field, words):
    with pytest.raises(Invalid, match=words) as caught:
        resolved(**fields).plan_spec()
    assert caught.value.field == field


@pytest.mark.parametrize(
    "wrong",
    [
        *([], [0], [2**31], ["9"], [True], [{"num_frames": 0}], [{"keep_prob": 0.5}]),
        *(
            [{"num_frames": 9, "keep_prob": share}]
            for share in (0, 1.01, [], True, "0.5", [0.5, float("nan")])
        ),
    ],
)
def test_lengths_and_shares_are_numbers_in_range(wrong):
    with pytest.raises(ValidationError, match="frame_buckets"):
        resolved(frame_buckets=wrong)
