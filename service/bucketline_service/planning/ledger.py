"""The ledger: which images epochs leave out, repeat or never serve, row by row.

It comes in blocks of a bounded number of rows, so that memory does not grow with N: the rows of an epoch follow from
the planner's arithmetic, and those that hold for all epochs from one pass over the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.images import Images
from bucketline_service.planning.line.image_classes import PRUNED, VALID_IDS, ImageClassifier
from bucketline_service.planning.line.planner import Fates, LinePlanner
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.line.units import in_service
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.planner_port import Planner
from bucketline_service.planning.prepared_plan import Prepared

BLOCK = 1 << 16
"""The most rows of one ``Entries``, and the rows of the map that one step of the pass reads."""

LEFT_OUT, REPEATED, NEVER_SERVED, PRUNED_ROWS = "left_out", "repeated", "never_served", "pruned"
TAIL, LAST_STEP, SMALL_BUCKET = "tail", "last_step", "small_bucket"

_I64 = NDArray[np.int64]
IsValid = Callable[[_I64], NDArray[np.bool_]]


class Entries(NamedTuple):
    """At most ``BLOCK`` rows of one kind. ``epoch``: None where it holds for all. ``rows`` int64[n]: of the map, one as
    often as it has samples that this became of; ``nums`` int64[n]: times, 1 or more."""

    epoch: int | None
    what: str
    reason: str
    rows: _I64
    nums: _I64


class Ledger:
    """Of epochs that are dealt from their start to ``world_size`` ranks.

    Every sample that an epoch asks for has one entry: served, or ``left_out`` in it, or one of an image that is
    ``never_served``. A sample that is served n times more often than asked for is ``repeated`` n times. Images that no
    bucket takes are ``pruned``.

    ``is_valid``: of rows, ascending, which of them ``valid_ids`` leaves in; None where that is all.
    """

    def __init__(
        self,
        spec: PlanSpec,
        prepared: Prepared,
        images: Images,
        planner: Planner,
        world_size: int,
        is_valid: IsValid | None = None,
    ) -> None:
        spec = prepared.planned(spec)
        self._images = images
        self._prepared = prepared
        self._planner = planner
        self._world_size = world_size
        self._is_valid = is_valid
        self._classifier = ImageClassifier(spec, images)
        groups = prepared.groups
        quotas = SampleQuotas.of(self._classifier, groups, spec.num_buckets)
        self._in_service = np.ones(spec.num_buckets, dtype=np.bool_)
        if isinstance(planner, LinePlanner):
            self._in_service = in_service(spec, quotas)
        # in one of the epochs that the answer covers
        self._is_served = np.zeros(len(groups.keys), dtype=np.bool_)
        self._is_served[quotas.groups[self._in_service[quotas.buckets]]] = True
        rounds = np.bincount(quotas.groups, weights=quotas.ends - quotas.begins, minlength=len(groups.keys))
        # rounded, so that an error in a sum of shares does not add a time
        self._times = np.ceil(np.round(rounds, 9)).astype(np.int64)

    def join(self, others: Iterable[Ledger]) -> None:
        """Share one answer with ledgers of epochs that have another lockstep: an image is never served if none of these
        epochs serves it, and is left out of those that have no unit for it."""
        for other in others:
            self._is_served |= other._is_served

    def always(self) -> Iterator[Entries]:
        """What holds for all epochs: images that are never served, with how often an epoch asks for each, rounded up;
        and those that are pruned, by their reason."""
        groups, starts = self._prepared.groups, self._prepared.starts
        for group in np.flatnonzero(~self._is_served).tolist():
            begin, num = int(starts[group]), int(groups.counts[group])
            for part in _parts(num):
                rows = self._prepared.order[begin + part.start : begin + part.stop].astype(np.int64)
                nums = np.full(len(rows), self._times[group])
                yield Entries(None, NEVER_SERVED, SMALL_BUCKET, rows, nums)
        # how many rows of each group the pass has seen: a group's rows are ascending
        seen = np.zeros(len(groups.keys), dtype=np.int64)
        for part in _parts(self._images.num_rows):
            reasons = self._reasons(part, seen)
            for reason in np.unique(reasons[reasons > 0]).tolist():
                rows = part.start + np.flatnonzero(reasons == reason)
                yield Entries(None, PRUNED_ROWS, PRUNED[reason - 1], rows, np.ones_like(rows))

    def _reasons(self, part: slice, seen: _I64) -> NDArray[np.uint8]:
        """Why each of these rows is in no bucket, as in ``ImageClassifier.keys``. Where ``valid_ids`` leaves a row
        out, that is its only reason."""
        keys, reasons = self._classifier.keys(self._images.read(part.start, part.stop))
        if self._is_valid is None:
            return reasons
        keys = self._prepared.move(keys, part.start)
        is_out = reasons > 0
        out = np.flatnonzero(is_out)
        if len(out):
            reasons[out[~self._is_valid(part.start + out)]] = VALID_IDS
        is_in = np.zeros(len(keys), dtype=np.bool_)
        groups, starts = self._prepared.groups, self._prepared.starts
        there, nums = np.unique(keys[~is_out], return_counts=True)
        at = np.searchsorted(groups.keys, there)
        known = np.flatnonzero(np.append(groups.keys, -1)[at] == there)
        for group, num in zip(at[known].tolist(), nums[known].tolist(), strict=True):
            begin = int(starts[group] + seen[group])
            stop = min(begin + num, int(starts[group] + groups.counts[group]))
            mine = self._prepared.order[begin:stop]
            mine = mine[: np.searchsorted(mine, part.stop)]
            is_in[mine.astype(np.int64) - part.start] = True
            seen[group] += len(mine)
        reasons[~is_out & ~is_in] = VALID_IDS
        return reasons

    def epoch(self, epoch: int) -> Iterator[Entries]:
        """What the epoch leaves out and repeats."""
        if isinstance(self._planner, LinePlanner):
            return self._line(self._planner, epoch)
        return self._absent(epoch)

    def _line(self, planner: LinePlanner, epoch: int) -> Iterator[Entries]:
        num_batches = planner.num_batches(epoch, self._world_size)
        fates = planner.fates(epoch, num_batches - num_batches % self._world_size)
        dealt = fates.dealt
        for what, reason, is_meant, nums in (
            (LEFT_OUT, TAIL, fates.comings == 0, np.ones_like(dealt)),
            (LEFT_OUT, LAST_STEP, (fates.comings > 0) & (dealt == 0), np.ones_like(dealt)),
            (REPEATED, TAIL, dealt > 1, dealt - 1),
        ):
            chosen, times = fates.where(is_meant), nums[is_meant]
            for part in _parts(int(chosen.sizes.sum())):
                yield from self._samples(planner, epoch, what, reason, chosen, times, part)

    def _samples(
        self, planner: LinePlanner, epoch: int, what: str, reason: str, fates: Fates, times: _I64, part: slice
    ) -> Iterator[Entries]:
        found = planner.samples(epoch, fates, part.start, part.stop)
        nums = times[found.stretches]
        is_small = ~self._in_service[found.buckets]
        if not is_small.any():
            yield Entries(epoch, what, reason, found.rows, nums)
            return
        # an image that another bucket serves: its samples in this bucket are left out in every epoch
        for why, is_meant in ((reason, ~is_small), (SMALL_BUCKET, is_small & self._is_served[found.groups])):
            if is_meant.any():
                yield Entries(epoch, what, why, found.rows[is_meant], nums[is_meant])

    def _absent(self, epoch: int) -> Iterator[Entries]:
        """``novelai`` deals a permutation of the images, and leaves out its end, which fills no batch on every rank.
        Beside the planner's own arrays this takes a byte a row."""
        planner, order = self._planner, self._prepared.order
        num_batches = planner.num_batches(epoch, self._world_size)
        is_there = np.zeros(self._images.num_rows, dtype=np.bool_)
        for part in _parts(num_batches, 1 << 10):
            positions = np.arange(part.start, part.stop, dtype=np.int64)
            is_there[planner.batches(epoch, positions, self._world_size).rows] = True
        for part in _parts(len(order)):
            rows = order[part].astype(np.int64)
            rows = rows[~is_there[rows]]
            if len(rows):
                yield Entries(epoch, LEFT_OUT, LAST_STEP, rows, np.ones_like(rows))


def _parts(num: int, size: int = BLOCK) -> Iterator[slice]:
    """[0, num) in consecutive parts."""
    for begin in range(0, num, size):
        yield slice(begin, min(begin + size, num))
