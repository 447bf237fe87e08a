"""The cursor store with its verbs measured: how long each takes, as a metric and, where traces are on, as a span."""

from __future__ import annotations

import inspect
import time
from typing import Any, cast

from prometheus_client import Histogram

from bucketline_service.observability import traces
from bucketline_service.store.port import Store


def instrumented(store: Store, seconds: Histogram) -> Store:
    """The store, each of whose asynchronous verbs is observed by ``seconds`` (labelled ``verb``) and has a span."""
    return cast(Store, _InstrumentedStore(store, seconds))


class _InstrumentedStore:
    def __init__(self, store: Store, seconds: Histogram) -> None:
        self._store = store
        self._seconds = seconds

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._store, verb)
        if not inspect.iscoroutinefunction(call):
            return call
        series, system = self._seconds.labels(verb), self._store.system

        async def measured(*arguments: Any, **named: Any) -> Any:
            begin_s = time.perf_counter()
            try:
                with traces.store_span(system, verb):
                    return await call(*arguments, **named)
            finally:
                series.observe(time.perf_counter() - begin_s)

        setattr(self, verb, measured)  # later look-ups find the attribute and do not come here
        return measured
