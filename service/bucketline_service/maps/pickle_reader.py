"""NovelAI's ``resolutions.pkl``: a dict of id to (width, height).

A pickle is a program, and its usual interpreter imports and calls what the file says. Here a short list of
opcodes is admitted (numbers, strings, tuples, lists, dicts); any other ends the reading. It runs on the pure
Python machine of the standard library, since one small opcode (LONG_BINPUT) makes the C machine take any
amount of memory.

numpy's scalars call ``numpy.dtype`` and ``scalar`` (and ``_codecs.encode`` below protocol 3). These names,
and only these, become marks here; the machine knows the marks by identity and takes the number out of its
bytes itself. Nothing that the file names is imported or called."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from bucketline_service.errors import Invalid, TooLarge
from bucketline_service.maps.columns import Columns, Names
from bucketline_service.maps.source import CHUNK_ROWS, Chunk, Source, broken, is_utf8, show

MAX_BYTES = 1 << 25
"""An empty list is one byte here and some 70 in memory: 2 GB or so at most, of some 4 million images."""

_HINT = (
    "A resolutions.pkl is a dict of id to (width, height); only dicts, tuples, lists, whole numbers, floats"
    " and strings are read, and nothing in it is executed"
)
_ADMITTED = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    # Parts of numpy's scalars. As an id or a size, what they make is refused.
    *("GLOBAL", "STACK_GLOBAL", "NONE", "NEWFALSE", "NEWTRUE", "SHORT_BINBYTES", "BINBYTES"),
)
_NUMBERS = {"i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
_DTYPE, _SCALAR, _ENCODE = object(), object(), object()
_MARKS = {
    ("numpy", "dtype"): _DTYPE,
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
    ("_codecs", "encode"): _ENCODE,
}


def read_pickle(path: Path, columns: Columns, stack: ExitStack) -> Source:
    if any(name is not None for name in columns):
        raise Invalid("columns", "a pickle has no columns to name", "Leave columns out")
    names = Names("id", "width", "height")
    sizes = _load(path)
    return Source(names, _chunks(sizes, Source(names, iter(()))))


def _load(path: Path) -> dict[Any, Any]:
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
    if type(sizes) is not dict:
        raise Invalid("file", f"holds a {type(sizes).__name__}, not a dict", _HINT)
    return sizes


class _Dtype:
    """A number type as a pickle names it: "i8", and the byte order that comes later."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "<"


class _Machine(pickle._Unpickler):
    """The standard machine with most of its opcodes taken out."""

    dispatch: ClassVar[dict[int, Callable[..., None]]]
    stack: list[Any]

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
        if name in _ADMITTED:
            table[code] = pickle._Unpickler.dispatch[code]
        else:
            table[code] = _refusing(name)
    table[ord("R")] = _Machine.reduce
    table[ord("b")] = _Machine.build
    return table


def _refusing(name: str) -> Callable[..., None]:
    def refuse(machine: _Machine) -> None:
        raise _refused(f"it uses {name}")

    return refuse


_Machine.dispatch = _dispatch()


def _chunks(sizes: dict[Any, Any], source: Source) -> Iterator[Chunk]:
    id_type = type(next(iter(sizes), 0))
    items = iter(sizes.items())
    row = 0
    while part := list(islice(items, CHUNK_ROWS)):
        for image_id, size in part:
            _check(source, row, image_id, id_type, size)
            row += 1
        ids = pa.array([image_id for image_id, _ in part])
        widths, heights = ([size[axis] for _, size in part] for axis in (0, 1))
        yield Chunk(ids, _array(widths), _array(heights))


def _check(source: Source, row: int, image_id: Any, id_type: type, size: Any) -> None:
    """What arrow could not hold, or would quietly turn into something else."""
    if type(image_id) not in (int, str):
        detail = f"{{}} is a {type(image_id).__name__}, no id"
        raise source.refuse("id", row, detail, image_id, "Ids are whole numbers or strings")
    if type(image_id) is not id_type:
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
