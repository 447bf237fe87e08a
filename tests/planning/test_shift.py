"""``tails: "shift"``: whole batches in every bucket by moved boundaries, held against brute force."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from bucketline_service.planning import chunked_passes
from bucketline_service.planning.buckets import ladder_generators
from bucketline_service.planning.buckets.assignment import assign
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.distinct_sizes import distinct_sizes
from bucketline_service.planning.geometry import crop_loss
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.line import moved_boundaries
from bucketline_service.planning.line.permutation import splitmix
from bucketline_service.planning.plan_spec import Budget, FrameBucket, MapShare, PlanSpec
from bucketline_service.planning.plan_stats import epoch_stats
from bucketline_service.previews.estimate import estimate_from_sizes

sides = st.integers(1, 14)
sizes = st.lists(st.tuples(sides, sides), min_size=1, max_size=13)
ladders = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    min_size=1,
    max_size=4,
    unique_by=lambda size: size[0] / size[1],
).map(lambda given: ladder_generators.explicit([(64 * w, 64 * h) for w, h in given]).by_aspect())


def plan_of(ladder, batch_size, **fields) -> PlanSpec:
    given = {"steps": "balanced", "lockstep": 1, "tails": "shift", "last_step": "fill", **fields}
    return PlanSpec("line", (ladder,), batch_size, 42, **given)


def part_of(images, repeats=None) -> Part:
    columns = np.array(images, dtype=np.uint32).reshape(-1, 2).T * 100
    if repeats is None:
        return Part(columns[0].copy(), columns[1].copy())
    values, codes = np.unique(np.array(repeats, dtype=np.float64), return_inverse=True)
    return Part(columns[0].copy(), columns[1].copy(), codes, values)


class Problem:
    """A section of images in order, and what each would cost in each bucket."""

    def __init__(self, spec: PlanSpec, part: Part, repeats=None) -> None:
        ladder = spec.ladder
        rows = np.arange(len(part.widths), dtype=np.uint64)
        aspects = part.widths / part.heights
        classes = np.zeros(len(rows), np.int64) if part.codes is None else part.codes
        own = assign(part.widths, part.heights, ladder, metric=spec.metric).buckets
        self.order = np.lexsort((splitmix(rows), classes, aspects))
        self.own = own[self.order]
        self.weights = np.ones(len(rows), np.int64) if repeats is None else np.array(repeats)[self.order]
        losses = np.array(
            [
                crop_loss(part.widths, part.heights, int(width), int(height))[self.order]
                for width, height in ladder.sizes
            ]
        )
        losses = np.rint(losses * 2.0**30).astype(np.int64)
        extra = np.maximum(losses - losses[self.own, np.arange(len(rows))], 0)
        is_own = np.arange(len(ladder))[:, np.newaxis] == self.own
        # [bucket, image]
        self.costs = np.where(is_own, 0, np.maximum((extra >> 15) ** 2, 1) * self.weights)
        self.there = np.unique(self.own)
        self.sizes = spec.batch_sizes[: len(ladder)] * spec.multiple

    def cost(self, buckets) -> int:
        return int(self.costs[buckets, np.arange(len(buckets))].sum())

    def is_whole(self, buckets) -> bool:
        """Whole batches in every bucket but for one that holds one or more and the remainder, or fewer images than the
        largest bucket's batch in all."""
        samples = np.bincount(buckets, self.weights, len(self.sizes)).astype(np.int64)
        rests = samples % self.sizes
        return np.count_nonzero(rests) <= 1 and bool(np.all((rests == 0) | (samples >= self.sizes)))

    def cheapest(self, *, is_lattice: bool = True) -> int | None:
        """By trying all boundaries: the least cost with the remainder in the largest bucket, or, where samples or batch
        sizes differ, in any bucket that may hold it."""
        own = np.bincount(self.own, self.weights, len(self.sizes)).astype(np.int64)
        total = own.sum()
        candidates = [bucket for bucket in self.there.tolist() if self.sizes[bucket] <= total]
        if is_lattice:
            candidates = sorted(candidates, key=lambda bucket: (-own[bucket], bucket))[:1]
        found = None
        for largest in candidates:
            for cuts in combinations_with_replacement(range(len(self.own) + 1), len(self.there) - 1):
                counts = np.diff([0, *cuts, len(self.own)])
                buckets = np.repeat(self.there, counts)
                samples = np.bincount(buckets, self.weights, len(self.sizes)).astype(np.int64)
                others = np.delete(samples % self.sizes, largest)
                if others.any() or samples[largest] < self.sizes[largest]:
                    continue
                cost = self.cost(buckets)
                found = cost if found is None else min(found, cost)
        return found


def planned_buckets(spec, prepared, part) -> np.ndarray:
    """Of each row the bucket that it is in, and that it was assigned to where it was not moved."""
    of = np.full(len(part.widths), -1, dtype=np.int64)
    num_classes = len(part.repeats)
    keys = np.repeat(prepared.groups.keys, prepared.groups.counts)
    of[prepared.order] = keys // num_classes - 1
    return of


@given(ladders, sizes, st.integers(1, 6))
@example(ladder_generators.explicit([(64, 64), (128, 64)]), [(1, 1)] * 3 + [(2, 1)] * 3, 4)  # ties
def test_the_boundaries_are_the_cheapest(ladder, images, batch_size):
    spec, part = plan_of(ladder.by_aspect(), batch_size), part_of(images)
    assume(len(images) >= batch_size)
    prepared = prepare(spec, Images([part]))
    problem = Problem(spec, part)
    buckets = planned_buckets(spec, prepared, part)[problem.order]
    assert problem.is_whole(buckets)
    assert np.isin(buckets, problem.there).all()  # empty buckets stay empty
    assert np.all(np.diff(buckets) >= 0)  # and each holds a run of the images
    assert problem.cost(buckets) == problem.cheapest()


@given(ladders, sizes, st.lists(st.integers(1, 5), min_size=4, max_size=4), st.data())
def test_the_boundaries_are_the_cheapest_where_samples_and_batch_sizes_differ(ladder, images, numbers, data):
    repeats = data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=len(images), max_size=len(images)))
    spec = plan_of(ladder, 2)
    # a budget gives buckets of less area larger batches
    areas = ladder.widths * ladder.heights
    spec = replace(spec, batch_size=Budget("max_pixels_per_batch", int(areas.max()) * numbers[0], most=6))
    part = part_of(images, repeats)
    problem = Problem(spec, part, repeats)
    is_lattice = len({*repeats}) == 1 and len({*problem.sizes[problem.there].tolist()}) == 1
    cheapest = problem.cheapest(is_lattice=is_lattice)
    assume(sum(repeats) >= problem.sizes.max())
    prepared = prepare(spec, Images([part]))
    assert (prepared.summary["tails"] == "spill") == (cheapest is None)
    if cheapest is not None:
        buckets = planned_buckets(spec, prepared, part)[problem.order]
        assert problem.is_whole(buckets)
        assert problem.cost(buckets) == cheapest


@pytest.mark.parametrize("num_images", [400, 3_000])
@given(st.integers(0, 2**32 - 1), st.integers(1, 17), st.sampled_from([0.05, 0.4, 1.5]))
def test_few_places_about_each_boundary_are_enough(num_images, seed, batch_size, spread):
    """The lattice's points are compared with all positions, which repeats of two numbers make it look at."""
    rng = np.random.default_rng(seed)
    aspects = np.exp(rng.normal(0, spread, num_images))
    widths = np.maximum(1, (400 * np.sqrt(aspects)) // 20 * 20 + 1).astype(np.uint32)
    heights = np.maximum(1, (400 / np.sqrt(aspects)) // 20 * 20 + 1).astype(np.uint32)
    drawn = {(int(w), int(h)) for w, h in rng.integers(1, 40, (rng.integers(1, 14), 2))}
    by_aspect = {w / h: (16 * w, 16 * h) for w, h in drawn}
    ladder = ladder_generators.explicit(list(by_aspect.values())).by_aspect()
    spec, part = plan_of(ladder, batch_size), Part(widths, heights)
    problem = Problem(spec, part)
    prepared = prepare(spec, Images([part]))
    buckets = planned_buckets(spec, prepared, part)[problem.order]
    assert problem.is_whole(buckets)
    assert problem.cost(buckets) == cheapest_of_all_positions(problem, batch_size)


def cheapest_of_all_positions(problem: Problem, batch_size: int) -> int:
    """Dynamic programming over every position of every boundary."""
    num = len(problem.own)
    own = np.bincount(problem.own, minlength=len(problem.sizes))
    largest = int(np.argmax(own))
    far = 2**62
    best = np.full(num + 1, far)
    best[0] = 0
    for bucket in problem.there.tolist():
        sums = np.append(0, np.cumsum(problem.costs[bucket]))
        start = np.where(best < far, best - sums, far)
        if bucket == largest:
            least = np.append(np.full(batch_size, far), np.minimum.accumulate(start))[: num + 1]
        else:
            rows = -(-(num + 1) // batch_size)
            padded = np.full(rows * batch_size, far)
            padded[: num + 1] = start
            grid = np.minimum.accumulate(padded.reshape(rows, batch_size), axis=0)
            least = grid.reshape(-1)[: num + 1]
        best = np.where(least < far, least + sums, far)
    return int(best[num])


BARE = ladder_generators.explicit([(512, 768), (640, 640), (768, 512), (1024, 384)]).by_aspect()


def many(num=3_000, seed=1, sigma=0.4):
    rng = np.random.default_rng(seed)
    aspects = np.exp(rng.normal(0, sigma, num))
    area = rng.uniform(2e5, 2e6, num)
    return np.sqrt(area * aspects).astype(np.uint32), np.sqrt(area / aspects).astype(np.uint32)


def served_sizes(spec, part, world_sizes=(1, 3, 8), num_epochs=3):
    """Of each row the sizes that it comes in, over epochs and numbers of ranks."""
    images = Images([part])
    prepared = prepare(spec, images)
    found = [set() for _ in part.widths]
    for world_size in world_sizes:
        planner = new_planner(replace(spec, lockstep=world_size), prepared, images)
        for epoch in range(num_epochs):
            block = planner.batches(epoch, np.arange(planner.num_batches(epoch, 1)), 1)
            targets = np.repeat(block.buckets, np.diff(block.bounds))
            for row, target in zip(block.rows.tolist(), targets.tolist(), strict=True):
                found[row].add(spec.targets[target])
    return found


@pytest.mark.parametrize("steps", ["balanced", "same_shape"])
def test_each_image_has_one_size_in_every_epoch_and_on_any_ranks(steps):
    spec = plan_of(BARE, 8, lockstep=4, steps=steps, last_step="drop")
    of = served_sizes(spec, Part(*many()))
    assert max(map(len, of)) == 1
    assert sum(map(bool, of)) > 2_900


def test_sections_have_boundaries_of_their_own():
    widths, heights = many(2_000)
    frames = np.where(np.arange(2_000) % 3 == 0, 1, 20).astype(np.uint32)
    tiers = tuple(
        ladder_generators.explicit([(side, 2 * side), (side, side), (2 * side, side)]).by_aspect()
        for side in (256, 512)
    )
    lengths = (FrameBucket(1, (1.0, 1.0)), FrameBucket(17, (1.0, 1.0)))
    for choose in ("highest", "every"):
        spec = replace(plan_of(BARE, 7), tiers=tiers, frame_buckets=lengths, choose=choose)
        images = Images([Part(widths, heights, num_frames=frames)])
        prepared = prepare(spec, images)
        assert prepared.summary["tails"] == "shift"
        assert prepared.summary["moved"] > 0
        stats = epoch_stats(spec, prepared, images, new_planner(spec, prepared, images), 0, 1)
        for section in spec.sections:
            buckets = stats["buckets"][section.first : section.first + 3]
            rests = [bucket["num_samples"] % 7 for bucket in buckets]
            assert np.count_nonzero(rests) <= 1
            # and no image has left its section
            assert sum(bucket["num_samples"] for bucket in buckets) == assigned(spec, images, section)


def assigned(spec, images, section) -> int:
    stats = estimate_from_sizes(replace(spec, tails="spill"), images, 1)
    return sum(bucket["num_samples"] for bucket in stats["buckets"][section.first : section.first + 3])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"lockstep": 4, "steps": "same_shape", "last_step": "drop"},
        {"batch_size": Budget("max_pixels_per_batch", 2**22, most=64)},
        {
            "choose": "every",
            "tiers": (BARE, ladder_generators.explicit([(256, 256), (384, 256)]).by_aspect()),
        },
    ],
)
def test_distinct_sizes_give_the_very_same_plan(fields):
    widths, heights = many(5_000)
    part = Part(widths // 40 * 40 + 40, heights // 40 * 40 + 40)
    spec = replace(plan_of(BARE, 8), **fields)
    images = Images([part])
    prepared = prepare(spec, images)
    told = epoch_stats(spec, prepared, images, new_planner(spec, prepared, images), 0, 4)
    of_sizes = estimate_from_sizes(spec, Images([distinct_sizes(part)]), 4)
    assert prepared.summary["moved"] > 0
    for name in ("tails", "moved", "max_extra_crop", "num_batches", "step_imbalance", "dropped", "repeated"):
        assert told[name] == of_sizes[name], name
    for ours, theirs in zip(told["buckets"], of_sizes["buckets"], strict=True):
        for name in ("num_images", "num_samples", "num_batches"):
            assert ours[name] == theirs[name]
        if ours["crop_loss_served"] is not None:
            assert ours["crop_loss_served"] == pytest.approx(theirs["crop_loss_served"], abs=1e-12)


def test_crop_as_told_is_crop_as_counted():
    part = Part(*many())
    images = Images([part])
    spec = plan_of(BARE, 8)
    prepared = prepare(spec, images)
    own = assign(part.widths, part.heights, BARE).buckets
    buckets = planned_buckets(spec, prepared, part)

    def losses(of):
        return crop_loss(part.widths, part.heights, BARE.widths[of], BARE.heights[of])

    summary = prepared.summary
    assert summary["moved"] == np.count_nonzero(own != buckets) > 0
    assert summary["max_extra_crop"] == pytest.approx((losses(buckets) - losses(own)).max(), abs=2e-9)
    assert summary["crop_loss"]["mean"] == pytest.approx(losses(own).mean())
    assert summary["crop_loss"]["max"] == losses(own).max()
    for bucket in range(len(BARE)):
        mean = losses(buckets)[buckets == bucket].mean()
        assert summary["flow_crop_loss"][f"{bucket}:{bucket}"] == pytest.approx(mean)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_chunks_and_threads_change_nothing(monkeypatch, num_threads):
    part = Part(*many())
    spec = plan_of(BARE, 8)
    whole = prepare(spec, Images([part]))
    monkeypatch.setattr(chunked_passes, "CHUNK", 257)
    parted = prepare(spec, Images([part]), num_threads=num_threads)
    assert np.array_equal(whole.order, parted.order)
    assert np.array_equal(whole.moved_rows, parted.moved_rows)
    assert np.array_equal(whole.moved_keys, parted.moved_keys)
    assert whole.summary["moved"] == parted.summary["moved"]


@pytest.mark.parametrize(
    "fields",
    [
        {"maps": (MapShare(0.5),)},
        {"maps": (MapShare(1.0, 2.0), MapShare(1.0, 1.0))},
        {"frame_buckets": (FrameBucket(1, (0.5,)),)},
    ],
)
def test_where_images_come_a_fraction_of_a_time_remainders_spill_instead(fields):
    spec = replace(plan_of(BARE, 8), **fields)
    parts = [Part(*many(500, seed)) for seed in range(len(spec.maps))]
    images = Images(
        [
            replace(part, repeats=np.array([share.repeats]))
            for part, share in zip(parts, spec.maps, strict=True)
        ]
    )
    prepared = prepare(spec, images)
    assert prepared.summary["tails"] == "spill"
    told = epoch_stats(spec, prepared, images, new_planner(spec, prepared, images), 0, 1)
    assert told["tails"] == "spill"
    assert told["moved"] == 0


def test_more_positions_than_can_be_looked_at_are_not():
    """Hundreds of buckets of batches of thousands would take minutes and gigabytes."""
    ladder = ladder_generators.explicit([(64 * w, 64 * h) for w in range(1, 29) for h in range(1, 29)])
    spec = plan_of(ladder.by_aspect(), 4_096)
    prepared = prepare(spec, Images([Part(*many(12_000, sigma=1.0))]))
    assert prepared.summary["tails"] == "spill"
    assert prepare(spec, Images([Part(*many(4_096, sigma=1.0))])).summary["tails"] == "shift"
    for num_bins in (2, 300, 4_096):
        found = moved_boundaries.reach(np.array([1, 65_536]), np.array([1]), 10**8, num_bins)
        assert found is not None
        assert found * 2 * num_bins <= 2**22
        assert found >= 256


def test_equal_weights_of_equal_maps_come_whole_times():
    """Their factor is 1, so that images move; the other map has none of the keys that they move to."""
    spec = replace(plan_of(BARE, 4), maps=(MapShare(1.0, 1.0), MapShare(1.0, 1.0)))
    images = Images([Part(*many(101, 1)), Part(*many(101, 2))])
    prepared = prepare(spec, images)
    assert prepared.summary["tails"] == "shift"
    assert prepared.summary["moved"] > 0
    assert estimate_from_sizes(spec, images, 1)["moved"] == prepared.summary["moved"]


@pytest.mark.parametrize("times", [1, 200])
def test_no_image_moves_where_another_bucket_can_hold_the_remainder_as_it_is(times):
    """Where repeats differ the largest bucket may be a dear place for it."""
    ladder = ladder_generators.explicit([(512, 512), (1024, 512)]).by_aspect()
    part = part_of(([(1, 1)] * 30 + [(2, 1)] * 28) * times, ([4] * 30 + [4] * 27 + [1]) * times)
    if times > 1:  # one image that comes once, and many that come four times
        part = part_of([(1, 1)] * 30 * times + [(2, 1)] * (27 * times + 1), [4] * 57 * times + [1])
    prepared = prepare(plan_of(ladder, 4), Images([part]))
    assert (prepared.summary["tails"], prepared.summary["moved"]) == ("shift", 0)


def test_fewer_images_than_a_batch_stay_where_they_are_and_are_never_served():
    widths, heights = many(400)
    frames = np.ones(400, dtype=np.uint32)
    frames[:5] = 40
    spec = replace(plan_of(BARE, 8), frame_buckets=(FrameBucket(1, (1.0,)), FrameBucket(33, (1.0,))))
    images = Images([Part(widths, heights, num_frames=frames)])
    prepared = prepare(spec, images)
    told = epoch_stats(spec, prepared, images, new_planner(spec, prepared, images), 0, 1)
    assert told["never_served"] == 5
    assert told["tails"] == "shift"


def test_thirty_images_of_three_aspects_are_all_served():
    """Four ranks with batches of four: spilled units left eleven of them out for ever."""
    images = [(3, 2)] * 14 + [(1, 1)] * 5 + [(2, 3)] * 11
    part = part_of(images)
    spec = plan_of(
        ladder_generators.explicit([(768, 512), (512, 512), (512, 768)]).by_aspect(), 4, lockstep=4
    )
    spec = replace(spec, last_step="drop")
    of = served_sizes(spec, part, (4,), num_epochs=60)
    assert all(len(each) == 1 for each in of)
