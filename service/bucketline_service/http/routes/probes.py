"""Routes for probes and for Prometheus. They require no token, since they reveal nothing about images."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from bucketline_service import event_kinds
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
        """Whether the process answers. Checks neither the store nor the maps."""
        return as_json({"status": "up", "version": version})

    @router.get("/readyz", summary="Can it serve?", response_model=Readiness, responses=documented(503))
    async def readyz() -> Response:
        """Whether the store can be reached and the local maps can be read. Risks of the store and an unavailable map
        root are reported but do not make the process unready: other replicas share them."""
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
        """In Prometheus' text format: requests, batches, leases, lag of the slowest rank, and metrics of the
        process."""
        try:
            await coordinator.refresh_gauges()
        except BucketlineError as error:
            # the counters are exported anyway
            coordinator.metrics.store_errors.inc()
            event_kinds.log("gauges_not_refreshed", detail=error.detail)
        # in a thread, because a thousand runs take some tenths of a second
        text = await asyncio.to_thread(coordinator.metrics.exposition)
        return Response(text, headers=DATA, media_type=CONTENT_TYPE_LATEST)

    return router
