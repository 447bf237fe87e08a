"""Programs of a few bytes whose values would take forever to hash, compare, print or grow. Each is refused at once, and
the coordinator answers others meanwhile and afterwards."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from tests.checked import Api
from tests.worlds import shared_api

__all__ = ["shared_api"]

ONE_HASH = 2**61 - 1
"""All multiples of it have the hash 0."""


def shared(depth: int, pair: bytes = b")", double: bytes = b"2\x86") -> bytes:
    """A tuple of the same tuple twice, and so on: 2^depth when each is visited."""
    return pair + double * depth


def whole(number: int) -> bytes:
    return b"\x8a\x0b" + number.to_bytes(11, "little")


def rows(*parts: bytes) -> bytes:
    return b"\x80\x02}" + b"".join(parts) + b"."


SIZE = b"K\x40K\x40\x86"
LIST_THAT_GROWS = b"]\x94" + b"(" + b"h\x00" * 12 + b"e"
HOSTILE = {
    "key": rows(shared(60), b"K\x01s"),
    "side": rows(b"K\x01", shared(60), b"s"),
    "side of a size": rows(b"K\x01K\x02", shared(60), b"\x86s"),
    "key of lists": rows(b"]2a" * 60, SIZE, b"s"),
    "by marks": rows(b"K\x01", b")\x94" + b"".join(b"(h" + bytes([at]) + b"2t\x94" for at in range(60)), b"s"),
    "nested, at the end": b"\x80\x02" + shared(60) + b".",
    "nested, as numpy's argument": b"\x80\x02cnumpy\ndtype\n" + shared(60) + b"\x85R.",
    "nested, as numpy's state": b"\x80\x02cnumpy\ndtype\nX\2\0\0\0i8\x85R(K\3" + shared(60) + b"tb.",
    "ids of one hash": rows(*(whole(number * ONE_HASH) + SIZE + b"s" for number in range(1, 100_000))),
    "places in the memo of one hash": rows(*(f"K\x01p{number * ONE_HASH}\n0".encode() for number in range(1, 100_000))),
    "a list that holds itself": rows(b"K\x01]2as"),
    "a list that doubles": rows(b"K\x01", LIST_THAT_GROWS * 12, b"s"),
    "a list that is set": rows(b"]K\x01aq\x00K\x00h\x00s0"),
    "a dict in a dict": rows(b"K\x01" + b"}K\x01" * 60 + SIZE + b"s" * 61),
    "the dict as its own id": rows(b"2", SIZE, b"s"),
    "dicts by the million": b"\x80\x02" + b"}" * 1_000_000 + b".",
    "a long string many times": rows(b"X\0\0\x10\0" + b"a" * (1 << 20), b"q\0", b"(" + b"h\0" * 9 + b"t", b"s"),
    "a number of 5,000 digits": rows(b"I" + b"9" * 5000 + b"\nK\x01s"),
    "a number of a million bytes": rows(b"\x8b" + (1 << 20).to_bytes(4, "little") + b"\x01" * (1 << 20), SIZE, b"s"),
    "the same as a side": rows(b"K\x01\x8b" + (1 << 20).to_bytes(4, "little") + b"\x01" * (1 << 20), b"K\x01\x86s"),
    "the same in a tuple": rows(b"K\x01\x8b" + (1 << 20).to_bytes(4, "little") + b"\x01" * (1 << 20), b"22\x87s"),
    "no number": rows(b"Fabc\nK\x01s"),
    "no text": rows(b"V\\ud8zz\nK\x01s"),
    "no string": rows(b"S'\\x'\nK\x01s"),
    "an end too early": b"\x80\x02}",
    "an item of nothing": rows(b"s"),
    "items of nothing": rows(b"(u"),
    "an odd number of items": rows(b"(K\x01u"),
    "items of a number": b"\x80\x02K\x01K\x01K\x01s.",
    "a tuple that is appended to": b"\x80\x02)K\x01a.",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_and_others_are_served(shared_api: Api, name: str) -> None:
    headers = {"Content-Type": "application/x-pickle"}
    problem = shared_api.ask("PUT", "/v1/maps/m", 422, content=HOSTILE[name], headers=headers).json()
    assert problem["code"] == "invalid"
    assert len(problem["detail"]) < 600
    shared_api.get("/healthz")
    good = pickle.dumps({"a": (64, 64)})
    shared_api.ask("PUT", "/v1/maps/good", content=good, headers=headers)
    shared_api.ask("DELETE", "/v1/maps/good", 204)


def test_an_id_that_comes_twice_is_refused_as_in_every_format(shared_api: Api) -> None:
    headers = {"Content-Type": "application/x-pickle"}
    twice = rows(b"K\x07", SIZE, b"s", b"K\x08", SIZE, b"s", b"K\x07", SIZE, b"s")
    problem = shared_api.ask("PUT", "/v1/maps/m", 422, content=twice, headers=headers).json()
    assert "row 3: duplicate id 7, first seen in row 1" in problem["detail"]


DIGEST = """
import resource
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
from bucketline_service.plans.fingerprint import ids_digest
print(ids_digest([number * (2**61 - 1) for number in range(1, 65537)]))
"""


def test_valid_ids_of_one_hash_are_sorted_not_hashed() -> None:
    """In a process that may use so much of the CPU: a set of them takes some 10^9 comparisons."""
    done = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=False)
    assert len(done.stdout.strip()) == 64, done
