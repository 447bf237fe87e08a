"""ImageClasses: the images that go the same way through an epoch, to the same buckets and equally often.

An image has one nearest bucket in each tier. Which of the tiers it may come to, and which class it is of, make its
*key*; images of one key are a group, which is a contiguous run of rows in the line. What an epoch does with a group is
its quotas (``sample_quotas.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets.assignment import assign
from bucketline_service.planning.buckets.pruning import REASONS
from bucketline_service.planning.images import Chunk, Images, Part
from bucketline_service.planning.plan_spec import FrameBucket, MapShare, PlanSpec

_I64 = NDArray[np.int64]

PRUNED = (*REASONS[1:], "num_frames", "num_repeats", "valid_ids")
"""Why an image is in no bucket, in the order in which it is asked. Reason 0 of a row: it is in one."""

_NUM_FRAMES, _NUM_REPEATS, VALID_IDS = len(REASONS), len(REASONS) + 1, len(REASONS) + 2

MAX_GROUPS = 32_000
"""Keys are numbered in 16 bits inside a chunk, because numpy's stable sort is a radix sort then."""

MAX_KEYS = 2**62
"""A key is one number: (buckets + 1) of every tier, lengths and classes, multiplied, stay below this."""

_TABLE = 1 << 18  # keys up to here are counted in a table, others by sorting


@dataclass(frozen=True, eq=False)
class ImageClasses:
    """In order of their keys, all int64[G] or float64[G]: ``keys``; ``counts``: images; ``samples``: how
    often an epoch asks for each image of the group, in all buckets together where none is thinned."""

    keys: _I64
    counts: _I64
    samples: NDArray[np.float64]

    @property
    def starts(self) -> _I64:
        """int64[G]: where the group's rows begin in the line."""
        return np.cumsum(self.counts) - self.counts


class Coded(NamedTuple):
    """The rows of a chunk. ``codes`` int16[n]: the index of each row's key among ``keys`` int64[k], ascending; -1 where
    it is pruned. ``counts`` int64[k]: images of each key; ``pruned`` int64[len(PRUNED)]: of each reason."""

    codes: NDArray[np.int16]
    keys: _I64
    counts: _I64
    pruned: _I64


class ImageClassifier:
    """From sizes to keys and back, for one spec and the classes of its images."""

    def __init__(self, spec: PlanSpec, images: Images) -> None:
        self._spec = spec
        self._num_classes = len(images.repeats)
        self._class_parts = images.parts
        self._class_repeats = images.repeats
        self._is_dead = images.repeats == 0
        self._radices = [num + 1 for num in spec.tier_sizes]
        self._lengths = np.array([length.num_frames for length in spec.frame_buckets], dtype=np.int64)
        # float64[lengths, tiers]
        self._keep = np.array([[share.keep for share in tiers] for tiers in spec.shares])
        self._space = max(1, len(self._lengths)) * self._num_classes
        for radix in self._radices:
            self._space *= radix
        if self._space >= MAX_KEYS:
            num = self._tiers_told_apart()
            detail = f"{len(spec.tiers)} tiers of up to {max(self._radices) - 1} buckets have too many combinations"
            enough = (
                f"{num} {'tier' if num == 1 else 'tiers'}" if num else "shorter lists of repeats and lengths"
            )
            raise Invalid("ladder", detail, f"Use at most {enough} of them, or smaller ladders")

    def _tiers_told_apart(self) -> int:
        """So many of the tiers can be, whichever they are."""
        space = max(1, len(self._lengths)) * self._num_classes
        num = 0
        for radix in sorted(self._radices, reverse=True):
            space *= radix
            if space >= MAX_KEYS:
                break
            num += 1
        return num

    def code(self, chunk: Chunk, is_valid: NDArray[np.bool_] | None = None) -> Coded:
        """``is_valid`` bool[n]: False where ``valid_ids`` leaves the row out, which is its only reason then."""
        keys, reasons = self.keys(chunk)
        if is_valid is not None:
            keys[~is_valid] = -1
            reasons[~is_valid] = VALID_IDS
        pruned = tally(reasons, len(PRUNED) + 1, chunk.counts)[1:]
        if self._space <= _TABLE:
            sizes = np.bincount(keys + 1, minlength=self._space + 1)[1:]
            found = np.flatnonzero(sizes)
            table = np.full(self._space + 1, -1, dtype=np.int16)
            table[found + 1] = np.arange(len(found))
            codes = table[keys + 1]
        else:
            found, inverse = np.unique(keys, return_inverse=True)
            none = int(len(found) > 0 and found[0] < 0)
            found, codes = found[none:], (inverse - none).astype(np.int16)
        if len(found) > MAX_GROUPS:
            detail = f"tiers, lengths and repeats put images in more than {MAX_GROUPS:,} groups"
            raise Invalid("ladder", detail, "Use fewer buckets, or fewer distinct num_repeats in the map")
        weights = None if chunk.counts is None else chunk.counts[codes >= 0]
        return Coded(codes, found, tally(codes[codes >= 0], len(found), weights), pruned)

    def keys(self, chunk: Chunk) -> tuple[_I64, NDArray[np.uint8]]:
        """The key of every row, -1 where it is pruned, and why: 0 where it is not, else 1 + an index of ``PRUNED``."""
        num = len(chunk.widths)
        lengths = self._length_of(chunk, num)
        keys, reasons = self._tiers(chunk, lengths)
        classes = 0 if chunk.classes is None else chunk.classes
        if lengths is not None:
            reasons[(reasons == 0) & (lengths < 0)] = _NUM_FRAMES
        if self._is_dead.any():
            reasons[(reasons == 0) & self._is_dead[classes]] = _NUM_REPEATS
        keys = keys * self._num_classes + classes
        keys[reasons > 0] = -1
        return keys, reasons

    def _length_of(self, chunk: Chunk, num: int) -> _I64 | None:
        """As ``longest_filled``; None where all are stills and may be."""
        return longest_filled(self._lengths, chunk.num_frames, num) if len(self._lengths) else None

    def _tiers(self, chunk: Chunk, lengths: _I64 | None) -> tuple[_I64, NDArray[np.uint8]]:
        """The key's part of length and buckets, int64[n], and why each image is in no tier, uint8[n]: the reason of the
        lowest tier, which accepts what all others leave."""
        spec = self._spec
        num = len(chunk.widths)
        may_take = np.ones(num, dtype=np.bool_)  # whether the tier at hand may take the image
        is_assigned = np.zeros(num, dtype=np.bool_)
        reasons = np.zeros(num, dtype=np.uint8)
        num_tiers = len(self._radices)
        digits = np.zeros((num_tiers, num), dtype=np.int32)  # [tier, n]: 0, or 1 + the bucket in the tier
        for tier in reversed(range(num_tiers)):
            buckets, reasons = self._assigned(chunk, tier, lengths)
            is_taken = may_take & (buckets >= 0)
            if spec.choose == "highest" and tier > 0:
                ladder, at = spec.tiers[tier], np.maximum(buckets, 0)
                is_taken &= (chunk.widths >= ladder.widths[at]) & (chunk.heights >= ladder.heights[at])
            is_assigned |= is_taken
            digits[tier] = np.where(is_taken, buckets + 1, 0)
            if spec.choose == "highest":
                keep = self._keep[0, tier] if lengths is None else self._keep[np.maximum(lengths, 0), tier]
                may_take &= ~(is_taken & (keep >= 1.0))
        keys = np.zeros(num, dtype=np.int64) if lengths is None else np.maximum(lengths, 0)
        for radix, digit in zip(self._radices, digits, strict=True):
            keys = keys * radix + digit
        reasons[is_assigned] = 0
        return keys, reasons

    def _assigned(
        self, chunk: Chunk, tier: int, lengths: _I64 | None
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """The bucket of each image in a tier's ladder, int32[n], -1 where it has none, and why, uint8[n]. ``lengths``:
        as of ``_length_of``."""
        spec = self._spec
        if spec.packing is not None:
            frames = 1 if lengths is None else self._lengths[np.maximum(lengths, 0)]
            return spec.packing.assign(chunk.widths, chunk.heights, frames, spec.limits)
        found = assign(
            chunk.widths,
            chunk.heights,
            spec.tiers[tier],
            metric=spec.metric,
            max_ar_error=spec.max_ar_error,
            max_crop_loss=spec.max_crop_loss,
            min_size=spec.min_size,
            no_upscale=spec.no_upscale,
            same_aspect=spec.same_aspect,
        )
        return found.buckets, found.reasons

    def stride(self, tier: int) -> int:
        """By how much a key grows from a bucket of the tier to the next one."""
        return math.prod(self._radices[tier + 1 :]) * self._num_classes

    def ways(self, key: int) -> list[tuple[int, float, float]]:
        """The buckets that images of a key are assigned to: each with the share, from where to where, of every round
        over the group that goes there."""
        key //= self._num_classes
        digits = []
        for radix in reversed(self._radices):
            key, digit = divmod(key, radix)
            digits.append(digit)
        found: list[tuple[int, float, float]] = []
        begin = 0.0
        num_tiers = len(digits)
        for tier, digit in zip(reversed(range(num_tiers)), digits, strict=True):
            if not digit:
                continue
            share = self._spec.shares[key][tier]
            if self._spec.choose == "every":
                begin = 0.0
            # the rest itself, that no rounding leaves a gap
            end = (
                1.0
                if share.keep == 1.0 and self._spec.choose == "highest"
                else begin + (1.0 - begin) * share.keep
            )
            found.append((share.first + digit - 1, begin, end))
            begin = end
        return found

    def frames_of(self, keys: _I64) -> _I64:
        """int64[G]: frames that each image of a key is served with."""
        if not len(self._lengths):
            return np.ones(len(keys), dtype=np.int64)
        return self._lengths[keys // (self._space // len(self._lengths))]

    def groups(self, keys: _I64, counts: _I64) -> ImageClasses:
        """Of these keys, ascending, with so many images. Raises ``Invalid`` where a map that is to have a share has no
        image left."""
        classes = keys % self._num_classes
        samples = self._class_repeats[classes]
        parts = self._class_parts[classes]
        asked = np.bincount(parts, weights=samples * counts, minlength=len(self._spec.maps))
        for index, factor in enumerate(factors(self._spec.maps, asked.astype(np.float64))):
            samples = np.where(parts == index, samples * factor, samples)
        return ImageClasses(keys, counts, samples)

    def part_of(self, keys: _I64) -> _I64:
        """int64[G]: the map of each key."""
        return self._class_parts[keys % self._num_classes]


def frames_served(spec: PlanSpec, num_frames: NDArray[np.integer]) -> _I64:
    """int64[n]: frames with which clips of ``num_frames`` are served; those of the shortest length for clips that fill
    none."""
    lengths = np.array([length.num_frames for length in spec.frame_buckets], dtype=np.int64)
    filled = longest_filled(lengths, num_frames, len(num_frames))
    return lengths[np.maximum(filled, 0)]


def longest_filled(lengths: _I64, num_frames: NDArray[np.integer] | None, num: int) -> _I64:
    """The longest of the ascending ``lengths`` that each of ``num`` rows fills, int64[num]; -1 where it fills none.
    Length 1 is for stills alone."""
    frames = np.ones(num, np.int64) if num_frames is None else num_frames.astype(np.int64)
    found = np.searchsorted(lengths, frames, side="right") - 1
    found[(found >= 0) & (lengths[found] == 1) & (frames > 1)] = -1
    return found


def factors(maps: Sequence[MapShare], asked: NDArray[np.float64]) -> list[float]:
    """The factor by which each map's images are served more often than their own repeats say. ``asked`` float64 of each
    map: the sum of its images' own repeats. Raises ``Invalid`` if a map with a weight has no image left."""
    found = []
    for index, share in enumerate(maps):
        factor = share.repeats
        if share.weight is not None:
            if not asked[index]:
                detail = "all images of the map are pruned, so it cannot have its share of the epoch"
                raise Invalid(f"maps.{index}.weight", detail, "Loosen the limits, or leave the map out")
            total = sum(each.weight or 0.0 for each in maps)
            factor *= share.weight / total * float(asked.sum()) / float(asked[index])
        found.append(factor)
    return found


def expected_samples(
    parts: Sequence[Part], maps: Sequence[MapShare], lengths: Sequence[FrameBucket], min_size: int | None
) -> NDArray[np.float64]:
    """How often the images of each row of the parts come to a ladder that is still to be chosen, float64[N]: in
    expectation, over how often the rarest of them comes; 0 for those that never do. What only a ladder prunes is not
    pruned. Where all images come equally often it is how many they are, to the last bit, however often that is.

    Raises ``Invalid`` where there is no image left, of all or of a map that is to have a share.
    """
    frames = np.array([length.num_frames for length in lengths], dtype=np.int64)
    keep = np.array([length.keep[0] for length in lengths])
    pruned = dict.fromkeys(PRUNED, 0)
    counts, rates, asked = [], [], []
    for part in parts:
        num = len(part.widths)
        count = np.ones(num, np.int64) if part.counts is None else part.counts
        rate = np.full(num, part.repeats[0]) if part.codes is None else part.repeats[part.codes]
        filled = longest_filled(frames, part.num_frames, num) if len(frames) else None
        is_left = np.ones(num, dtype=np.bool_)
        # in the order in which planning asks
        for reason, is_out in (
            ("min_size", np.minimum(part.widths, part.heights) < (min_size or 0)),
            ("num_frames", np.zeros(num, np.bool_) if filled is None else filled < 0),
            ("num_repeats", rate == 0),
        ):
            pruned[reason] += int(count[is_out & is_left].sum())
            is_left &= ~is_out
        rate = np.where(is_left, rate, 0.0)
        asked.append(float((rate * count).sum()))
        counts.append(count)
        rates.append(rate if filled is None else rate * keep[filled])
    if not any(asked):
        raise none_left(pruned, lengths, Images(parts))
    each = [rate * factor for rate, factor in zip(rates, factors(maps, np.array(asked)), strict=True)]
    rate = np.concatenate(each)
    # over the rarest: a factor that all have in common must not change a choice by its rounding
    samples: NDArray[np.float64] = np.concatenate(counts) * (rate / rate[rate > 0].min(initial=math.inf))
    return samples


def none_left(pruned: Mapping[str, int], lengths: Sequence[FrameBucket], images: Images) -> Invalid:
    """What to say where all images are pruned: the field of what pruned them, and what would do."""
    reasons = ", ".join(f"{num} by {reason}" for reason, num in pruned.items() if num)
    detail = f"all images are pruned: {reasons}"
    if not any(pruned[reason] for reason in REASONS[1:]):
        if pruned["num_frames"] and (longest := images.longest) == 1:
            hint = "Leave it out, give 1 as well, or put the map with a num_frames column"
            return Invalid("frame_buckets", f"{detail}, and all of them are still images", hint)
        if pruned["num_frames"]:
            only = ", and length 1 is for still images only" if lengths[0].num_frames == 1 else ""
            detail += f"; the longest clip has {longest} frames{only}"
            return Invalid("frame_buckets", detail, f"Use a length of at most {longest}")
        if pruned["num_repeats"]:
            hint = "Put the map with a number above 0 for some of its images"
            return Invalid("num_repeats", f"{detail}, which is 0 for them in the map", hint)
    return Invalid("assign", detail, "Loosen the limits or widen the ladder")


def tally(values: NDArray[Any], num: int, weights: NDArray[np.int64] | None = None) -> _I64:
    """int64[num]: how often each of 0 … num - 1 is among ``values``; with ``weights``, exact up to 2**53."""
    found: _I64 = np.bincount(values, weights, minlength=num).astype(np.int64, copy=False)
    return found
