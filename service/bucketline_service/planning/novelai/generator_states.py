"""The states of the ``novelai`` planner's generators at an epoch's start, and the checkpoints that hold them.

A ``States`` array uint32[world_size + 1, 625] holds the generator of each rank, then that of the epochs: for
each the 624 words of the Mersenne twister's key and the place in it. (RandomState also keeps half a pair of
normal deviates; the planner draws none.) A checkpoint is a header, the words little-endian, and a checksum
over both. It is input like any other: what is not exactly as it was written, for the same plan, is not read.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

States = NDArray[np.uint32]

_WORDS = 625
_DIGEST_SIZE = 16
_HEADER = struct.Struct("<8s16sQQ")  # magic and version, digest of what is planned, world size, epoch
_MAGIC = b"blnovai\x01"


def save(prng: np.random.RandomState) -> States:
    """The generator's state, uint32[625]."""
    state: Any = prng.get_state(legacy=False)
    words = np.empty(_WORDS, dtype=np.uint32)
    words[:-1] = state["state"]["key"]
    words[-1] = state["state"]["pos"]
    return words


def load(prng: np.random.RandomState, words: States) -> None:
    """Put the generator into a saved state."""
    prng.set_state(("MT19937", words[:-1], int(words[-1]), 0, 0.0))


def initial(seed: int, world_size: int) -> States:
    """The states before epoch 0, as BucketManager's constructor makes them of ``seed`` (0 to 2**32 - 1)."""
    prng = np.random.RandomState(seed)
    # The original calls tomaxint(), which differs where a C long has 32 bits. This is the 64-bit one.
    high, low = prng.randint(0, 2**32, size=2, dtype=np.uint32).tolist()
    epoch_seed = ((high << 32 | low) >> 1) % (2**32 - 1)
    states = np.empty((world_size + 1, _WORDS), dtype=np.uint32)
    states[:world_size] = save(prng)
    states[world_size] = save(np.random.RandomState(epoch_seed))
    return states


def fingerprint(ids: NDArray[np.int64], buckets: NDArray[np.int32], batch_size: int, seed: int) -> bytes:
    """16 bytes over everything that the states depend on, except world size and epoch."""
    digest = hashlib.blake2b(struct.pack("<qq", batch_size, seed), digest_size=_DIGEST_SIZE)
    digest.update(np.ascontiguousarray(ids, dtype="<i8").data)
    digest.update(np.ascontiguousarray(buckets, dtype="<i4").data)
    return digest.digest()


def pack(states: States, plan: bytes, world_size: int, epoch: int) -> bytes:
    """A checkpoint of the plan with that fingerprint: 56 bytes and 2,500 for each row of ``states``."""
    body = _HEADER.pack(_MAGIC, plan, world_size, epoch) + states.astype("<u4", copy=False).tobytes()
    return body + _checksum(body)


def unpack(packed: bytes, plan: bytes, world_size: int, epoch: int) -> States | None:
    """The states of a checkpoint; None where it is damaged or of another plan, world size, epoch, version."""
    body, checksum = packed[:-_DIGEST_SIZE], packed[-_DIGEST_SIZE:]
    if len(body) != _HEADER.size + 4 * _WORDS * (world_size + 1):
        return None
    if body[: _HEADER.size] != _HEADER.pack(_MAGIC, plan, world_size, epoch) or checksum != _checksum(body):
        return None
    words = np.frombuffer(body, dtype="<u4", offset=_HEADER.size)
    return words.reshape(world_size + 1, _WORDS).astype(np.uint32)  # a copy, that can be written


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_SIZE).digest()
