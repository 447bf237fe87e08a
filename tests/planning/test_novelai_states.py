from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline_service.planning.novelai.generator_states import (
    fingerprint,
    initial,
    load,
    pack,
    save,
    unpack,
)

PLAN = bytes(range(16))


@pytest.mark.skipif(np.dtype("long").itemsize != 8, reason="tomaxint() has the original's range there only")
@given(st.integers(0, 2**32 - 1))
def test_the_generators_start_as_the_originals(seed):
    states = initial(seed, 2)
    rank = np.random.RandomState(seed)
    epochs = np.random.RandomState(rank.tomaxint() % (2**32 - 1))
    for words, expected in zip(states, [rank, rank, epochs], strict=True):
        prng = np.random.RandomState(0)
        load(prng, words)
        assert prng.get_state()[2:] == expected.get_state()[2:]
        assert np.array_equal(prng.get_state()[1], expected.get_state()[1])


def test_a_loaded_generator_goes_on_where_the_saved_one_was():
    saved, loaded = np.random.RandomState(1), np.random.RandomState(2)
    saved.random_sample(1000)
    load(loaded, save(saved))
    assert np.array_equal(saved.random_sample(1000), loaded.random_sample(1000))


def test_a_checkpoint_gives_back_its_states_to_be_written_to():
    states = initial(7, 3)
    packed = pack(states, PLAN, 3, 5)
    assert len(packed) == 56 + 2500 * 4
    unpacked = unpack(packed, PLAN, 3, 5)
    assert unpacked is not None
    assert np.array_equal(unpacked, states)
    assert unpacked.flags.writeable


@pytest.mark.parametrize(("plan", "world_size", "epoch"), [(bytes(16), 3, 5), (PLAN, 2, 5), (PLAN, 3, 4)])
def test_a_checkpoint_of_something_else_is_not_read(plan, world_size, epoch):
    assert unpack(pack(initial(7, 3), PLAN, 3, 5), plan, world_size, epoch) is None


@given(st.data())
def test_no_damaged_byte_is_read(data):
    packed = bytearray(pack(initial(7, 1), PLAN, 1, 5))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    assert unpack(bytes(packed), PLAN, 1, 5) is None


@given(st.binary(max_size=200))
def test_noise_is_not_read(noise):
    assert unpack(noise, PLAN, 1, 5) is None


def test_the_fingerprint_hangs_on_all_that_is_planned():
    ids, buckets = np.arange(5), np.zeros(5, dtype=np.int32)
    prints = [
        fingerprint(ids, buckets, 2, 3),
        fingerprint(ids[::-1], buckets, 2, 3),
        fingerprint(ids, buckets - 1, 2, 3),
        fingerprint(ids, buckets, 3, 3),
        fingerprint(ids, buckets, 2, 4),
    ]
    assert len(set(prints)) == 5
    assert fingerprint(ids.copy(), buckets.copy(), 2, 3) == prints[0]
