"""Plans with packs: what their epochs serve, and random ones."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise

import numpy as np

from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.ledger import Ledger
from bucketline_service.planning.packing.native_sizes import NativeSizes
from bucketline_service.planning.packing.pack_kinds import PackKinds
from bucketline_service.planning.packing.packing import Packing
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.plan_stats import epoch_stats
from bucketline_service.planning.planner_port import Place


class Packed:
    """A plan of images. ``valid``: rows that the plan leaves in, None for all."""

    def __init__(self, plan: PlanSpec, parts, valid=None):
        assert plan.packing is not None
        self.plan, self.packing, self.packs = plan, plan.packing, plan.packing.packs
        self.images = Images(parts)
        self.valid = valid
        self.prepared = prepare(plan, self.images, valid_rows=valid)
        self.planner = new_planner(plan, self.prepared, self.images)

    def num_batches(self, epoch=0):
        return self.planner.num_batches(epoch, 1)

    def epoch(self, epoch, positions=None):
        """All packs of an epoch, or some."""
        return self.planner.batches(
            epoch, np.arange(self.num_batches(epoch)) if positions is None else positions, 1
        )

    def times(self, epoch):
        """int64[N]: how often each image comes in the epoch's stream."""
        return np.bincount(self.epoch(epoch).rows, minlength=self.images.num_rows)

    def stats(self, epoch, world_size):
        return epoch_stats(self.plan, self.prepared, self.images, self.planner, epoch, world_size)

    def ledger(self, world_size):
        is_valid = None if self.valid is None else lambda rows: np.isin(rows, self.valid)
        return Ledger(self.plan, self.prepared, self.images, self.planner, world_size, is_valid)

    @cached_property
    def sides(self):
        """int64[N]: widths and heights, in the map and as they are served."""
        own = [side.astype(np.int64) for side in self.images.at(np.arange(self.images.num_rows))]
        return own, self.packing.native.sizes(*own)

    @cached_property
    def tokens(self):
        """int64[N]: cells of each image as it is served, over all frames."""
        width, height = self.sides[1]
        frames = np.ones(len(width), np.int64)
        if self.plan.frame_buckets:
            longest = sorted(length.num_frames for length in self.plan.frame_buckets)
            frames = np.array(
                [
                    max((each for each in longest if each <= has), default=longest[0])
                    for has in self.images.frames_at(np.arange(len(width))).tolist()
                ]
            )
        cells = width * height // self.packing.native.divisible**2
        return cells * -(-frames // self.packing.frame_stride)

    def places(self, epoch):
        """By row, every place of the epoch where it comes, as its packs have it."""
        block = self.epoch(epoch)
        found = {row: [] for row in range(self.images.num_rows)}
        for at, (begin, end) in enumerate(pairwise(block.bounds.tolist())):
            for slot, row in enumerate(block.rows[begin:end].tolist()):
                found[row].append(Place(at, slot, int(block.buckets[at]), False))
        return found

    def slots(self, block):
        """int64[n]: the length of each slot of some packs."""
        kinds = np.arange(len(self.packs.counts))
        lengths = [np.repeat(self.packs.lengths, self.packs.kinds[kind])[::-1] for kind in kinds]
        return np.concatenate([np.empty(0, np.int64), *(lengths[kind] for kind in block.buckets.tolist())])


def of_packs(kinds, counts, images, lockstep=1, seed=0, max_tokens=None, **fields):
    """A plan of just these packs and ``images`` int64[S] of 1, 2, … tokens, in a random order."""
    lengths = np.arange(1, len(images) + 1)
    most = int((kinds @ lengths).max()) if max_tokens is None else max_tokens
    packs = PackKinds(most, lengths, kinds, counts)
    packing = Packing(NativeSizes(1 << 20, 1), 1, packs)
    plan = PlanSpec("line", (), packing, seed, lockstep, "drop", steps="balanced", **fields)
    widths = np.random.default_rng(seed).permutation(np.repeat(lengths, images)).astype(np.uint32)
    return Packed(plan, [Part(widths, np.ones_like(widths))])
