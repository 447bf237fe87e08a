"""The golden files are recorded from the original; ``Manager`` restates it plainly, for random maps."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets import ladder_generators as ladders
from bucketline_service.planning.buckets.assignment import assign
from bucketline_service.planning.novelai.planner import NovelaiPlanner
from bucketline_service.planning.planner_port import Planner

TESTS = Path(__file__).parents[1]
COCO = np.loadtxt(
    TESTS.parent / "service/bucketline_service/data/coco-5k.csv", dtype=np.int64, delimiter=",", skiprows=1
)
GOLDEN = sorted((TESTS / "golden").glob("novelai-*.json"))
LADDER_FIELDS = {"max_size", "divisible", "min_dim", "dim_limit", "base_res"}


class Manager:
    """One rank of the published algorithm, with sets, lists and dicts and numpy's own ``choice``."""

    def __init__(self, bucket_of, base, batch_size, seed, world_size, rank):
        self.bucket_of, self.base, self.batch_size = bucket_of, base, batch_size
        self.world_size, self.rank = world_size, rank
        self.prng = np.random.RandomState(seed)
        self.epoch_prng = np.random.RandomState(self.prng.tomaxint() % (2**32 - 1))

    def epoch(self):
        """The batches of the next epoch: (bucket, ids), the bucket ``base`` for the left-over."""
        size = self.batch_size
        order = self.epoch_prng.permutation(np.array(sorted(self.bucket_of)))
        order = order[: len(order) // (size * self.world_size) * size * self.world_size]
        mine = set(order[self.rank :: self.world_size].tolist())
        parts, left = {}, []
        for bucket in sorted(set(self.bucket_of.values())):
            part = np.array(
                [i for i, b in self.bucket_of.items() if b == bucket and i in mine], dtype=np.int64
            )
            self.prng.shuffle(part)
            rest = len(part) % size
            left += part[:rest].tolist()
            if len(part) > rest:
                parts[bucket] = part[rest:].tolist()
        return [self.batch(parts, left) for _ in range(len(mine) // size)]

    def batch(self, parts, left):
        chosen = self.base
        if parts:
            names = ([self.base] if len(left) >= self.batch_size else []) + list(parts)
            weights = np.array([len(left if n == self.base else parts[n]) for n in names], dtype=np.float32)
            chosen = int(self.prng.choice(np.array(names), 1, p=weights / weights.sum())[0])
        source = left if chosen == self.base else parts[chosen]
        if chosen == self.base:
            self.prng.shuffle(left)
        ids = source[: self.batch_size]
        del source[: self.batch_size]
        if chosen != self.base and not source:
            del parts[chosen]
        return chosen, ids


def planner_of(path, **kwargs):
    """The planner of a golden file, and the file."""
    golden = json.loads(path.read_text())
    options = golden["settings"]
    ladder = ladders.novelai(**{k: v for k, v in options.items() if k in LADDER_FIELDS})
    limit = options.get("max_ar_error", 4)
    buckets = assign(COCO[:, 1], COCO[:, 2], ladder, metric="abs", max_ar_error=limit).buckets
    if "valid_ids" in golden:
        buckets[~np.isin(COCO[:, 0], golden["valid_ids"])] = -1
    planner = NovelaiPlanner(COCO[:, 0], buckets, ladder, options["bsz"], options["seed"], **kwargs)
    return planner, buckets, golden


def small_planner(num=300, batch_size=4, seed=1, **kwargs):
    draw = np.random.default_rng(5)
    ids, buckets = draw.permutation(10 * num)[:num], draw.integers(-1, 9, num)
    return NovelaiPlanner(ids, buckets, ladders.kohya(), batch_size, seed, **kwargs)


def listed(planner, epoch, world_size, positions=None):
    """[(bucket, rows)] of some positions, all unless given."""
    if positions is None:
        positions = np.arange(planner.num_batches(epoch, world_size))
    block = planner.batches(epoch, np.asarray(positions), world_size)
    assert not block.repeats.any()
    rows = [block.rows[a:b].tolist() for a, b in zip(block.bounds[:-1], block.bounds[1:], strict=True)]
    return list(zip(block.buckets.tolist(), rows, strict=True))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_every_rank_and_epoch_is_as_the_original_recorded_it(path):
    planner, buckets, golden = planner_of(path)
    world_size = golden["settings"]["world_size"]
    counts = np.bincount(buckets[buckets >= 0], minlength=len(golden["buckets"]))
    assert counts.tolist() == golden["bucket_counts"]
    for epoch, ranks in enumerate(golden["epochs"]):
        assert planner.num_batches(epoch, world_size) == golden["batches_per_rank"] * world_size
        batches = [
            [*planner.targets[b], COCO[rows, 0].tolist()] for b, rows in listed(planner, epoch, world_size)
        ]
        assert len(ranks) == world_size
        for rank, recorded in enumerate(ranks):
            assert batches[rank::world_size] == recorded


@given(data=st.data())
def test_random_maps_are_planned_as_the_original_plans_them(data):
    num_buckets = data.draw(st.integers(1, 6))
    buckets = data.draw(st.lists(st.integers(-1, num_buckets - 1), min_size=1, max_size=120))
    ids = data.draw(
        st.lists(st.integers(-(2**62), 2**62), min_size=len(buckets), max_size=len(buckets), unique=True)
    )
    batch_size, world_size = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 7))
    seed = data.draw(st.integers(0, 2**32 - 1))
    ladder = ladders.explicit([(64, 64 * (i + 1)) for i in range(num_buckets)])
    bucket_of = {i: b for i, b in zip(ids, buckets, strict=True) if b >= 0}
    try:
        planner = NovelaiPlanner(np.array(ids), np.array(buckets, dtype=np.int32), ladder, batch_size, seed)
        num = planner.num_batches(0, world_size)
    except Invalid:
        assert len(bucket_of) < batch_size * world_size
        return
    managers = [Manager(bucket_of, num_buckets, batch_size, seed, world_size, r) for r in range(world_size)]
    for epoch in range(3):
        expected = [manager.epoch() for manager in managers]
        assert sum(map(len, expected)) == num
        got = [(b, [ids[row] for row in rows]) for b, rows in listed(planner, epoch, world_size)]
        for rank in range(world_size):
            assert got[rank::world_size] == expected[rank]


def test_a_restart_at_any_epoch_goes_on_as_before():
    checkpoints: dict[tuple[int, int], bytes] = {}
    whole = small_planner(checkpoints=checkpoints)
    expected = [listed(whole, epoch, 3) for epoch in range(6)]
    assert sorted(checkpoints) == [(3, epoch) for epoch in range(1, 7)]
    for epoch in range(1, 6):
        # max_replay=0: nothing may be planned but the epoch itself
        restarted = small_planner(checkpoints={(3, epoch): checkpoints[3, epoch]}, max_replay=0)
        assert listed(restarted, epoch, 3) == expected[epoch]
        later = small_planner(checkpoints={(3, epoch): checkpoints[3, epoch]})
        assert listed(later, 5, 3) == expected[5]
        assert listed(later, 0, 3) == expected[0]


def test_epochs_in_any_order_are_the_same():
    straight, jumping = small_planner(), small_planner(kept_epochs=1)
    for epoch, world_size in [(4, 2), (0, 2), (2, 5), (3, 2), (4, 2), (1, 5)]:
        assert listed(jumping, epoch, world_size) == listed(straight, epoch, world_size)


def test_damaged_checkpoints_are_passed_over():
    checkpoints: dict[tuple[int, int], bytes] = {}
    expected = listed(small_planner(checkpoints=checkpoints), 3, 3)
    good = checkpoints[3, 3]
    flipped = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in range(0, len(good), 997)]
    for bad in [b"", good[:-1], good + b"\0", good[: len(good) // 2], bytes(len(good)), *flipped]:
        assert bad != good
        assert listed(small_planner(checkpoints={**checkpoints, (3, 3): bad}), 3, 3) == expected
        alone = small_planner(checkpoints={(3, 3): bad}, max_replay=2)
        with pytest.raises(Invalid, match="in sequence"):
            listed(alone, 3, 3)


def test_checkpoints_of_something_else_are_passed_over():
    checkpoints: dict[tuple[int, int], bytes] = {}
    expected = listed(small_planner(checkpoints=checkpoints), 3, 3)
    for other in [{"num": 301}, {"batch_size": 5}, {"seed": 2}]:
        foreign: dict[tuple[int, int], bytes] = {}
        listed(small_planner(checkpoints=foreign, **other), 3, 3)
        assert listed(small_planner(checkpoints={(3, 3): foreign[3, 3]}), 3, 3) == expected
    assert listed(small_planner(checkpoints={(3, 3): checkpoints[3, 2]}), 3, 3) == expected
    assert listed(small_planner(checkpoints={(2, 3): checkpoints[3, 3]}), 3, 2) == listed(
        small_planner(), 3, 2
    )


def test_positions_in_any_order_give_the_batches_of_the_stream():
    planner = small_planner()
    stream = listed(planner, 1, 4)
    positions = np.random.default_rng(0).integers(0, len(stream), 200)
    assert listed(planner, 1, 4, positions) == [stream[p] for p in positions]
    assert listed(planner, 1, 4, np.zeros(0, dtype=np.int64)) == []


@pytest.mark.parametrize("positions", [[-1], [10**6], [0, 74]])
def test_positions_out_of_the_stream_are_an_index_error(positions):
    planner = small_planner(num=330)
    assert planner.num_batches(0, 4) <= 74
    with pytest.raises(IndexError):
        planner.batches(0, np.array(positions), 4)


def test_locate_finds_every_image_where_it_comes_and_only_there():
    planner: Planner = small_planner()
    coming = {
        row: (position, slot, bucket, False)
        for position, (bucket, rows) in enumerate(listed(planner, 2, 3))
        for slot, row in enumerate(rows)
    }
    assert len(coming) == 4 * planner.num_batches(2, 3)  # none twice
    for row in range(300):
        assert planner.locate(2, row, 3) == ([coming[row]] if row in coming else [])


@pytest.mark.parametrize("offset", [0, 1, 7, 72, 75, 1000])
def test_mixed_steps_counts_the_steps_of_several_sizes(offset):
    planner, world_size = small_planner(batch_size=3), 3
    sizes = [planner.targets[bucket] for bucket, _ in listed(planner, 1, world_size)]
    assert planner.targets[8] == planner.targets[-1]  # a bucket of the catch-all's size
    steps = [sizes[p : p + world_size] for p in range(offset, len(sizes) - world_size + 1, world_size)]
    assert planner.mixed_steps(1, offset, world_size) == sum(len(set(step)) > 1 for step in steps)
    assert planner.mixed_steps(1, 0, 1) == 0


def test_an_epoch_is_at_hand_once_planned_until_others_take_its_place():
    planner = small_planner(kept_epochs=2)
    assert not planner.is_at_hand(0, 2)
    listed(planner, 0, 2)
    assert planner.is_at_hand(0, 2)
    assert not planner.is_at_hand(0, 3)
    listed(planner, 1, 2)
    listed(planner, 0, 2)  # used again: kept before the other
    listed(planner, 2, 2)
    assert [planner.is_at_hand(epoch, 2) for epoch in range(3)] == [True, False, True]


def test_threads_get_the_same_as_one_caller():
    shared, alone = small_planner(kept_epochs=1), small_planner()
    wanted = [(epoch, world_size) for epoch in range(4) for world_size in (1, 3)]
    results = {}

    def ask(name):
        for epoch, world_size in wanted[name:] + wanted[:name]:
            results[name, epoch, world_size] = listed(shared, epoch, world_size)

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 * len(wanted)
    for (_, epoch, world_size), batches in results.items():
        assert batches == listed(alone, epoch, world_size)


def test_what_can_not_be_planned_is_named():
    ladder = ladders.kohya()

    def field_of(ask):
        with pytest.raises(Invalid) as caught:
            ask()
        return caught.value.field

    ids, buckets = np.arange(10), np.zeros(10, dtype=np.int32)
    planner = NovelaiPlanner(ids, buckets, ladder, 2, 0, max_replay=3)
    assert field_of(lambda: planner.num_batches(0, 6)) == "world_size"
    assert field_of(lambda: planner.batches(0, np.array([0]), 6)) == "world_size"
    assert field_of(lambda: planner.num_batches(0, 0)) == "world_size"
    assert field_of(lambda: planner.num_batches(-1, 1)) == "epoch"
    assert field_of(lambda: planner.locate(4, 0, 1)) == "epoch"
    assert field_of(lambda: NovelaiPlanner(ids, buckets, ladder, 11, 0)) == "batch_size"
    assert field_of(lambda: NovelaiPlanner(ids, buckets - 1, ladder, 2, 0)) == "batch_size"
    assert field_of(lambda: NovelaiPlanner(ids, buckets, ladder, 0, 0)) == "batch_size"
    assert field_of(lambda: NovelaiPlanner(ids, buckets, ladder, 2, -1)) == "seed"
    assert field_of(lambda: NovelaiPlanner(ids, buckets, ladder, 2, 2**32)) == "seed"
    assert field_of(lambda: NovelaiPlanner(ids // 2, buckets, ladder, 2, 0)) == "ids"


def test_as_many_images_as_one_batch_on_every_rank_will_do():
    planner = NovelaiPlanner(np.arange(10), np.arange(10) % 5, ladders.kohya(), 2, 0)
    assert planner.num_batches(0, 5) == 5
    assert sorted(row for _, rows in listed(planner, 0, 5) for row in rows) == list(range(10))
