"""Routes for probes and scrapers. They need no token: they tell nothing of images."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from bucketline_service import events
from bucketline_service.coordinator import Coordinator
from bucketline_service.errors import BucketlineError
from bucketline_service.http.browser_headers import DATA
from bucketline_service.http.problems import documented
from bucketline_service.http.responses import as_json
from bucketline_service.http.schemas.probes import Health, Readiness


def routes(coordinator: Coordinator, version: str) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/healthz", summary="Is the process up?", response_model=Health, responses=documented())
    async def healthz() -> Response:
        """Answers as long as the process does; it asks neither store nor maps."""
        return as_json({"status": "up", "version": version})

    @router.get("/readyz", summary="Can it serve?", response_model=Readiness, responses=documented(503))
    async def readyz() -> Response:
        """The store can be reached and relied on, and the maps that are here can be read. Told, and no reason to send
        requests elsewhere, are a map root that is gone, as no replica has another, and what endangers the store."""
        await coordinator.is_ready()
        about: dict[str, Any] = {"status": "ready"}
        if coordinator.store_risks:
            about["store_risks"] = coordinator.store_risks
        if coordinator.maps.has_root:
            about["map_root"] = "ready" if await coordinator.is_root_there() else "unavailable"
        return as_json(about)

    @router.get(
        "/metrics",
        summary="Counts for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **documented()},
    )
    async def metrics() -> Response:
        """Prometheus' text format: requests, batches, leases, lag of the slowest rank, and the process' own."""
        try:
            await coordinator.refresh_gauges()
        except BucketlineError as error:
            # what is counted is told all the same
            coordinator.metrics.store_errors.inc()
            events.log("gauges_not_refreshed", detail=error.detail)
        # in a thread: with a thousand runs it takes some tenths of a second
        text = await asyncio.to_thread(coordinator.metrics.exposition)
        return Response(text, headers=DATA, media_type=CONTENT_TYPE_LATEST)

    return router
