"""Routes of reports: images that a worker could not use."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from bucketline_service.coordinator import Coordinator
from bucketline_service.http.auth import Guards
from bucketline_service.http.responses import as_json
from bucketline_service.http.schemas.reports import ReportedOut, ReportsIn, ReportsOut
from bucketline_service.http.schemas.shared import RunPath

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000


def routes(coordinator: Coordinator, guards: Guards) -> APIRouter:
    router = APIRouter(tags=["delivery"], route_class=guards.route)

    @router.post(
        "/v1/runs/{run}/reports",
        summary="Report images that cannot be used",
        response_model=ReportedOut,
        **guards.readers(404, 409, 413),
    )
    async def report_images(run: RunPath, body: ReportsIn) -> Response:
        """Of one batch. No lease is needed. A repeat changes nothing: an image counts only in a later batch than the
        last one in which it was reported. If one of the images is not in the run, nothing is changed."""
        images = [each.to_image() for each in body.images]
        return as_json(await coordinator.reports.add(run, body.to_place(), images))

    @router.get(
        "/v1/runs/{run}/reports",
        summary="List images that could not be used",
        response_model=ReportsOut,
        **guards.readers(404, 409),
    )
    async def list_reports(
        run: RunPath,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="how many at most")] = DEFAULT_LIMIT,
        after: Annotated[
            int | None,
            Query(ge=0, lt=2**53, description="a number: only those after it; without it, the newest"),
        ] = None,
    ) -> Response:
        """By number, in the order in which images were first reported. For all of them begin with `after=0` and
        continue with the last number. The first 100,000 images of a run are kept, until it is deleted."""
        return as_json(await coordinator.reports.read(run, after, limit))

    return router
