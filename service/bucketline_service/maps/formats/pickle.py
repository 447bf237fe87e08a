"""Reads NovelAI's ``resolutions.pkl``, a dict of id to (width, height), without executing it.

A pickle is a program, and its usual interpreter imports and calls what the file names. Here only a short list of
opcodes is admitted (numbers, strings, tuples, lists, dicts), and any other one ends the reading. The admitted opcodes
run on the pure Python interpreter of the standard library, since in the C interpreter a single opcode (LONG_BINPUT) can
allocate any amount of memory.

A few bytes of a pickle can also make values that take forever to hash, compare or print: tuples of shared tuples, or
integers that all have the same hash. So no value is ever hashed or compared. A dict of the program is a list of rows
here (``_Sizes``), and each row is checked when it is set. Tuples and lists have a few plain values and are not nested.
Duplicate ids are found as in every other format.

numpy scalars call ``numpy.dtype`` and ``scalar`` (and ``_codecs.encode`` below protocol 3). Only these names are
admitted, and only as marks, which are recognised by identity; the number is decoded from its bytes here. Nothing that
the file names is imported or called."""

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
from bucketline_service.maps.file_source import CHUNK_ROWS, FileSource, RowChunk, broken, is_utf8, show
from bucketline_service.maps.id_column import ID_HINT
from bucketline_service.maps.numeric_columns import SIDE

MAX_BYTES = 1 << 25
"""About 4 million images. An empty list is one byte in the file and about 70 in memory, so at most 2 GB of memory."""

_MAX_ITEMS = 16
"""Limit of a tuple or a list. A size has two items, and a numpy scalar at most nine."""

_HINT = (
    "A resolutions.pkl is a dict of id to (width, height). Only dicts, tuples, lists, integers, floats and strings are"
    " read, and nothing in the file is executed"
)
_ADMITTED = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    # These are parts of numpy scalars; their values are refused as an id or a size.
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
        raise Invalid(
            "columns", "must not be given for a pickle, which has no column names", "Leave them out"
        )
    sizes = _load(path)
    return FileSource(sizes.source.names, _chunks(sizes))


class _Sizes:
    """The dict of a pickle: a row for each item that the program sets, in order."""

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
            f"a pickle must be at most {MAX_BYTES:,} bytes, as it is read into memory whole, got {num_bytes:,}. Save "
            "its ids, widths and heights as npz, Parquet or CSV",
            limit_bytes=MAX_BYTES,
        )
    try:
        sizes = _Machine(io.BytesIO(path.read_bytes())).load()
    except (pickle.UnpicklingError, TypeError, AttributeError, AssertionError, IndexError, KeyError) as exc:
        raise broken("pickle", str(exc) or type(exc).__name__) from exc
    if type(sizes) is not _Sizes:
        raise Invalid("file", f"must be a dict, got a {type(sizes).__name__}", _HINT)
    return sizes


class _Dtype:
    """A number type of a pickle: its name, such as "i8", and the byte order, which is set later."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "<"


class _Machine(pickle._Unpickler):
    """Overrides the opcodes that could import or call anything, and those that make dicts, tuples and lists."""

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
        """Limit the index in the memo, which has any number of digits in this opcode; real files count upwards."""
        place = int(self.readline()[:-1])
        if not 0 <= place < MAX_BYTES:
            raise _refused("its memo index is too large")
        self.memo[place] = self.stack[-1]

    def empty_dict(self) -> None:
        if self.sizes is not None:
            raise self.refused("it has a second dict")
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
        """Set items, alternating ids and sizes, in the dict on top of the stack."""
        sizes = self.stack[-1]
        if type(sizes) is not _Sizes:
            raise self.refused(f"it sets an item of a {type(sizes).__name__}")
        for image_id, size in zip(items[::2], items[1::2], strict=True):
            sizes.set(image_id, size)

    def refused(self, what: str) -> Invalid:
        """The error for the row that the value belongs to. Rows are set by the thousand, so earlier rows may still be
        on the stack, above the mark that follows the dict."""
        if self.sizes is None:
            return _refused(what)
        stacks = [*self.metastack, self.stack]
        above = [after for stack, after in pairwise(stacks) if self.sizes in stack[-1:]]
        waiting = len(above[0]) // 2 if above else 0
        return _refused(f"row {len(self.sizes.ids) + waiting + 1}: {what}")


def _flat(make: Callable[..., None]) -> Callable[..., None]:
    """The opcode ``make``, which leaves a tuple or list on the stack, limited to a few plain values."""

    def checked(machine: _Machine) -> None:
        make(machine)
        made = machine.stack.pop()
        if type(made) not in (tuple, list):
            raise _refused(f"it appends to a {type(made).__name__}")
        if len(made) > _MAX_ITEMS:
            raise machine.refused(f"it has a {type(made).__name__} of {len(made):,} values")
        inner = next((item for item in made if type(item) in (tuple, list, _Sizes)), None)
        if inner is not None:
            raise machine.refused(f"it has a {_name(inner)} in a {type(made).__name__}")
        machine.stack.append(made)

    return checked


def _name(value: Any) -> str:
    return "dict" if type(value) is _Sizes else type(value).__name__


def _dtype(arguments: tuple[Any, ...]) -> _Dtype:
    code = arguments[0] if arguments else None
    if type(code) is not str or code not in _NUMBERS:
        raise _refused(f"it has a numpy type {show(code)}")
    return _Dtype(code)


def _number(arguments: tuple[Any, ...]) -> int | float:
    if len(arguments) != 2 or type(arguments[0]) is not _Dtype or type(arguments[1]) is not bytes:
        raise _refused("it has a numpy scalar that is not a number")
    dtype = np.dtype(arguments[0].order + arguments[0].code)
    if len(arguments[1]) != dtype.itemsize:
        raise _refused("it has a numpy scalar of the wrong length")
    number: int | float = np.frombuffer(arguments[1], dtype)[0].item()
    return number


def _encoded(arguments: tuple[Any, ...]) -> bytes:
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
        raise _refused("it encodes something other than a byte string")
    return arguments[0].encode("latin-1")


def _refused(what: str) -> Invalid:
    return Invalid("file", f"refused: {what}", _HINT)


def _dispatch() -> dict[int, Callable[..., None]]:
    """The implementation of each of the 256 opcodes."""
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
    """Refuse what Arrow could not represent or would convert silently. ``id_type``: of the first id."""
    if type(image_id) not in (int, str):
        detail = f"must be an integer or a string, got {{}} of type {_name(image_id)}"
        raise source.row_error("id", row, detail, image_id, ID_HINT)
    if id_type is not None and type(image_id) is not id_type:
        detail = (
            f"must be {id_type.__name__} like the ids before it, got {{}} of type {type(image_id).__name__}"
        )
        raise source.row_error("id", row, detail, image_id, ID_HINT)
    if type(image_id) is int and not -(2**63) <= image_id < 2**63:
        detail = "must fit in 64 bits with a sign, got {}"
        raise source.row_error("id", row, detail, image_id, "Store larger ids as strings")
    if type(image_id) is str and not image_id.isascii() and not is_utf8(image_id):
        raise source.row_error("id", row, "must be UTF-8, got {}", image_id)
    if type(size) not in (tuple, list) or len(size) != 2:
        raise source.row_error("file", row, "must be (width, height), got {}", size, _HINT)
    for field, side in zip(("width", "height"), size, strict=True):
        if type(side) is not float and (type(side) is not int or side.bit_length() > 63):
            raise source.row_error(field, row, f"{SIDE.requirement}, got {{}}", side, _HINT)


def _array(sides: list[Any]) -> Any:
    whole = all(type(side) is int for side in sides)
    return pa.array(np.array(sides, np.int64 if whole else np.float64))
