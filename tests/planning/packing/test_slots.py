"""Stretches: every slot has an image that fits, and what is left out is borne evenly. Which image is in which slot of
which pack is tested where plans are made of them, in ``test_packed_plans.py``."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline_service.planning.packing.slots import stretches
from tests.planning.packing.data import packs_and_images

draws = st.integers(0, 2**32 - 1)


def chances(slots, images, num_draws=100):
    """float64[n]: how often each image has no slot, the longest first, over all draws and wherever in its stretch a
    slot length begins to serve."""
    found = np.zeros(images.sum())
    for each in range(num_draws):
        laid = stretches(slots, images, (2 * each + 1) * 2**32 // (2 * num_draws))
        out = np.ones(len(found))
        for begin, length, num_slots in zip(laid.begins, laid.lengths, laid.num_slots, strict=True):
            out[begin : begin + length] = 1 - num_slots / length
        found += out / num_draws
    return found


@given(packs_and_images(), draws)
def test_stretches_serve_all_slots_with_images_that_fit(packs, draw):
    kinds, counts, images = packs
    slots = counts @ kinds
    laid = stretches(slots, images, draw)
    assert laid.classes.tolist() == np.flatnonzero(slots)[::-1].tolist()
    np.testing.assert_array_equal(laid.num_slots, slots[laid.classes])
    assert (laid.lengths >= laid.num_slots).all()
    tape = np.repeat(np.arange(len(images)), images)[::-1]
    assert (tape[laid.begins] <= laid.classes).all()
    # one after the other, to the end of the tape
    ends = laid.begins + laid.lengths
    assert ends.tolist() == [*laid.begins[1:], *([images.sum()] if len(ends) else [])]


@given(packs_and_images())
def test_nobody_is_left_out_oftener_than_the_length_that_must_leave_out_the_most(packs):
    """To a quarter of an image of each length: a stretch bears whole images, and those at its ends feel it."""
    kinds, counts, images = packs
    slots = counts @ kinds
    out = np.bincount(
        np.repeat(np.arange(len(images)), images)[::-1],
        weights=chances(slots, images),
        minlength=len(images),
    )
    assert out.sum() == pytest.approx(images.sum() - slots.sum())
    longer = np.cumsum(images[::-1])[::-1]
    # those for whom there is no slot of their length or longer, and all that are left out in any case
    forced = np.append(longer - np.cumsum(slots[::-1])[::-1], images.sum() - slots.sum())
    most = (forced / np.maximum(np.append(longer, images.sum()), 1)).max()
    assert (out <= images * most + 0.25).all()


def test_all_images_have_the_same_chance_where_no_length_is_short_of_slots():
    """The loss of the shortest length alone, one in ten, is borne by all."""
    images, slots = np.array([500, 300, 200]), np.array([400, 300, 200])
    np.testing.assert_allclose(chances(slots, images), 0.1, rtol=0.01)
    assert stretches(slots, images).lengths.tolist() == [222, 333, 445]


def test_longer_images_than_slots_are_left_out_among_themselves():
    images, slots = np.array([10, 4]), np.array([10, 3])
    np.testing.assert_allclose(chances(slots, images), [1 / 4] * 4 + [0] * 10)
    laid = stretches(slots, images)
    assert (laid.begins.tolist(), laid.lengths.tolist()) == ([0, 4], [4, 10])


def test_images_longer_than_any_slot_stand_before_the_first_stretch():
    laid = stretches(np.array([3, 0]), np.array([3, 2]))
    assert (laid.classes.tolist(), laid.begins.tolist(), laid.lengths.tolist()) == ([0], [2], [3])


@given(packs_and_images(), draws)
def test_a_stretch_bears_its_share_rounded_and_exactly_over_all_draws(packs, draw):
    kinds, counts, images = packs
    slots = counts @ kinds

    def borne(each):
        laid = stretches(slots, images, each)
        return laid.lengths - laid.num_slots, laid.begins[:1].sum()

    # the share of an end has at most as many parts as there are slots: draws at the middle of each part of 2 ** 32
    parts = max(int(slots.sum()), 1)
    evenly = [int((i + 0.5) * 2**32 / parts) for i in range(parts)]
    shares = np.mean([borne(each)[0] for each in evenly], axis=0) if len(slots.nonzero()[0]) else np.empty(0)
    here, before = borne(draw)
    assert (here >= 0).all()
    assert (np.abs(here - shares) <= 1 + 1 / parts).all()
    assert here.sum() + before == images.sum() - slots.sum() or not slots.any()


def test_over_all_draws_every_slot_is_as_likely_to_have_an_image_too_many():
    """One image in ten is left out, and a stretch bears none or one."""
    slots, images = np.array([1, 2, 3, 3]), np.array([2, 2, 3, 3])
    borne = [stretches(slots, images, (2 * i + 1) * 2**32 // 18).lengths - slots[::-1] for i in range(9)]
    assert np.sum(borne, axis=0).tolist() == slots[::-1].tolist()
    assert np.sum(borne, axis=1).tolist() == [1] * 9


def test_slots_that_no_image_fits_into_are_an_error():
    with pytest.raises(ValueError, match="more slots than images"):
        stretches(np.array([2, 0]), np.array([1, 1]))


def test_counts_of_billions_are_exact():
    images = np.array([3_000_000_001, 1_000_000_007])
    slots = np.array([2_999_999_000, 999_999_300])
    # more than their even share
    for draw in (0, 2**32 - 1):
        laid = stretches(slots, images, draw)
        assert laid.begins.tolist() == [0, images[1]]
        assert int(laid.lengths.sum()) == int(images.sum())
