"""Specs with packs, of every kind: what an epoch serves, and what is told of it."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bucketline_service
from bucketline_service.planning.geometry import crop_loss
from bucketline_service.planning.images import Images
from bucketline_service.planning.line.image_classes import ImageClassifier
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.packing.pack_kinds import ONE_LEFT_OUT_IN
from bucketline_service.previews.estimate import estimate_from_sizes
from tests.planning.lines import epochs
from tests.planning.packing.plans import distinct, part, planned, plans
from tests.planning.test_ledger import summed

COCO = Path(bucketline_service.__file__).parent / "data" / "coco-5k.csv"


def quotas(it):
    return SampleQuotas.of(ImageClassifier(it.plan, it.images), it.prepared.groups, it.plan.num_buckets)


def num_samples(it, epoch):
    return int(quotas(it).cuts(it.plan.seed, epoch).counts.sum())


def some_rows(it):
    """Of all parts of the map: a planner is asked of one row at a time."""
    return np.unique(np.linspace(0, it.images.num_rows - 1, 12).astype(int)).tolist()


@given(plans(), epochs)
def test_every_slot_holds_an_image_that_fits(it, epoch):
    block = it.epoch(epoch)
    assert not block.repeats.any()
    assert (np.diff(block.bounds) == it.packs.kinds.sum(axis=1)[block.buckets]).all()
    slots, tokens = it.slots(block), it.tokens[block.rows]
    assert (tokens > 0).all()
    assert (tokens <= slots).all()
    assert np.add.reduceat(slots, block.bounds[:-1]).max() <= it.packs.max_tokens
    for pack, (begin, end) in enumerate(pairwise(block.bounds.tolist())):
        assert it.packing.slot_lengths(int(block.buckets[pack])) == slots[begin:end].tolist()
    if it.valid is not None:
        assert np.isin(block.rows, it.valid).all()
    # few images are left out: those of the packs that do not fill a unit, one in 200, and where epochs have different
    # numbers of samples what exceeds the fewest
    least, num = quotas(it).least().sum(), num_samples(it, epoch)
    out = it.packs.num_packs % it.plan.lockstep
    of_packs = np.sort(np.repeat(it.packs.kinds.sum(axis=1), it.packs.counts))[::-1][:out].sum()
    assert 0 <= num - len(block.rows) <= of_packs + least // ONE_LEFT_OUT_IN + num - least


@given(plans())
def test_who_is_pruned_has_no_size_or_is_beyond_a_limit(it):
    (width, height), (at_width, at_height) = it.sides
    spec = it.plan
    is_left = (at_width > 0) & (np.minimum(width, height) >= (spec.min_size or 0))
    most = spec.max_crop_loss if spec.max_crop_loss is not None else 1.0
    is_left &= crop_loss(width, height, np.maximum(at_width, 1), np.maximum(at_height, 1)) <= most
    frames = it.images.frames_at(np.arange(it.images.num_rows))
    lengths = [length.num_frames for length in spec.frame_buckets]
    if lengths:
        # 1 is for stills alone
        is_left &= [any(each <= has and (each > 1 or has == 1) for each in lengths) for has in frames]
    repeats = [part.repeats[0] if part.codes is None else part.repeats[part.codes] for part in it.parts]
    sizes = [len(part.widths) for part in it.parts]
    is_left &= (
        np.concatenate([np.broadcast_to(each, num) for each, num in zip(repeats, sizes, strict=True)]) > 0
    )
    if it.valid is not None:
        is_left &= np.isin(np.arange(len(is_left)), it.valid)
    placed = np.sort(it.prepared.order)
    assert placed.tolist() == np.flatnonzero(is_left).tolist()


@given(plans(), epochs)
def test_each_image_knows_its_slots_and_comes_no_oftener_than_asked(it, epoch):
    places = it.places(epoch)
    for row in some_rows(it):
        assert it.planner.locate(epoch, row, 1) == places[row]
        assert len(places[row]) <= it.planner.num_asked(epoch, row)


def imbalance(costs, world_size):
    steps = costs[: len(costs) // world_size * world_size].reshape(-1, world_size)
    return steps.max(axis=1).sum() / steps.mean(axis=1).sum()


@given(plans(), epochs, st.integers(1, 5))
def test_what_is_told_of_an_epoch_is_what_its_packs_are(it, epoch, world_size):
    if it.num_batches(epoch) < world_size:
        world_size = 1
    stats = it.stats(epoch, world_size)
    told, block = stats["packs"], it.epoch(epoch)
    num_dealt = stats["num_steps"] * world_size
    assert stats["num_batches"] == len(block.buckets)
    num_kinds = len(it.packs.counts)
    counts = np.bincount(block.buckets, minlength=num_kinds)
    assert [kind["num_packs"] for kind in told["kinds"]] == counts.tolist()
    assert told["num_kinds"] == stats["num_shapes"] == np.count_nonzero(counts)
    slots, tokens = it.slots(block), it.tokens[block.rows]
    of_slot = Counter(slots.tolist())
    assert [each["num_slots"] for each in told["lengths"]] == [
        of_slot[each["length"]] for each in told["lengths"]
    ]
    for kind, about in enumerate(told["kinds"]):
        there = np.flatnonzero(it.packs.kinds[kind])[::-1]
        listed = [(int(it.packs.lengths[at]), int(it.packs.kinds[kind, at])) for at in there]
        assert [(each["length"], each["num_slots"]) for each in about["slots"]] == listed
        assert about["num_tokens"] == sum(length * num for length, num in listed)
        assert about["num_images"] == sum(num for _, num in listed)
    # what the steps deal
    end = int(block.bounds[num_dealt])
    assert stats["num_samples"] == num_samples(it, epoch)
    assert stats["dropped"] == stats["num_samples"] - end
    assert stats["repeated"] == stats["never_served"] == 0
    lengths = it.packs.lengths.astype(np.float64)
    of_slots = lengths**2 if it.plan.cost.kind == "pixels" else lengths + lengths**2 / (6 * 7)
    assert stats["step_imbalance"] == pytest.approx(
        imbalance((it.packs.kinds @ of_slots)[block.buckets], world_size)
    )
    for name, costs in (
        ("token_imbalance", it.packs.kinds @ lengths),
        ("attention_imbalance", it.packs.kinds @ lengths**2),
    ):
        assert told[name] == pytest.approx(imbalance(costs[block.buckets], world_size))
    assert told["full"] + told["padding"] + told["unused"] == pytest.approx(1)
    assert sum(each["num_served"] for each in told["lengths"]) == pytest.approx(
        len(block.rows) * num_dealt / len(block.buckets)
    )
    if end == stats["num_samples"] and not quotas(it).is_thinned.any():
        # every epoch has all images, equally often
        total = num_dealt * it.packs.max_tokens
        assert told["full"] == pytest.approx(tokens.sum() / total)
        assert told["unused"] == pytest.approx(1 - slots.sum() / total)
        assert told["mean_tokens"] == pytest.approx(tokens.mean())
        lost = crop_loss(*it.sides[0], *np.maximum(it.sides[1], 1))[block.rows]
        assert told["crop_loss_served"] == stats["crop_loss_served"] == pytest.approx(lost.mean(), abs=1e-6)


def close(stats):
    """All floats to 12 digits, all else as it is."""
    if isinstance(stats, dict):
        return {name: close(value) for name, value in stats.items()}
    if isinstance(stats, list):
        return [close(value) for value in stats]
    return pytest.approx(stats, rel=1e-12, abs=1e-12) if isinstance(stats, float) else stats


@given(plans(), st.integers(1, 5))
def test_the_distinct_sizes_tell_the_same(it, world_size):
    if it.num_batches() < world_size:
        world_size = 1
    num_invalid = None if it.valid is None else it.images.num_rows - len(it.valid)
    told = estimate_from_sizes(it.plan, Images(distinct(it.parts, it.valid)), world_size, num_invalid)
    stats = it.stats(0, world_size)
    # where the share of a map is a fraction, sums of samples differ in the last digits, and so where quantiles lie
    for summary in (told["aspect_error"], told["crop_loss"], stats["aspect_error"], stats["crop_loss"]):
        for name in ("median", "p95", "quantiles"):
            del summary[name]
    assert told == close(stats)


@given(plans(), epochs, st.integers(1, 5))
def test_the_ledger_accounts_for_every_image(it, epoch, world_size):
    if it.num_batches(epoch) < world_size:
        world_size = 1
    ledger, stats = it.ledger(world_size), it.stats(epoch, world_size)
    always, told = summed(ledger.always()), summed(ledger.epoch(epoch))
    block = it.epoch(epoch)
    cut = block.bounds[stats["num_steps"] * world_size]
    served, rest = (np.bincount(rows, minlength=it.images.num_rows) for rows in np.split(block.rows, [cut]))
    accounted = served.copy()
    for (what, reason), rows in told.items():
        assert (what, reason) in {("left_out", "tail"), ("left_out", "last_step")} or not rows
        for row, num in rows.items():
            accounted[row] += num
    assert accounted.sum() == num_samples(it, epoch)
    for row in some_rows(it):
        assert accounted[row] == it.planner.num_asked(epoch, row)
    assert rest.tolist() == [told["left_out", "last_step"][row] for row in range(len(rest))]
    assert not always["never_served", "small_bucket"]
    pruned = {reason: len(rows) for (what, reason), rows in always.items() if what == "pruned"}
    assert pruned == {reason: num for reason, num in stats["pruned"].items() if num}


@given(plans())
def test_the_largest_kinds_come_first(it):
    """With ``first: largest`` epoch 0 has a pack of each kind, as far as it has packs; each of its first units has the
    kind with the most tokens that none before it has."""
    block = it.epoch(0)
    units = [set(unit) for unit in block.buckets.reshape(-1, it.plan.lockstep).tolist()]
    dealt = set(block.buckets.tolist())
    if it.plan.first is None:
        return
    assert len(dealt) == min(len(it.packs.counts), len(block.buckets))
    tokens = it.packs.kinds @ it.packs.lengths
    # of as many tokens first those with the longest slots, as kinds are numbered
    ordered = sorted(dealt, key=lambda kind: (-tokens[kind], kind))
    shown = set()
    for unit in units:
        missing = [kind for kind in ordered if kind not in shown]
        if not missing:
            break
        assert missing[0] in unit
        shown |= unit


def out_over_epochs(it, num_epochs):
    """int64[N]: in how many of these epochs each image does not come."""
    return np.sum([it.times(epoch) == 0 for epoch in range(num_epochs)], axis=0)


FEW = {
    # (width, height) of each image, and the spec
    "one": ([(4, 4)], {}),
    "all equal": ([(4, 4)] * 13, {"pack": {"max_tokens": 40}, "lockstep": 4}),
    "one fills a pack": ([(10, 10), *[(3, 3)] * 25], {"lockstep": 3}),
    "one may be absent": ([(10, 10), *[(3, 3)] * 5], {"num_repeats": 0.5}),
    "all long ones may be absent": ([*[(9, 9)] * 3, *[(3, 3)] * 4, *[(2, 2)] * 7], {"num_repeats": 0.3}),
    "a kind that some epochs leave out": ([(9, 9), (8, 8), *[(5, 5)] * 27], {"lockstep": 5}),
}


@pytest.mark.parametrize("name", FEW)
def test_no_image_is_out_in_every_epoch(name):
    """Of sets so small that a length may have a slot in some epochs only."""
    sizes, fields = FEW[name]
    it = planned([part(sizes)], **{"pack": {"max_tokens": 100}, **fields})
    assert (out_over_epochs(it, 100) < 100).all()


@pytest.fixture(scope="module")
def few():
    """300 images of COCO, in 78 packs, of which 6 fill no step of 8 ranks."""
    sides = np.loadtxt(COCO, dtype=np.int64, delimiter=",", skiprows=1, usecols=(1, 2))[:300]
    it = planned([part(sides)], pack={"max_tokens": 4096}, ladder={"kind": "native"}, lockstep=8)
    assert it.packs.num_packs % 8 == 6
    return it


def test_what_is_expected_of_epochs_is_what_they_have_in_the_mean(few):
    """Where images are left out, in another share of each length; and of 72 packs 7 ranks are dealt 70."""
    names = ("full", "padding", "unused", "mean_tokens", "crop_loss_served")
    told, counted = [], []
    lost = crop_loss(*few.sides[0], *few.sides[1])
    lengths = np.searchsorted(-few.packing.lengths, -few.tokens, side="right") - 1
    for epoch in range(80):
        about, block = few.stats(epoch, 7)["packs"], few.epoch(epoch, np.arange(70))
        total = len(block.buckets) * few.packs.max_tokens
        tokens, slots = few.tokens[block.rows], few.slots(block)
        here = [tokens.sum() / total, (slots - tokens).sum() / total, 1 - slots.sum() / total]
        here += [tokens.mean(), lost[block.rows].mean()]
        told.append([about[name] for name in names] + [each["num_served"] for each in about["lengths"]])
        counted.append(here + np.bincount(lengths[block.rows], minlength=few.plan.num_buckets).tolist())
    difference = np.abs(np.mean(told, axis=0) - np.mean(counted, axis=0))
    assert (difference[:5] <= [2e-3, 2e-3, 1e-3, 3.0, 1e-4]).all()
    assert (difference[5:] < 1).all()


def test_left_outs_are_even(few):
    """Among the images of a length to what chance gives; and no length is left out more than twice as often as all.
    Where packs with long slots are left out, images that are as long must be."""
    num_epochs = 250
    out = out_over_epochs(few, num_epochs)
    lengths = np.searchsorted(few.packs.lengths, few.tokens)
    share = out.mean() / num_epochs
    assert share == pytest.approx(6 / few.packs.num_packs, rel=0.05)
    for length in np.unique(lengths):
        assert out[lengths == length].mean() <= 2 * share * num_epochs
    many = [out[lengths == length] for length in np.unique(lengths) if np.sum(lengths == length) >= 20]
    shares = [each.mean() / num_epochs for each in many]
    chi2 = sum(
        ((each - p * num_epochs) ** 2).sum() / (num_epochs * p * (1 - p))
        for each, p in zip(many, shares, strict=True)
    )
    # by chance 1, give or take a tenth
    assert 0.7 < chi2 / sum(len(each) - 1 for each in many) < 1.3
