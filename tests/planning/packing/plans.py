"""Plans with packs: what their epochs serve, and random ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.distinct_sizes import distinct_sizes
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.ledger import Ledger
from bucketline_service.planning.packing.native_sizes import NativeSizes
from bucketline_service.planning.packing.pack_kinds import PackKinds
from bucketline_service.planning.packing.packing import Packing
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.plan_stats import epoch_stats
from bucketline_service.planning.planner_port import Place
from bucketline_service.spec.maps import MapSpec
from bucketline_service.spec.run_spec import PlanFields


class Packed:
    """A plan of images. ``valid``: rows that the plan leaves in, None for all."""

    def __init__(self, plan: PlanSpec, parts, valid=None):
        assert plan.packing is not None
        self.plan, self.packing, self.packs = plan, plan.packing, plan.packing.packs
        self.images, self.parts = Images(parts), parts
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


def planned(parts, maps=(), valid=None, **fields):
    """The plan of a spec, with the packs that a run of it has. ``valid``: rows of the only map."""
    spec = PlanFields.model_validate(
        {"ladder": {"kind": "native", "divisible": 1}, "world_size": 1, **fields}
    ).resolved()
    several = [MapSpec.model_validate({"map": str(i), **each}) for i, each in enumerate(maps)]
    several = [each.counted(f"maps.{i}.") for i, each in enumerate(several)]
    return Packed(spec.plan_spec(spec.fit(distinct(parts, valid), several), several), parts, valid)


def distinct(parts, valid=None):
    """The distinct sizes of each map."""
    return [distinct_sizes(part, valid) for part in parts]


def part(sizes, repeats=None, frames=None):
    """A map of images of (width, height)."""
    widths, heights = np.array(sizes, dtype=np.uint32).reshape(-1, 2).T
    columns = {}
    if repeats is not None:
        values, columns["codes"] = np.unique(np.array(repeats, dtype=np.float64), return_inverse=True)
        columns["repeats"] = values
    if frames is not None:
        columns["num_frames"] = np.array(frames, dtype=np.uint32)
    return Part(widths.copy(), heights.copy(), **columns)


TIMES = st.sampled_from([1.0, 2.0, 3.0, 0.5, 1.5, 1 / 3, 0.0])


@st.composite
def maps_of_images(draw, with_repeats, with_frames):
    """Of few sizes, each of which many images may have."""
    sizes = draw(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6))
    nums = draw(st.lists(st.integers(1, 30), min_size=len(sizes), max_size=len(sizes)))
    of = np.repeat(np.arange(len(sizes)), nums)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    repeats = rng.choice(draw(st.lists(TIMES, min_size=1, max_size=3)), len(of)) if with_repeats else None
    frames = rng.integers(1, 13, len(of)) if with_frames else None
    return part(np.array(sizes)[rng.permutation(of)], repeats, frames)


def longest(parts, ladder, frame_stride):
    """Tokens of the longest image at most, with all its frames."""
    native = NativeSizes.of(ladder["max_pixels"], ladder["divisible"])
    found = 1
    for each in parts:
        sizes = native.sizes(each.widths.astype(np.int64), each.heights.astype(np.int64))
        found = max(found, int(native.tokens(*sizes, each.num_frames, frame_stride).max()))
    return found


@st.composite
def plans(draw):
    """Of specs of every kind that take packs, of which an epoch has a step."""
    with_frames = draw(st.booleans())
    parts = [draw(maps_of_images(draw(st.booleans()), with_frames)) for _ in range(draw(st.integers(1, 2)))]
    divisible = draw(st.sampled_from([1, 1, 2, 5]))
    ladder = {
        "kind": "native",
        "divisible": divisible,
        "max_pixels": draw(st.integers(divisible**2, 1000)),
        "num_lengths": draw(st.integers(1, 6)),
    }
    frame_stride = draw(st.integers(1, 5)) if with_frames else 1
    most = longest(parts, ladder, frame_stride)
    fields = {
        "ladder": ladder,
        "pack": {"max_tokens": most + draw(st.integers(0, 2 * most)), "frame_stride": frame_stride},
        "seed": draw(st.integers(0, 2**32 - 1)),
        "lockstep": draw(st.integers(1, 6)),
        "first": draw(st.sampled_from([None, "largest"])),
        "num_repeats": draw(st.sampled_from([1.0, 1.0, 2.0, 1.5, 0.4])),
        "cost": draw(st.sampled_from([{"kind": "pixels"}, {"kind": "transformer", "hidden_size": 7}])),
        "assign": {
            "min_size": draw(st.sampled_from([None, None, 5])),
            "max_crop_loss": draw(st.sampled_from([None, None, 0.1])),
        },
    }
    if with_frames:
        lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True))
        keep = st.sampled_from([1.0, 1.0, 0.5, 0.3])
        fields["frame_buckets"] = [{"num_frames": each, "keep_prob": draw(keep)} for each in lengths]
    maps: Sequence[dict[str, float]] = ()
    valid = None
    if len(parts) == 2:
        maps = draw(st.sampled_from([[{}, {"num_repeats": 2}], [{"weight": 0.25}, {"weight": 0.75}]]))
    elif draw(st.booleans()):
        num = len(parts[0].widths)
        valid = np.array(sorted(draw(st.sets(st.integers(0, num - 1), min_size=1))))
    return _planned_if_possible(parts, maps, valid, fields)


def _planned_if_possible(parts, maps, valid, fields):
    """With fewer ranks where there are too few packs."""
    for lockstep in (fields["lockstep"], 1):
        try:
            return planned(parts, maps, valid, **{**fields, "lockstep": lockstep})
        except Invalid as refused:
            error = refused
    # all images are pruned, or come less than once in an epoch
    assert error.field != "pack.max_tokens", error
    return reject()
