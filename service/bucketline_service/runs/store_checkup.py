"""A periodic look at the store for what no verb notices: damage to its file, or a configuration that may lose data."""

from __future__ import annotations

import asyncio
import contextvars

from bucketline_service.errors import StoreUnavailable
from bucketline_service.observability.event_log import EventLog
from bucketline_service.store.port import Store

EVERY_S = 30.0


class StoreCheckup:
    """``risks``: why the store may lose what it has acknowledged, as last reported by the store. Each is reported as an
    event when it first appears; that the store is unavailable is reported by the event log."""

    def __init__(self, store: Store, event_log: EventLog, every_s: float = EVERY_S) -> None:
        self.risks: list[str] = []
        self._store = store
        self._event_log = event_log
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def start(self) -> None:
        # an empty context: the task is not part of a request
        self._task = contextvars.Context().run(asyncio.get_running_loop().create_task, self._run())

    async def close(self) -> None:
        # the flag as well: before Python 3.12, wait_for may swallow a cancellation that meets the store's answer
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def check(self) -> None:
        """Examine the store once, now."""
        try:
            risks = await self._store.examine()
        except StoreUnavailable:
            return
        for risk in risks:
            if risk not in self.risks:
                self._event_log.emit("store_at_risk", detail=risk)
        self.risks = risks

    async def _run(self) -> None:
        await self.check()
        while not self._is_closed:  # asked before each sleep, from which nothing but a cancellation wakes
            await asyncio.sleep(self._every_s)
            await self.check()
