"""Up to 2**32 - 1 rows, and not one more. Nothing here is that large: arrays have stride zero, and the order is
computed."""

from __future__ import annotations

import numpy as np
import pytest

from bucketline_service.errors import Invalid
from bucketline_service.planning.images import MAX_ROWS, Images, Part
from bucketline_service.planning.line.dealt_batches import DealtBatches
from bucketline_service.planning.line.image_classes import ImageClasses
from bucketline_service.planning.line.planner import LinePlanner
from bucketline_service.planning.line.remainders import POLICIES, least_batches
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.planner_port import Place


def part(num, side=512):
    sides = np.broadcast_to(np.uint32(side), num)
    return Part(sides, sides)


@pytest.mark.parametrize("parts", [[2**32], [2**31, 2**31], [2**32 - 1, 1], [2**40]])
def test_too_many_rows_are_refused(parts):
    with pytest.raises(Invalid, match=r"4,294,967,295.*several runs") as caught:
        Images([part(num) for num in parts])
    assert caught.value.field == "maps"
    assert f"{sum(parts):,}" in str(caught.value)


def test_the_last_row_of_all():
    images = Images([part(2**31, 100), part(2**31 - 2, 200), part(1, 300)])
    assert images.num_rows == images.num_images == MAX_ROWS
    chunk = images.read(2**32 - 3, 2**32 - 1)
    assert (chunk.widths.tolist(), chunk.heights.tolist(), chunk.classes.tolist()) == (
        [200, 300],
        [200, 300],
        [1, 2],
    )
    rows = np.array([0, 2**31 - 1, 2**31, 2**32 - 3, 2**32 - 2])
    assert images.at(rows)[0].tolist() == [100, 100, 200, 200, 300]
    parts, inside = images.place(rows)
    assert parts.tolist() == [0, 0, 1, 1, 2]
    assert inside.tolist() == [0, 2**31 - 1, 0, 2**31 - 3, 0]
    whole = images.read(2**31 - 2, 2**31 + 2)
    assert whole.widths.tolist() == [100, 100, 200, 200]


class Identity:
    """An order of rows that stand as they are numbered."""

    def __getitem__(self, at):
        return at.astype(np.uint32)


def planner_of(counts, table, policy, unit=(7, 3)):
    groups = ImageClasses(np.arange(len(counts)), np.array(counts), np.ones(len(counts)))
    num_buckets = 1 + max(row[0] for row in table)
    quotas = SampleQuotas(table, groups, num_buckets)
    sizes = np.full(num_buckets + (policy == "catch_all"), unit[0])
    ends = np.cumsum(counts)

    def find(row):
        group = int(np.searchsorted(ends, row, side="right"))
        return group, row - int(ends[group] - counts[group])

    def dealing(samples):
        layout = POLICIES[policy](samples, sizes, unit[1])
        num_units = int(layout.num_batches.sum()) // unit[1]
        return DealtBatches(layout, num_units, unit[1], np.ones(len(sizes)), np.arange(len(sizes)))

    return LinePlanner(
        Identity(),
        groups,
        quotas,
        dealing,
        lockstep=unit[1],
        seed=5,
        find=find,
        shows_largest_first=False,
        least_units=least_batches(policy, quotas.least(), sizes, unit[1]) // unit[1],
    )


PLAIN = [(0, 0, 0.0, 1.0), (1, 1, 0.0, 1.0)]
DIVIDED = [(0, 0, 0.0, 0.3), (1, 0, 0.3, 1.5), (1, 1, 0.0, 1.0)]
OFTEN = [(0, 0, 0.0, 50.0), (1, 1, 0.0, 0.37)]


@pytest.mark.parametrize("table", [PLAIN, DIVIDED, OFTEN], ids=["plain", "divided", "often"])
@pytest.mark.parametrize("policy", ["spill", "pad", "drop", "catch_all"])
@pytest.mark.parametrize("counts", [(2**31 - 1, 2**31), (2**32 - 2, 1), (1, 2**32 - 2), (2**31, 5)])
def test_rows_and_places_invert(counts, policy, table):
    planner = planner_of(counts, table, policy)
    num = planner.num_batches(3, 1)
    expected = sum((end - begin) * counts[group] for _, group, begin, end in table)
    assert abs(num * 7 - expected) <= 3 * 21 + len(table)
    rng = np.random.default_rng(1)
    positions = np.unique(np.append(rng.integers(0, num, 12), [0, num // 2, num - 1]))
    block = planner.batches(3, positions, 1)
    assert 0 <= block.rows.min() <= block.rows.max() < sum(counts)
    for i, row in enumerate(block.rows.tolist()):
        batch = i // 7
        place = Place(int(positions[batch]), i % 7, int(block.buckets[batch]), bool(block.repeats[i]))
        if i % 5 == 0:
            assert place in planner.locate(3, row, 1)
    if table == PLAIN and policy != "pad":
        assert len(np.unique(block.rows)) == len(block.rows)


@pytest.mark.parametrize("row", [0, 2**31 - 1, 2**31, 2**32 - 2])
def test_a_row_of_many_comings_is_in_the_batch_at_each(row):
    planner = planner_of((2**31, 2**31 - 1), [(0, 0, 0.0, 3.5), (1, 0, 3.5, 5.0), (1, 1, 0.0, 2.0)], "pad")
    places = planner.locate(9, row, 1)
    assert len(places) == (5 if row < 2**31 else 2)
    block = planner.batches(9, np.array([place.position for place in places]), 1)
    for i, place in enumerate(places):
        assert block.rows[block.bounds[i] + place.slot] == row
        assert block.buckets[i] == place.bucket
