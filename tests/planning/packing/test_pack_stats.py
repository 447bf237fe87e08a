"""What packs cost, as counted from the packs themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bucketline_service
from bucketline_service.planning.packing.lengths import length_classes
from bucketline_service.planning.packing.native_sizes import NativeSizes
from bucketline_service.planning.packing.pack_kinds import PackKinds, fit_pack_kinds
from bucketline_service.planning.packing.pack_stats import pack_stats
from bucketline_service.planning.packing.slots import PackLine, stretches
from tests.planning.packing.data import histograms

COCO = Path(bucketline_service.__file__).parent / "data" / "coco-5k.csv"


def served_once(packs, tokens, counts, seed):
    """Tokens of the images in each slot of all packs, as an epoch has them, and the slots' lengths; the images of each
    length in an order of the epoch's own."""
    rng = np.random.default_rng(seed)
    images = np.repeat(tokens, counts)
    of = length_classes(images, packs.lengths)
    tape = np.concatenate([rng.permutation(images[of == each]) for each in range(len(packs.lengths))[::-1]])
    laid = stretches(packs.slots, np.bincount(of, minlength=len(packs.lengths)), int(rng.integers(2**32)))
    kinds = np.repeat(np.arange(len(packs.counts)), packs.counts)
    numbers = np.arange(len(kinds)) - np.repeat(np.cumsum(packs.counts) - packs.counts, packs.counts)
    slots = PackLine.of(packs.kinds, packs.counts).slots(kinds, numbers)
    places = laid.places(slots.stretches, slots.numbers, rng.integers(0, laid.lengths))
    return tape[places], packs.lengths[laid.classes[slots.stretches]], slots.bounds


@given(histograms(max_count=900), st.integers(1, 8))
def test_stats_are_what_an_epoch_of_the_packs_has(histogram, num_lengths):
    tokens, counts, budget = histogram
    packs = fit_pack_kinds(*histogram, num_lengths)
    stats = pack_stats(packs, tokens, counts)
    total = packs.num_packs * budget
    assert stats.fill + stats.padding + stats.unused == pytest.approx(1)
    served, reserved, bounds = served_once(packs, tokens, counts, 0)
    assert (served <= reserved).all()
    assert np.add.reduceat(reserved, bounds[:-1]).max() <= budget
    assert stats.unused == pytest.approx(1 - reserved.sum() / total)
    # which images are left out differs from epoch to epoch, and so their tokens
    num_out = int(counts.sum()) - len(served)
    assert stats.left_out.sum() == pytest.approx(num_out)
    assert stats.left_out_share == pytest.approx(num_out / counts.sum())
    assert stats.fill * total == pytest.approx(served.sum(), abs=float((num_out + num_lengths) * max(tokens)))
    if not num_out:
        assert stats.fill * total == pytest.approx(served.sum())


def test_the_mean_over_epochs_is_met():
    """Two lengths of two token counts each; short images stand in long slots, and one image in ten has no slot."""
    packs = PackKinds(10, np.array([4, 6]), np.array([[1, 1], [1, 0]]), np.array([25, 58]))
    tokens, counts = np.array([2, 4, 5, 6]), np.array([50, 50, 10, 10])
    stats = pack_stats(packs, tokens, counts)
    assert stats.num_images.tolist() == [100, 20]
    assert stats.left_out == pytest.approx([10, 2])
    served = [served_once(packs, tokens, counts, seed)[0].sum() for seed in range(400)]
    assert np.mean(served) == pytest.approx(stats.fill * packs.num_packs * 10, rel=2e-3)


def test_coco_fills_packs_of_16_384_tokens():
    """To 99.5 % at least, with at most 40 kinds. The exact numbers are of a version of HiGHS."""
    widths, heights = np.loadtxt(COCO, dtype=np.int64, delimiter=",", skiprows=1, usecols=(1, 2)).T
    native = NativeSizes.of(1 << 20, 16)
    histogram = np.unique(native.tokens(*native.sizes(widths, heights)), return_counts=True)
    packs = fit_pack_kinds(*histogram, 16_384, 32)
    assert pack_stats(packs, *histogram).fill >= 0.995
    assert len(packs.kinds) <= 40
