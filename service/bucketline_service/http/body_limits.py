"""Limits what a request may cost: JSON is checked for its number of values before it is parsed, long bodies are parsed
in a thread, one at a time, and work stops when its caller disconnects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from bucketline_service.errors import Invalid, TooLarge

MAX_VALUES = 1 << 19
"""The most values (numbers, strings, lists, objects) in a body: parsing this many takes about 0.1 s and 50 MB."""

MAX_LISTS = 1 << 18
"""The most lists and objects among them, which cost more."""

MAX_FIELDS = 64
"""The most fields of one object: more than any object of the API has."""

_HINT = "Send one JSON object in UTF-8"

SHORT_BYTES = 1 << 16
"""A body up to this size is parsed in the event loop."""

_T = TypeVar("_T")


class JsonRequest(Request):
    """A request whose body FastAPI parses by calling ``json``. ``turn``: held while a long body is parsed."""

    def __init__(self, request: Request, turn: asyncio.Lock) -> None:
        super().__init__(request.scope, request.receive)
        self._turn = turn

    async def json(self) -> Any:
        """Raises ``TooLarge``, and ``Invalid`` unless the body is JSON that the API can take."""
        body = await self.body()
        if len(body) <= SHORT_BYTES:
            return read_json(body)
        async with self._turn:
            return await asyncio.to_thread(read_json, body)


async def while_wanted(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Run long work for a request whose body has been read. If the caller disconnects, cancel the work and raise
    ``ClientDisconnect``."""
    working, listening = asyncio.create_task(work), asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait([working, listening], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        listening.cancel()
        working.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def read_json(body: bytes) -> Any:
    # Every value but the first of a list or object has a comma before it, and there are at most as many first ones as
    # brackets. Characters within strings count as well: no valid body has so many of them.
    num_more, num_brackets = body.count(b","), body.count(b"[") + body.count(b"{")
    if num_more > MAX_VALUES:
        raise TooLarge(
            f"the body must have at most {MAX_VALUES:,} values, got about {num_more:,}. If they are ids, "
            "put them as a map and give its name",
            limit=MAX_VALUES,
        )
    if num_brackets > MAX_LISTS:
        raise Invalid(
            "body", f"must have at most {MAX_LISTS:,} lists and objects, got about {num_brackets:,}"
        )
    try:
        return json.loads(body, object_pairs_hook=_object)
    except RecursionError as error:
        raise Invalid("body", "is nested too deeply", _HINT) from error
    except json.JSONDecodeError as error:
        where = f"at line {error.lineno}, column {error.colno}: {error.msg}"
        raise Invalid("body", f"must be JSON, got an error {where}", _HINT) from error
    except UnicodeDecodeError as error:
        raise Invalid("body", f"must be UTF-8, got an error at byte {error.start:,}", _HINT) from error
    except ValueError as error:
        raise Invalid("body", "has an integer of thousands of digits", _HINT) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_FIELDS:
        few = ", ".join(repr(name[:40]) for name, _ in pairs[:3])
        detail = f"an object must have at most {MAX_FIELDS} fields, got {len(pairs):,}: {few} and more"
        raise Invalid("body", detail, "See /docs for the fields")
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Invalid(twice[:80] or "body", "must be given once in an object, got it twice")
    return found
