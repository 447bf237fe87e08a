"""The routes of tables of images, which are streamed: the ledger, and the assignments."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from bucketline_service.coordinator import Coordinator
from bucketline_service.http.auth import Guards
from bucketline_service.http.browser_headers import DATA
from bucketline_service.http.middleware import IS_HEAD
from bucketline_service.http.routes.runs import WorldSizeQuery
from bucketline_service.http.schemas.shared import RunPath
from bucketline_service.planning.planner_port import MAX_EPOCH
from bucketline_service.runs.ledger_export import MAX_EPOCHS
from bucketline_service.runs.table_file import Format, TableFile

FromQuery = Annotated[
    int | None,
    Query(alias="from", ge=0, le=MAX_EPOCH, description="the first epoch, by default the current one"),
]
ToQuery = Annotated[
    int | None,
    Query(
        ge=0,
        le=MAX_EPOCH,
        description=f"the last epoch, inclusive, by default the first one. At most {MAX_EPOCHS:,} epochs",
    ),
]
FormatQuery = Annotated[Format, Query(description="of the file")]

MEDIA_TYPES: dict[Format, str] = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}


def _table(columns: str) -> dict[int | str, Any]:
    return {
        200: {
            "description": f"a table with the columns {columns}",
            "content": {
                MEDIA_TYPES["csv"]: {"schema": {"type": "string"}},
                MEDIA_TYPES["parquet"]: {"schema": {"type": "string", "format": "binary"}},
            },
        }
    }


_LEDGER = _table("epoch, what, reason, map (if the run has several), id and num")
_ASSIGNMENTS = _table(
    "map (if the run has several), id, bucket, width and height (as the image is served), resize_width, resize_height, "
    "crop_left, crop_top, num_frames (if the run has frame_buckets) and length (tokens of its length, with packs)"
)


def routes(coordinator: Coordinator, guards: Guards) -> APIRouter:
    router = APIRouter(tags=["runs"], route_class=guards.route)

    @router.get(
        "/v1/runs/{run}/ledger",
        summary="List what epochs leave out and repeat",
        response_class=StreamingResponse,
        **guards.readers(404, 409, also=_LEDGER),
    )
    async def ledger(
        request: Request,
        run: RunPath,
        begin: FromQuery = None,
        to: ToQuery = None,
        format: FormatQuery = "csv",
        world_size: WorldSizeQuery = None,
    ) -> Response:
        """Which images epochs leave out or repeat, after those that are pruned or never served. Each epoch as it is
        sharded from its start over the current ranks, or over ``world_size``. Streamed: a response that breaks off
        is incomplete."""
        file = await coordinator.ledger_export.get(run, begin, to, world_size, format)
        return _streamed(request, file)

    @router.get(
        "/v1/runs/{run}/assignments",
        summary="List the bucket and the size of every image",
        response_class=StreamingResponse,
        **guards.readers(404, 409, also=_ASSIGNMENTS),
    )
    async def assignments(request: Request, run: RunPath, format: FormatQuery = "csv") -> Response:
        """The bucket of every image that the run has, the size at which it is served, and how it is resized and
        cropped for it; one row for each bucket of an image that has several. Remainders that spill are served
        elsewhere in some epochs. Pruned images are not listed. Streamed: a response that breaks off is incomplete."""
        return _streamed(request, await coordinator.assignment_export.get(run, format))

    return router


def _streamed(request: Request, file: TableFile) -> Response:
    headers = {**DATA, "Content-Disposition": f'attachment; filename="{file.name}"'}
    pieces = iter(()) if request.scope.get(IS_HEAD) else file.pieces
    return StreamingResponse(pieces, headers=headers, media_type=MEDIA_TYPES[file.format])
