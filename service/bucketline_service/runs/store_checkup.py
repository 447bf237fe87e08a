"""What nobody notices who only asks the store: looked at in the background, again and again, and told."""

from __future__ import annotations

import asyncio
import contextvars

from bucketline_service import events
from bucketline_service.errors import StoreUnavailable
from bucketline_service.observability.event_log import EventLog
from bucketline_service.store.port import Store

EVERY_S = 30.0


class StoreCheckup:
    """``risks``: what operators should hear of, as the store told it last."""

    def __init__(self, store: Store, event_log: EventLog, every_s: float = EVERY_S) -> None:
        self.risks: list[str] = []
        self._store = store
        self._event_log = event_log
        self._every_s = every_s
        self._failed: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def start(self) -> None:
        # in a context of its own: it is no part of a request
        self._task = contextvars.Context().run(asyncio.get_running_loop().create_task, self._run())

    async def close(self) -> None:
        # by itself a cancellation is lost where it meets an answer of the store: wait_for, before Python 3.12
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def look(self) -> None:
        """Once, now. That the store does not answer is logged when it begins."""
        try:
            risks, failed = await self._store.examine(), None
        except StoreUnavailable as error:
            risks, failed = self.risks, error.detail
        if failed is not None and failed != self._failed:
            events.emit("store_unavailable", detail=failed)
        self._failed = failed
        for risk in risks:
            if risk not in self.risks:
                events.emit("store_at_risk", detail=risk)
                self._event_log.tell("store_at_risk", detail=risk)
        self.risks = risks

    async def _run(self) -> None:
        await self.look()
        while not self._is_closed:
            await asyncio.sleep(self._every_s)
            await self.look()
