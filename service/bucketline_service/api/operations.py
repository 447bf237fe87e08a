"""Routes for probes and scrapers. They need no token: they tell nothing of images."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from bucketline_service import events
from bucketline_service.api.problems import documented
from bucketline_service.api.wire import Status, as_json
from bucketline_service.coordinator import Coordinator
from bucketline_service.errors import BucketlineError


def routes(coordinator: Coordinator) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/healthz", summary="Is the process up?", response_model=Status)
    async def healthz() -> Response:
        """Answers as long as the process does; it asks neither store nor maps."""
        return as_json({"status": "up"})

    @router.get("/readyz", summary="Can it serve?", response_model=Status, responses=documented(503))
    async def readyz() -> Response:
        """The store can be reached and the maps can be read."""
        await coordinator.is_ready()
        return as_json({"status": "ready"})

    @router.get(
        "/metrics",
        summary="Counts for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
    )
    async def metrics() -> Response:
        """Prometheus' text format: requests, batches, leases, lag of the slowest rank, and the process' own."""
        try:
            await coordinator.refresh_gauges()
        except BucketlineError as error:
            # what is counted is told all the same; the gauges keep their last value
            coordinator.metrics.store_errors.inc()
            events.emit("gauges_not_refreshed", detail=error.detail)
        return Response(coordinator.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return router
