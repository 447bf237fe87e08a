from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline_service.planning import order as orders
from bucketline_service.planning.order import count_buckets, fill_order

bucket_lists = st.lists(st.integers(-1, 6), max_size=60)


def filled(buckets, num_buckets):
    counts = count_buckets(buckets, num_buckets)
    order = np.full(counts.sum(), 2**32 - 1, dtype=np.uint32)
    list(fill_order(buckets, counts, order))
    return counts, order


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@given(bucket_lists)
def test_rows_stand_by_bucket_and_ascend_inside_one_whatever_the_chunk(chunk, buckets):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders, "CHUNK", chunk)
        counts, order = filled(np.array(buckets, dtype=np.int32), 7)
    by_bucket = [[row for row, bucket in enumerate(buckets) if bucket == wanted] for wanted in range(7)]
    assert counts.tolist() == [len(rows) for rows in by_bucket]
    assert order.tolist() == [row for rows in by_bucket for row in rows]


def test_more_rows_than_a_chunk_and_more_buckets_than_a_byte_can_number():
    buckets = np.random.default_rng(0).integers(-1, 4096, (1 << 21) + 5).astype(np.int32)
    counts, order = filled(buckets, 4096)
    expected = np.argsort(buckets, kind="stable")[np.count_nonzero(buckets < 0) :]
    assert np.array_equal(order, expected)
    assert np.array_equal(counts, np.bincount(buckets[buckets >= 0], minlength=4096))


def test_the_order_may_be_a_file(tmp_path):
    buckets = np.array([2, -1, 0, 2, 0], dtype=np.int32)
    counts = count_buckets(buckets, 3)
    file = np.memmap(tmp_path / "order.u32", dtype=np.uint32, mode="w+", shape=(4,))
    list(fill_order(buckets, counts, file))
    assert file.tolist() == [2, 4, 0, 3]


def test_all_pruned_is_an_empty_order():
    counts, order = filled(np.full(5, -1, dtype=np.int32), 3)
    assert counts.tolist() == [0, 0, 0]
    assert len(order) == 0


def test_each_chunk_is_told_by_bucket():
    buckets = np.array([2, -1, 0, 2, 1, 0, 0, -1, 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders, "CHUNK", 4)
        chunks = [
            (rows.tolist(), sizes.tolist())
            for rows, sizes in fill_order(buckets, np.array([3, 1, 3]), np.empty(7, np.uint32))
        ]
    assert chunks == [([2, 0, 3], [1, 0, 2]), ([5, 6, 4], [2, 1, 0]), ([8], [0, 0, 1])]
