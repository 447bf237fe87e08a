"""Plans with packs: every slot has another image that fits, nobody is served oftener than asked, and what is told of
an epoch is what its packs are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.planning.lines import epochs
from tests.planning.packing.data import packs_and_images
from tests.planning.packing.plans import of_packs


@st.composite
def plans_of_packs(draw):
    """Of any packs: a kind may have but one, and more images may be left over than any spec would leave."""
    kinds, counts, images = draw(packs_and_images())
    is_there = (counts > 0) & kinds.any(axis=1)
    if not is_there.any():
        kinds, counts, images, is_there = np.array([[1]]), np.array([1]), np.array([1]), np.array([True])
    lockstep = draw(st.integers(1, min(4, int(counts[is_there].sum()))))
    first = draw(st.sampled_from([None, "largest"]))
    return of_packs(
        kinds[is_there], counts[is_there], images, lockstep, draw(st.integers(0, 99)), first=first
    )


def check_slots(it, epoch):
    """Every slot has an image that fits; an image comes as often as the epoch asks for it, or less."""
    block = it.epoch(epoch)
    num_slots = it.packs.kinds.sum(axis=1)
    np.testing.assert_array_equal(np.diff(block.bounds), num_slots[block.buckets])
    assert not block.repeats.any()
    slots = it.slots(block)
    assert (it.tokens[block.rows] <= slots).all()
    assert (it.tokens[block.rows] > 0).all()
    for begin, end in pairwise(block.bounds.tolist()):
        assert slots[begin:end].sum() <= it.packs.max_tokens
        assert slots[begin:end].tolist() == sorted(slots[begin:end].tolist(), reverse=True)
    asked = np.array([it.planner.num_asked(epoch, row) for row in range(it.images.num_rows)])
    assert (it.times(epoch) <= asked).all()
    return block, asked


@given(plans_of_packs(), epochs)
def test_every_slot_holds_another_image_that_fits(it, epoch):
    block, _ = check_slots(it, epoch)
    num, lockstep = it.packs.num_packs, it.plan.lockstep
    assert len(block.buckets) == num - num % lockstep
    assert (np.bincount(block.buckets, minlength=len(it.packs.counts)) <= it.packs.counts).all()


@given(plans_of_packs(), epochs)
def test_each_image_knows_its_slots(it, epoch):
    for row, expected in it.places(epoch).items():
        assert it.planner.locate(epoch, row, 1) == expected


@given(plans_of_packs(), epochs)
def test_packs_are_found_one_by_one_as_all_together(it, epoch):
    together = it.epoch(epoch)
    for position, (begin, end) in enumerate(pairwise(together.bounds.tolist())):
        alone = it.epoch(epoch, np.array([position]))
        assert alone.buckets.tolist() == [together.buckets[position]]
        assert alone.rows.tolist() == together.rows[begin:end].tolist()
