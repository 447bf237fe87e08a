"""Requests for the same key share calls.

A call costs more than the requests in it. So requests for a key that arrive while a call for that key is in progress
wait for the next one: a single request is sent at once, and under load many share a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

MAX_REQUESTS = 256


class Coalescer(Generic[Q, A]):
    """``call`` answers requests for one key, in order. If it raises, each of the requests raises."""

    def __init__(self, call: Callable[[str, Sequence[Q]], Awaitable[Sequence[A]]]) -> None:
        self._call = call
        self._waiting: dict[str, list[tuple[Q, asyncio.Future[A]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, key: str, request: Q) -> asyncio.Future[A]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[A] = loop.create_future()
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append((request, answer))
            return answer
        self._waiting[key] = [(request, answer)]
        task = loop.create_task(self._serve(key))
        self._tasks.add(task)  # the loop has only weak references to tasks
        task.add_done_callback(self._tasks.discard)
        return answer

    async def _serve(self, key: str) -> None:
        """Call until no request waits."""
        waiting = self._waiting[key]
        while waiting:
            requests = waiting[:MAX_REQUESTS]
            del waiting[:MAX_REQUESTS]
            await self._answer(key, requests)
        del self._waiting[key]

    async def _answer(self, key: str, requests: list[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._call(key, [request for request, _ in requests])
        except Exception as error:
            for _, future in requests:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), answer in zip(requests, answers, strict=True):
                if not future.done():  # the caller may have been cancelled
                    future.set_result(answer)
