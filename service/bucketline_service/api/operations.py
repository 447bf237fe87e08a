"""Routes for probes and scrapers. They need no token: they tell nothing of images."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from bucketline_service.api.problems import documented
from bucketline_service.api.wire import Status, as_json
from bucketline_service.coordinator import Coordinator
from bucketline_service.errors import BucketlineError


def routes(coordinator: Coordinator) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/healthz", response_model=Status)
    async def healthz() -> Response:
        """The process is up."""
        return as_json({"status": "up"})

    @router.get("/readyz", response_model=Status, responses=documented(503))
    async def readyz() -> Response:
        """The store can be reached and the maps can be read."""
        await coordinator.is_ready()
        return as_json({"status": "ready"})

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Prometheus' text format."""
        try:
            await coordinator.refresh_gauges()
        except BucketlineError as error:
            # what is counted is told all the same; the gauges keep their last value
            coordinator.metrics.store_errors.inc()
            coordinator.metrics.log_event("gauges_not_refreshed", detail=error.detail)
        return Response(coordinator.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return router
