"""The route of events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from bucketline_service import names
from bucketline_service.coordinator import Coordinator
from bucketline_service.http.auth import Guards
from bucketline_service.http.responses import as_json
from bucketline_service.http.schemas.events import EventsOut
from bucketline_service.names import check_name
from bucketline_service.store.port import MAX_EVENTS

DEFAULT_LIMIT = 100


def routes(coordinator: Coordinator, guards: Guards) -> APIRouter:
    router = APIRouter(tags=["operations"], route_class=guards.route)

    @router.get("/v1/events", summary="List recent events", response_model=EventsOut, **guards.readers())
    async def list_events(
        run: Annotated[
            str | None,
            Query(description="only events of this run", json_schema_extra={"pattern": f"^{names.PATTERN}$"}),
        ] = None,
        limit: Annotated[
            int, Query(ge=1, le=MAX_EVENTS, description="how many of the newest events")
        ] = DEFAULT_LIMIT,
        after: Annotated[int, Query(ge=0, lt=2**53, description="an event's id: only events after it")] = 0,
    ) -> Response:
        """Recent events of all replicas, newest first: runs, maps, sessions, leases, fences, failures of the store. The
        newest 1,000 are kept, including those of deleted runs."""
        if run is not None:
            check_name("run", run)
        return as_json({"events": await coordinator.event_log.read(run, after, limit)})

    return router
