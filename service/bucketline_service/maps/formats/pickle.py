"""NovelAI's ``resolutions.pkl``: a dict of id to (width, height).

A pickle is a program, and its usual interpreter imports and calls what the file says. Here a short list of
opcodes is admitted (numbers, strings, tuples, lists, dicts); any other ends the reading. It runs on the pure
Python machine of the standard library, since one small opcode (LONG_BINPUT) makes the C machine take any
amount of memory.

A program of some bytes can also make values that take for ever to hash, compare or print: tuples of shared tuples, or
whole numbers that all have one hash. So no value is ever hashed or compared. What the program calls a dict is a list of
rows here (``_Sizes``), and a row is checked at the moment it is set. Tuples and lists hold a few plain values, and none
of their own kind. That an id comes twice is found in the same way as in every other format.

numpy's scalars call ``numpy.dtype`` and ``scalar`` (and ``_codecs.encode`` below protocol 3). These names,
and only these, become marks here; the machine knows the marks by identity and takes the number out of its
bytes itself. Nothing that the file names is imported or called."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from bucketline_service.errors import Invalid, TooLarge
from bucketline_service.maps.column_names import FIND_ALL, RequestedColumns, ResolvedColumns
from bucketline_service.maps.file_source import (
    CHUNK_ROWS,
    FileSource,
    RowChunk,
    broken,
    is_utf8,
    show,
)

MAX_BYTES = 1 << 25
"""An empty list is one byte here and some 70 in memory: 2 GB or so at most, of some 4 million images."""

_MAX_ITEMS = 16
"""Of a tuple or a list. A size has two, and the longest that a numpy scalar comes with has nine."""

_HINT = (
    "A resolutions.pkl is a dict of id to (width, height); only dicts, tuples, lists, whole numbers, floats"
    " and strings are read, and nothing in it is executed"
)
_ADMITTED = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    # Parts of numpy's scalars. As an id or a size, what they make is refused.
    *("GLOBAL", "STACK_GLOBAL", "NONE", "NEWFALSE", "NEWTRUE", "SHORT_BINBYTES", "BINBYTES"),
)
_SEQUENCES = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS")
_NUMBERS = {"i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
_DTYPE, _SCALAR, _ENCODE = object(), object(), object()
_MARKS = {
    ("numpy", "dtype"): _DTYPE,
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
    ("_codecs", "encode"): _ENCODE,
}


def read_pickle(path: Path, columns: RequestedColumns, stack: ExitStack) -> FileSource:
    if columns._replace(skip_missing_sizes=False) != FIND_ALL:
        raise Invalid("columns", "a pickle has no columns to name", "Leave columns out")
    sizes = _load(path)
    return FileSource(sizes.source.names, _chunks(sizes))


class _Sizes:
    """The dict of a pickle as what it is read for: a row for each item that the program sets, in order."""

    def __init__(self) -> None:
        self.source = FileSource(ResolvedColumns("id", "width", "height"), iter(()))
        self.ids: list[Any] = []
        self.widths: list[float] = []
        self.heights: list[float] = []

    def __repr__(self) -> str:
        return "{…}"

    def set(self, image_id: Any, size: Any) -> None:
        _check(self.source, len(self.ids), image_id, type(self.ids[0]) if self.ids else None, size)
        self.ids.append(image_id)
        self.widths.append(size[0])
        self.heights.append(size[1])


def _load(path: Path) -> _Sizes:
    num_bytes = path.stat().st_size
    if num_bytes > MAX_BYTES:
        raise TooLarge(
            f"the pickle has {num_bytes:,} bytes, and {MAX_BYTES:,} are taken: it is read into memory whole. Save its "
            "ids, widths and heights as npz, Parquet or CSV",
            limit_bytes=MAX_BYTES,
        )
    try:
        sizes = _Machine(io.BytesIO(path.read_bytes())).load()
    except (pickle.UnpicklingError, TypeError, AttributeError, AssertionError, IndexError, KeyError) as exc:
        raise broken("pickle", str(exc) or type(exc).__name__) from exc
    if type(sizes) is not _Sizes:
        raise Invalid("file", f"holds a {type(sizes).__name__}, not a dict", _HINT)
    return sizes


class _Dtype:
    """A number type as a pickle names it: "i8", and the byte order that comes later."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "<"


class _Machine(pickle._Unpickler):
    """Overrides what could import or call anything, and what makes dicts, tuples and lists."""

    dispatch: ClassVar[dict[int, Callable[..., None]]]
    readline: Callable[[], bytes]
    pop_mark: Callable[[], list[Any]]
    stack: list[Any]
    metastack: list[list[Any]]
    memo: dict[int, Any]
    sizes: _Sizes | None = None
    """The one dict of the program."""

    def find_class(self, module: str, name: str) -> Any:
        mark = _MARKS.get((module, name))
        if mark is None:
            raise _refused(f"it names {show(module + '.' + name)}")
        return mark

    def reduce(self) -> None:
        arguments = self.stack.pop()
        what = self.stack[-1]
        if type(arguments) is not tuple:
            raise _refused("it calls something without a tuple of arguments")
        if what is _DTYPE:
            self.stack[-1] = _dtype(arguments)
        elif what is _SCALAR:
            self.stack[-1] = _number(arguments)
        elif what is _ENCODE:
            self.stack[-1] = _encoded(arguments)
        else:
            raise _refused(f"it calls a {type(what).__name__}")

    def build(self) -> None:
        state = self.stack.pop()
        what = self.stack[-1]
        if (
            type(what) is not _Dtype
            or type(state) is not tuple
            or len(state) < 2
            or state[1] not in ("<", ">", "|")
        ):
            raise _refused(f"it changes the state of a {type(what).__name__}")
        what.order = state[1]

    def put(self) -> None:
        """Unlike the binary opcodes it names its place in the memo by a number of any length; real ones count up."""
        place = int(self.readline()[:-1])
        if not 0 <= place < MAX_BYTES:
            raise _refused("it numbers more values than it can hold")
        self.memo[place] = self.stack[-1]

    def empty_dict(self) -> None:
        if self.sizes is not None:
            raise self.refused("it holds a second dict")
        self.sizes = _Sizes()
        self.stack.append(self.sizes)

    def dict_of_items(self) -> None:
        items = self.pop_mark()
        self.empty_dict()
        self.set_all(items)

    def set_item(self) -> None:
        items = [self.stack.pop(), self.stack.pop()]
        self.set_all(items[::-1])

    def set_items(self) -> None:
        self.set_all(self.pop_mark())

    def set_all(self, items: list[Any]) -> None:
        """Ids and sizes in turn, into the dict that is the top of the stack."""
        sizes = self.stack[-1]
        if type(sizes) is not _Sizes:
            raise self.refused(f"it sets an item of a {type(sizes).__name__}")
        for image_id, size in zip(items[::2], items[1::2], strict=True):
            sizes.set(image_id, size)

    def refused(self, what: str) -> Invalid:
        """Names the row that the value at fault was made for. Rows are set by the thousand: those before it may still
        lie on the stack, above the mark that follows the dict."""
        if self.sizes is None:
            return _refused(what)
        stacks = [*self.metastack, self.stack]
        above = [after for stack, after in pairwise(stacks) if self.sizes in stack[-1:]]
        waiting = len(above[0]) // 2 if above else 0
        return _refused(f"row {len(self.sizes.ids) + waiting + 1}: {what}")


def _flat(make: Callable[..., None]) -> Callable[..., None]:
    """The opcode ``make``, which leaves a tuple or list on the stack: it may hold a few plain values."""

    def checked(machine: _Machine) -> None:
        make(machine)
        made = machine.stack.pop()
        if type(made) not in (tuple, list):
            raise _refused(f"it appends to a {type(made).__name__}")
        if len(made) > _MAX_ITEMS:
            raise machine.refused(f"it holds a {type(made).__name__} of {len(made):,} values")
        inner = next((item for item in made if type(item) in (tuple, list, _Sizes)), None)
        if inner is not None:
            raise machine.refused(f"it holds a {_name(inner)} in a {type(made).__name__}")
        machine.stack.append(made)

    return checked


def _name(value: Any) -> str:
    return "dict" if type(value) is _Sizes else type(value).__name__


def _dtype(arguments: tuple[Any, ...]) -> _Dtype:
    code = arguments[0] if arguments else None
    if type(code) is not str or code not in _NUMBERS:
        raise _refused(f"it holds a numpy type {show(code)}")
    return _Dtype(code)


def _number(arguments: tuple[Any, ...]) -> int | float:
    if len(arguments) != 2 or type(arguments[0]) is not _Dtype or type(arguments[1]) is not bytes:
        raise _refused("it holds a numpy scalar that is no number")
    dtype = np.dtype(arguments[0].order + arguments[0].code)
    if len(arguments[1]) != dtype.itemsize:
        raise _refused("it holds a numpy scalar of the wrong length")
    number: int | float = np.frombuffer(arguments[1], dtype)[0].item()
    return number


def _encoded(arguments: tuple[Any, ...]) -> bytes:
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
        raise _refused("it encodes something that is no byte string")
    return arguments[0].encode("latin-1")


def _refused(what: str) -> Invalid:
    return Invalid("file", f"refused: {what}", _HINT)


def _dispatch() -> dict[int, Callable[..., None]]:
    """What each of the 256 opcodes does."""
    table: dict[int, Callable[..., None]] = {}
    names = {ord(op.code): op.name for op in pickletools.opcodes}
    for code in range(256):
        name = names.get(code, f"unknown opcode {code:#04x}")
        if name in _OWN:
            table[code] = _OWN[name]
        elif name in _SEQUENCES:
            table[code] = _flat(pickle._Unpickler.dispatch[code])
        elif name in _ADMITTED:
            table[code] = pickle._Unpickler.dispatch[code]
        else:
            table[code] = _refusing(name)
    return table


def _refusing(name: str) -> Callable[..., None]:
    def refuse(machine: _Machine) -> None:
        raise _refused(f"it uses {name}")

    return refuse


_OWN: dict[str, Callable[..., None]] = {
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "PUT": _Machine.put,
    "EMPTY_DICT": _Machine.empty_dict,
    "DICT": _Machine.dict_of_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
}
_Machine.dispatch = _dispatch()


def _chunks(sizes: _Sizes) -> Iterator[RowChunk]:
    for start in range(0, len(sizes.ids), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        yield RowChunk(pa.array(sizes.ids[rows]), _array(sizes.widths[rows]), _array(sizes.heights[rows]))


def _check(source: FileSource, row: int, image_id: Any, id_type: type | None, size: Any) -> None:
    """What arrow could not hold, or would quietly turn into something else. ``id_type``: of the first row."""
    if type(image_id) not in (int, str):
        detail = f"{{}} is a {_name(image_id)}, no id"
        raise source.refuse("id", row, detail, image_id, "Ids are whole numbers or strings")
    if id_type is not None and type(image_id) is not id_type:
        detail = (
            f"{{}} is of type {type(image_id).__name__}, and the ids before are of type {id_type.__name__}"
        )
        raise source.refuse("id", row, detail, image_id, "One kind of id in a map")
    if type(image_id) is int and not -(2**63) <= image_id < 2**63:
        raise source.refuse("id", row, "{} does not fit in 64 bits", image_id, "Use strings for larger ids")
    if type(image_id) is str and not image_id.isascii() and not is_utf8(image_id):
        raise source.refuse("id", row, "{} is not UTF-8", image_id, "Lone surrogates are no text")
    if type(size) not in (tuple, list) or len(size) != 2:
        raise source.refuse("file", row, "{} is not (width, height)", size, _HINT)
    for field, side in zip(("width", "height"), size, strict=True):
        if type(side) is not float and (type(side) is not int or side.bit_length() > 63):
            raise source.refuse(field, row, "{} is not a number of pixels", side, _HINT)


def _array(sides: list[Any]) -> Any:
    whole = all(type(side) is int for side in sides)
    return pa.array(np.array(sides, np.int64 if whole else np.float64))
