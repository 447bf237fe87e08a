"""Keyed permutations of [0, n): the order of a bucket, or of an epoch's units, without shuffling anything.

Above ``SMALL`` a generalised Feistel network on Z_a x Z_b with a = ceil(sqrt n), b = ceil(n / a), and cycle walking for
the few values past n (Black & Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Up to ``SMALL`` a true shuffle,
made when first asked for: a network is biased on tiny domains. Both are functions of 64-bit keys and of integer
arithmetic alone, so that no release of numpy can change a plan. docs/concepts/mathematics.md states what was measured.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
SMALL = 512
"""The largest domain that is shuffled for real, a power of two. No bias of 8 rounds was seen from n = 257 up
(docs/concepts/mathematics.md); a real shuffle costs a cold block the sort of a whole bucket."""

_U64 = NDArray[np.uint64]
_I64 = NDArray[np.int64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_32 = np.uint64(32)
_LOW_BITS = np.uint64(SMALL - 1)  # room for the numbers of a small domain


def epoch_words(seed: int, epoch: int, stream: int, num_words: int) -> _U64:
    """``num_words`` 64-bit key words of (seed, epoch, stream), each an integer in [0, 2**32).

    Always three integers: SeedSequence([1]) and SeedSequence([1, 0]) are the same sequence. They key Philox, whose raw
    words are a fixed stream and come 8 times as fast as the SeedSequence's own for 100 buckets.
    """
    key = np.random.SeedSequence([seed, epoch, stream]).generate_state(2, np.uint64)
    words: _U64 = np.random.Philox(key=key).random_raw(num_words)
    return words


def _mix(values: _U64, keys: _U64) -> _U64:
    """32 well mixed bits of (value, key), elementwise: xor, multiply, fold, multiply, take the top half."""
    mixed = values ^ keys
    mixed *= _GOLDEN
    mixed ^= mixed >> _32
    mixed *= _MIX
    mixed >>= _32
    return mixed


class KeyedPermutations:
    """One permutation for each of ``sizes``, under the keys of one epoch.

    ``sizes`` int64[D], each in [0, 2**62). ``words`` uint64[D * ROUNDS] from ``epoch_words``. ``forward`` and
    ``inverse`` take elements of mixed domains in one vectorised pass.
    """

    def __init__(self, sizes: _I64, words: _U64) -> None:
        self._sizes = sizes.astype(np.uint64)
        self._a, self._b = _sides(sizes)
        self._keys = np.ascontiguousarray(words.reshape(len(sizes), ROUNDS).T)  # [ROUNDS, D]
        self._is_small = sizes <= SMALL
        small_sizes = np.where(self._is_small, sizes, 0)
        self._table_starts = np.cumsum(small_sizes) - small_sizes
        # two tables, forward and inverse: [0] and [1]
        self._has_table = np.zeros((2, len(sizes)), dtype=np.bool_)
        self._tables = np.empty((2, int(small_sizes.sum())), dtype=np.uint16)
        self._lock = threading.Lock()

    def forward(self, domains: _I64, values: _I64) -> _I64:
        """int64[n]: where ``values[i]`` (in [0, sizes[domains[i]])) goes in its domain."""
        return self._apply(domains, values, inverse=False)

    def inverse(self, domains: _I64, values: _I64) -> _I64:
        """int64[n]: what goes to ``values[i]`` in its domain; ``inverse(d, forward(d, x)) == x``."""
        return self._apply(domains, values, inverse=True)

    def _apply(self, domains: _I64, values: _I64, *, inverse: bool) -> _I64:
        small = self._is_small[domains]
        if not small.any():
            return self._walk(domains, values, inverse)
        if small.all():
            return self._look_up(domains, values, inverse)
        out = np.empty(len(values), dtype=np.int64)
        out[small] = self._look_up(domains[small], values[small], inverse)
        out[~small] = self._walk(domains[~small], values[~small], inverse)
        return out

    def _look_up(self, domains: _I64, values: _I64, inverse: bool) -> _I64:
        which = int(inverse)
        if not self._has_table[which, domains].all():
            with self._lock:
                self._make_tables(np.unique(domains[~self._has_table[which, domains]]), which)
        found: _I64 = self._tables[which, self._table_starts[domains] + values].astype(np.int64)
        return found

    def _make_tables(self, domains: _I64, which: int) -> None:
        """Shuffle these domains for real: sort each one's numbers by a keyed word (SplitMix64's finaliser). The word's
        low bits make room for the number itself, so that no two are equal and the sorted words hold the order."""
        sizes = self._sizes[domains]
        numbers = np.arange(sizes.max(initial=0), dtype=np.uint64)
        words = splitmix(self._keys[0, domains][:, np.newaxis] + numbers * _GOLDEN)  # [domain, number]
        words &= ~_LOW_BITS
        words |= numbers
        is_there = numbers < sizes[:, np.newaxis]
        words[~is_there] = ~np.uint64(0)  # past all others
        words.sort(axis=1)
        order = (words[is_there] & _LOW_BITS).astype(np.int64)
        number = np.broadcast_to(numbers, words.shape)[is_there].astype(np.int64)
        starts = np.repeat(self._table_starts[domains], sizes.astype(np.int64))
        come, go = (order, number) if which else (number, order)
        self._tables[which, starts + come] = go
        self._has_table[which, domains] = True

    def _walk(self, domains: _I64, values: _I64, inverse: bool) -> _I64:
        """Apply the network until the value lies in the domain again: a permutation of [0, n) from one of [0, a*b)."""
        # clip: three times as fast as to look whether each domain is there
        keys = self._keys.take(domains, axis=1, mode="clip")
        a, b, n = self._a[domains], self._b[domains], self._sizes[domains]
        network = _decrypt if inverse else _encrypt
        out = network(values.astype(np.uint64), a, b, keys)
        past = np.flatnonzero(out >= n)
        while len(past):
            out[past] = network(out[past], a[past], b[past], keys[:, past])
            past = past[out[past] >= n[past]]
        return out.astype(np.int64)


def _sides(sizes: _I64) -> tuple[_U64, _U64]:
    """a = ceil(sqrt n), b = ceil(n / a); exact, for float square roots err past 2**52."""
    n = np.maximum(sizes, 1)
    a = np.sqrt(n.astype(np.float64)).astype(np.int64)
    a = np.where(a * a > n, a - 1, a)
    a = np.where((a + 1) * (a + 1) <= n, a + 1, a)
    a = np.where(a * a < n, a + 1, a)
    return a.astype(np.uint64), (-(-n // a)).astype(np.uint64)


def splitmix(values: _U64) -> _U64:
    """SplitMix64's finaliser, a bijection of 64-bit words (Steele, Lea & Flood, "Fast Splittable Pseudorandom Number
    Generators", 2014)."""
    mixed: _U64 = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _encrypt(values: _U64, a: _U64, b: _U64, keys: _U64) -> _U64:
    """``ROUNDS`` rounds, by turns on the two halves: low += F(high) mod a, high += F(low) mod b.

    ``keys`` uint64[ROUNDS, n]. F's 32 bits become a number in [0, m) by multiply and shift, so a and b are below 2**32.
    A sum below 2 m comes into [0, m) as the lesser of itself and itself less m, which wraps around where it is below.
    """
    high, low = np.divmod(values, a)
    for i in range(0, ROUNDS, 2):
        low += (_mix(high, keys[i]) * a) >> _32
        np.minimum(low, low - a, out=low)
        high += (_mix(low, keys[i + 1]) * b) >> _32
        np.minimum(high, high - b, out=high)
    return high * a + low


def _decrypt(values: _U64, a: _U64, b: _U64, keys: _U64) -> _U64:
    high, low = np.divmod(values, a)
    for i in range(ROUNDS - 2, -1, -2):
        high += b - ((_mix(low, keys[i + 1]) * b) >> _32)
        np.minimum(high, high - b, out=high)
        low += a - ((_mix(high, keys[i]) * a) >> _32)
        np.minimum(low, low - a, out=low)
    return high * a + low
