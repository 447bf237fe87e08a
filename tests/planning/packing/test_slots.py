"""Slots: every one is filled with an image that fits, no image twice, and what is left out is borne evenly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bucketline_service.planning.packing.slots import PackLine, left_out, stretches
from tests.planning.packing.data import packs_and_images

draws = st.integers(0, 2**32 - 1)


def every_pack(counts):
    """Kinds and numbers of all packs."""
    kinds = np.repeat(np.arange(len(counts)), counts)
    return kinds, np.arange(len(kinds)) - np.repeat(np.cumsum(counts) - counts, counts)


def turned(laid, seed):
    """A rotation for each stretch."""
    return np.random.default_rng(seed).integers(0, laid.lengths)


@given(packs_and_images(), draws, st.integers(0, 9))
@example((np.array([[0, 1]]), np.array([0]), np.array([2, 3])), 0, 0)
def test_every_slot_holds_another_image_that_fits(packs, draw, seed):
    kinds, counts, images = packs
    line, laid = PackLine.of(kinds, counts), stretches(counts @ kinds, images, draw)
    rotations = turned(laid, seed)
    of_kind, numbers = every_pack(counts)
    slots = line.slots(of_kind, numbers)
    places = laid.places(slots.stretches, slots.numbers, rotations)
    assert len(places) == (counts @ kinds).sum()
    assert len(np.unique(places)) == len(places)
    # the tape: the longest images first
    tape = np.repeat(np.arange(len(images)), images)[::-1]
    assert (places >= 0).all()
    for pack, (begin, end) in enumerate(zip(slots.bounds[:-1], slots.bounds[1:], strict=True)):
        lengths = laid.classes[slots.stretches[begin:end]]
        # longest first, and as many of each length as the kind says
        expected = np.repeat(np.arange(len(images)), kinds[of_kind[pack]])[::-1]
        np.testing.assert_array_equal(lengths, expected)
        assert (tape[places[begin:end]] <= lengths).all()


@given(packs_and_images(), draws, st.integers(0, 9))
def test_each_place_of_the_tape_knows_its_slot(packs, draw, seed):
    kinds, counts, images = packs
    line, laid = PackLine.of(kinds, counts), stretches(counts @ kinds, images, draw)
    rotations = turned(laid, seed)
    of_kind, numbers = every_pack(counts)
    slots = line.slots(of_kind, numbers)
    at = laid.places(slots.stretches, slots.numbers, rotations)
    packs_of = np.repeat(np.arange(len(of_kind)), np.diff(slots.bounds))
    expected = {
        int(place): (int(of_kind[pack]), int(numbers[pack]), i - int(slots.bounds[pack]))
        for i, (place, pack) in enumerate(zip(at, packs_of, strict=True))
    }
    places = np.arange(images.sum())
    of, inside = laid.slots(places, rotations)
    found = line.find(of[of >= 0], inside[of >= 0])
    served = zip(places[of >= 0].tolist(), *(each.tolist() for each in found), strict=True)
    assert {place: tuple(where) for place, *where in served} == expected
    assert (inside[of < 0] == -1).all()


@given(packs_and_images(), draws)
def test_packs_are_found_one_by_one_as_all_together(packs, draw):
    kinds, counts, _ = packs
    line = PackLine.of(kinds, counts)
    of_kind, numbers = every_pack(counts)
    together = line.slots(of_kind, numbers)
    for pack, (begin, end) in enumerate(zip(together.bounds[:-1], together.bounds[1:], strict=True)):
        alone = line.slots(of_kind[pack : pack + 1], numbers[pack : pack + 1])
        assert alone.bounds.tolist() == [0, end - begin]
        np.testing.assert_array_equal(alone.stretches, together.stretches[begin:end])
        np.testing.assert_array_equal(alone.numbers, together.numbers[begin:end])


@given(packs_and_images())
def test_nobody_is_left_out_oftener_than_the_length_that_must_leave_out_the_most(packs):
    kinds, counts, images = packs
    slots = counts @ kinds
    out = left_out(slots, images)
    assert out.sum() == pytest.approx(images.sum() - slots.sum())
    assert (out >= -1e-9).all()
    longer = np.cumsum(images[::-1])[::-1]
    # those for whom there is no slot of their length or longer, and all that are left out in any case
    forced = np.append(longer - np.cumsum(slots[::-1])[::-1], images.sum() - slots.sum())
    most = (forced / np.maximum(np.append(longer, images.sum()), 1)).max()
    chances = out[images > 0] / images[images > 0]
    assert (chances <= most + 1e-9).all()


def test_all_images_have_the_same_chance_where_no_length_is_short_of_slots():
    """The loss of the shortest length alone, one in ten, is borne by all."""
    images, slots = np.array([500, 300, 200]), np.array([400, 300, 200])
    np.testing.assert_allclose(left_out(slots, images), images / 10)
    assert stretches(slots, images).lengths.tolist() == [222, 333, 445]


def test_longer_images_than_slots_are_left_out_among_themselves():
    images, slots = np.array([10, 4]), np.array([10, 3])
    assert left_out(slots, images).tolist() == [0, 1]
    laid = stretches(slots, images)
    assert (laid.begins.tolist(), laid.lengths.tolist()) == ([0, 4], [4, 10])


def test_images_longer_than_any_slot_stand_before_the_first_stretch():
    laid = stretches(np.array([3, 0]), np.array([3, 2]))
    assert (laid.classes.tolist(), laid.begins.tolist(), laid.lengths.tolist()) == ([0], [2], [3])
    of, numbers = laid.slots(np.arange(5), np.array([1]))
    assert of.tolist() == [-1, -1, 0, 0, 0]
    assert numbers.tolist() == [-1, -1, 2, 0, 1]


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
