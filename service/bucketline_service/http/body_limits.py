"""What a request may cost before and after it has been read: what a few megabytes of JSON unpack to is bounded before
it is looked at, a long body is read by a thread, one at a time, and nobody works for a caller who is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from bucketline_service.errors import Invalid, TooLarge

MAX_VALUES = 1 << 19
"""Numbers, strings, lists and objects in a body: to read so many takes some 0.1 s and 50 MB."""

MAX_LISTS = 1 << 18
"""Lists and objects among them, which cost more."""

MAX_FIELDS = 64
"""Of one object: more than any of the API's has."""

_HINT = "Send one JSON object in UTF-8"

SHORT_BYTES = 1 << 16
"""A body of so many is read at once."""

_T = TypeVar("_T")


class JsonRequest(Request):
    """A request whose body FastAPI reads by way of ``json``. ``turn``: of who reads a long one."""

    def __init__(self, request: Request, turn: asyncio.Lock) -> None:
        super().__init__(request.scope, request.receive)
        self._turn = turn

    async def json(self) -> Any:
        """Raises ``TooLarge``, and ``Invalid`` for what is no JSON, or none of the API's."""
        body = await self.body()
        if len(body) <= SHORT_BYTES:
            return read_json(body)
        async with self._turn:
            return await asyncio.to_thread(read_json, body)


async def while_wanted(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """What comes of work that takes long, for a request whose body has been read. Cancels it where the caller hangs up
    before, and raises ``ClientDisconnect``."""
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
    # Each value but the first of a list or an object has a comma before it, and those first ones are as many as there
    # are brackets. What stands within strings counts as well: where that decides, the body is of no use either.
    num_more, num_brackets = body.count(b","), body.count(b"[") + body.count(b"{")
    if num_more > MAX_VALUES:
        raise TooLarge(
            f"the body has some {num_more:,} values, and this coordinator reads {MAX_VALUES:,}. Ids that are so many "
            "are put as a map of their own, whose name stands in their place",
            limit=MAX_VALUES,
        )
    if num_brackets > MAX_LISTS:
        raise Invalid("body", f"has some {num_brackets:,} lists and objects", f"There may be {MAX_LISTS:,}")
    try:
        return json.loads(body, object_pairs_hook=_object)
    except RecursionError as error:
        raise Invalid("body", "is nested too deeply", _HINT) from error
    except json.JSONDecodeError as error:
        where = f"at line {error.lineno}, column {error.colno}: {error.msg}"
        raise Invalid("body", f"is not JSON {where}", _HINT) from error
    except UnicodeDecodeError as error:
        raise Invalid("body", f"is not UTF-8 at byte {error.start:,}", _HINT) from error
    except ValueError as error:
        raise Invalid("body", "has an integer of thousands of digits", _HINT) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_FIELDS:
        few = ", ".join(repr(name[:40]) for name, _ in pairs[:3])
        detail = f"an object has {len(pairs):,} fields: {few} and {len(pairs) - 3:,} more"
        raise Invalid("body", detail, f"None of the API has more than {MAX_FIELDS}: /docs tells them")
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Invalid(twice[:80] or "body", "is given more than once in one object", "Give it once")
    return found
