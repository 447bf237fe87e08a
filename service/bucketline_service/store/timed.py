"""A store whose verbs are timed."""

from __future__ import annotations

import inspect
import time
from typing import Any, cast

from prometheus_client import Histogram

from bucketline_service.store.port import Store


def timed(store: Store, seconds: Histogram) -> Store:
    """The store; what each of its verbs takes is observed by ``seconds``, which is labelled ``verb``."""
    return cast(Store, _Timed(store, seconds))


class _Timed:
    def __init__(self, store: Store, seconds: Histogram) -> None:
        self._store = store
        self._seconds = seconds

    def __getattr__(self, verb: str) -> Any:
        ask = getattr(self._store, verb)
        if not inspect.iscoroutinefunction(ask):
            return ask
        series = self._seconds.labels(verb)

        async def asked(*arguments: Any, **named: Any) -> Any:
            begin_s = time.perf_counter()
            try:
                return await ask(*arguments, **named)
            finally:
                series.observe(time.perf_counter() - begin_s)

        setattr(self, verb, asked)  # from now on it is found before this is asked
        return asked
