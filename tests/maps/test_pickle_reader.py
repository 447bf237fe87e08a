"""Malicious pickles would make a sentinel file. None is ever made."""

from __future__ import annotations

import builtins
import collections
import copyreg
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bucketline_service.errors import Invalid
from bucketline_service.maps import MapStore, RequestedColumns

EVERY_PROTOCOL = pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))


@EVERY_PROTOCOL
def test_integers_and_strings_in_every_protocol(store: MapStore, tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "resolutions.pkl"
    for sizes in (
        {7: (640, 480), -1: (3, 4)},
        {7: [640, 480], -1: [3.0, 4]},
        {np.int64(7): (np.int32(640), np.uint16(480)), np.int64(-1): (np.float32(3), np.float64(4))},
        {np.uint8(7): np.array([640, 480]).tolist(), -1: tuple(np.array([3, 4], ">i4"))},
    ):
        file.write_bytes(pickle.dumps(sizes, protocol))
        opened, _ = store.put("integers", file, "pickle")  # the same map each time
        assert opened.int_ids.tolist() == [7, -1]
        assert (opened.widths.tolist(), opened.heights.tolist()) == ([640, 3], [480, 4])
    names = {f"é{i}/\n'\\.jpg": (i + 1, 640) for i in range(3000)}
    file.write_bytes(pickle.dumps(names, protocol))
    opened, _ = store.put("strings", file, "pickle")
    assert opened.ids(np.arange(3000)) == list(names)
    assert opened.widths.tolist() == list(range(1, 3001))


def test_numpy_s_old_name_is_known(store: MapStore, tmp_path: Path) -> None:
    data = pickle.dumps({np.int64(7): (1, 2)}, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "resolutions.pkl").write_bytes(data)
    assert store.put("map", tmp_path / "resolutions.pkl", "pickle")[0].int_ids.tolist() == [7]


class Calls:
    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.result = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.result


def payloads(sentinel: Path) -> dict[str, Any]:
    touch = f"touch {sentinel}"
    code = f"open({str(sentinel)!r}, 'w')"
    return {
        "os.system": Calls(os.system, touch),
        "subprocess": Calls(subprocess.check_output, ["touch", str(sentinel)]),
        "eval": Calls(builtins.eval, code),
        "exec": Calls(builtins.exec, code),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "open": Calls(open, str(sentinel), "w"),
        "path": Calls(Path.touch, Path(sentinel)),
        "as an id": {Calls(os.system, touch): (1, 2)},
        "as a size": {1: (Calls(os.system, touch), 2)},
        "nested": {1: (1, [{"a": ({"b": Calls(os.system, touch)},)}])},
        "after good rows": {**dict.fromkeys(range(1000), (640, 480)), "x": Calls(os.system, touch)},
        "numpy array": {1: np.array([1, 2])},
        "numpy objects": {1: np.array([Calls(os.system, touch)], object)},
        "numpy scalar of objects": {1: (np.array([(Calls(os.system, touch),)], [("a", object)])[0], 2)},
        "numpy load": Calls(np.load, str(sentinel)),
        "numpy fromfile": Calls(np.fromfile, str(sentinel)),
        "dict subclass": collections.OrderedDict({1: (1, 2)}),
        "defaultdict": collections.defaultdict(list, {1: (1, 2)}),
        "complex": {1: (1j, 2)},
        "bytes": {b"a": (1, 2)},
        "bytearray": {1: (bytearray(b"a"), 2)},
        "set": {1: {1, 2}},
        "frozenset": {frozenset([1]): (1, 2)},
        "bool": {1: (True, 2)},
        "None": {1: None},
        "a class": {1: (dict, 2)},
        "a mark": {1: (np.dtype, 2)},
        "an instance": {1: (np.dtype("i8"), 2)},
        "numpy bool": {1: (np.bool_(True), 2)},
        "numpy string": {np.str_("a"): (1, 2)},
        "numpy datetime": {np.datetime64("2020-01-01"): (1, 2)},
        "copyreg": Calls(copyreg._reconstructor, dict, object, None),  # type: ignore[attr-defined]
        "state": Calls(dict, state={"a": 1}),
    }


@EVERY_PROTOCOL
def test_anything_but_plain_values_is_refused_and_nothing_is_executed(
    refused: Callable[..., Invalid], tmp_path: Path, protocol: int
) -> None:
    sentinel = tmp_path / "sentinel"
    for name, payload in payloads(sentinel).items():
        detail = refused("pickle", pickle.dumps(payload, protocol)).detail
        assert "A resolutions.pkl is a dict of id to (width, height)" in detail or "row 1" in detail, name
        assert not sentinel.exists(), name


HOSTILE_PROGRAMS = [
    b"cos\nsystem\n(S'touch sentinel'\ntR.",
    b"(S'touch sentinel'\nios\nsystem\n.",
    b"(cos\nsystem\nS'touch sentinel'\no.",
    b"\x80\x02cposix\nsystem\nX\x0e\x00\x00\x00touch sentinel\x85R.",
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch sentinel\x85R.",
    b"\x80\x02cnumpy\ndtype\n(X\x01\x00\x00\x00OK\x00K\x01tR.",
    b"\x80\x02cnumpy\ndtype\n)R.",
    b"\x80\x02cnumpy\ndtype\nK\x05R.",
    b"\x80\x02cnumpy\ndtype\n}b.",
    b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00i8\x85R}X\x01\x00\x00\x00aK\x01sb.",
    b"\x80\x02cnumpy\ndtype\n)\x81.",
    b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00i8\x85RX\x01\x00\x00\x00a\x86R.",
    b"\x80\x03cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00i8\x85RC\x01a\x86R.",
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n.",
    b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.",
    b"\x80\x02c_codecs\ndecode\n.",
    b"\x80\x04\x8c\x05numpy\x8c\x0bdtype.newby\x93.",
    b"\x80\x02K\x01K\x02\x86R.",
    b"\x80\x02Pabc\n.",
    b"\x80\x02K\x01Q.",
    b"\x80\x02\x82\x01.",
    b"\x80\x05\x97.",
    b"\x80\x02}\xff.",
]


def test_hand_written_programs_are_refused(
    refused: Callable[..., Invalid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for program in HOSTILE_PROGRAMS:
        refused("pickle", program)
        assert not Path("sentinel").exists(), program


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02}r\xff\xff\xff\x7f.",  # a place in the memo that would take 16 GB in the C machine
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",  # a frame of 2^63 bytes
        b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",  # a number of 2^31 bytes
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x00a.",  # a string of 2^56
        b"\x80\x02X\xff\xff\xff\xffa.",
        b"I" + b"9" * 5000 + b"\n.",
    ],
)
def test_programs_that_ask_for_much_memory_are_refused(
    refused: Callable[..., Invalid], program: bytes
) -> None:
    refused("pickle", program)


@pytest.mark.parametrize(
    ("sizes", "field", "words"),
    [
        ({}, "file", ["no rows"]),
        ([1, 2], "file", ["got a list"]),
        ([(1, 2)], "file", ["has a tuple in a list"]),
        (640, "file", ["got a int"]),
        ({1: (1, 2), "a": (1, 2)}, "id", ["row 2", "got 'a' of type str", "must be int"]),
        ({"a": (1, 2), 1: (1, 2)}, "id", ["row 2", "got 1 of type int"]),
        ({1: (1, 2), 2.5: (1, 2)}, "id", ["row 2", "got 2.5 of type float"]),
        ({1: (1, 2), (1, 2): (1, 2)}, "id", ["row 2", "got (1, 2) of type tuple"]),
        (
            {1: (1, 2), 2**63: (1, 2)},
            "id",
            ["row 2", "must fit in 64 bits with a sign, got 9223372036854775808"],
        ),
        ({1: (1, 2), 10**5000: (1, 2)}, "id", ["row 2", "an integer of 16610 bits"]),
        ({"a": (1, 2), "": (1, 2)}, "id", ["row 2", "must not be empty"]),
        ({1: (1, 2), 2: (1, 2, 3)}, "file", ["row 2", "must be (width, height), got (1, 2, 3)"]),
        ({1: (1, 2), 2: tuple(range(17))}, "file", ["row 2", "a tuple of 17 values"]),
        ({1: (1, 2), 2: ((1, 2), 3)}, "file", ["row 2", "a tuple in a tuple"]),
        ({1: (1, 2), ((), ()): (1, 2)}, "file", ["row 2", "a tuple in a tuple"]),
        ({1: (1, 2), 2: 640}, "file", ["row 2", "must be (width, height), got 640"]),
        ({1: (1, 2), 2: "ab"}, "file", ["row 2", "must be (width, height), got 'ab'"]),
        ({1: (1, 2), 2: {0: 1, 1: 2}}, "file", ["row 2", "it has a second dict"]),
        ([{1: (1, 2)}], "file", ["has a dict in a list"]),
        ({1: (1, 2), 2: ("640", 2)}, "width", ["row 2", "got '640'"]),
        ({1: (1, 2), 2: (640, None)}, "height", ["row 2", "got None"]),
        ({1: (1, 2), 2: (640, False)}, "height", ["row 2", "got False"]),
        ({1: (1, 2), 2: (2**70, 1)}, "width", ["row 2", "1180591620717411303424"]),
        ({1: (1, 2), 2: (0, 1)}, "width", ["row 2", "got 0"]),
        ({1: (1, 2), 2: (1, -1)}, "height", ["row 2", "got -1"]),
        ({1: (1, 2), 2: (640.5, 1)}, "width", ["row 2", "got 640.5"]),
        ({1: (1, 2), 2: (float("nan"), 1)}, "width", ["row 2", "nan"]),
        ({"a": (1, 2), "\ud800": (1, 2)}, "id", ["row 2", "UTF-8"]),
    ],
)
def test_a_bad_row_is_named(
    refused: Callable[..., Invalid], sizes: Any, field: str, words: list[str]
) -> None:
    error = refused("pickle", pickle.dumps(sizes))
    assert error.field == field
    for word in words:
        assert word in error.detail


def test_a_pickle_has_no_columns_to_name(refused: Callable[..., Invalid]) -> None:
    assert refused("pickle", pickle.dumps({1: (1, 2)}), RequestedColumns(id="id")).field == "columns"


def test_a_dict_that_holds_itself_is_refused(refused: Callable[..., Invalid]) -> None:
    size: list[Any] = [1]
    size.append(size)
    assert "row 1" in refused("pickle", pickle.dumps({1: size})).detail
