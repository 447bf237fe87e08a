"""Questions that wait for the same place are asked together.

A call costs more than what it carries. So what is asked of a key while a call for that key is under way goes with the
next one: alone it waits for nobody, and under load many share a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

MAX_TOGETHER = 256


class Coalescer(Generic[Q, A]):
    """``ask`` answers some questions of one key, in order, or raises, which is then the answer to each of them."""

    def __init__(self, ask: Callable[[str, Sequence[Q]], Awaitable[Sequence[A]]]) -> None:
        self._ask = ask
        self._waiting: dict[str, list[tuple[Q, asyncio.Future[A]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, key: str, question: Q) -> asyncio.Future[A]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[A] = loop.create_future()
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append((question, answer))
            return answer
        self._waiting[key] = [(question, answer)]
        task = loop.create_task(self._serve(key))
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)
        return answer

    async def _serve(self, key: str) -> None:
        """Until nobody waits."""
        waiting = self._waiting[key]
        while waiting:
            asked = waiting[:MAX_TOGETHER]
            del waiting[:MAX_TOGETHER]
            await self._answer(key, asked)
        del self._waiting[key]

    async def _answer(self, key: str, asked: list[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._ask(key, [question for question, _ in asked])
        except Exception as error:
            for _, waits in asked:
                if not waits.done():
                    waits.set_exception(error)
        else:
            for (_, waits), answer in zip(asked, answers, strict=True):
                if not waits.done():  # who asked may have gone
                    waits.set_result(answer)
