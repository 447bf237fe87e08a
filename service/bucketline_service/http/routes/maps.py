"""Routes of resolution maps."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from bucketline_service.coordinator import Coordinator
from bucketline_service.errors import Invalid, StoreUnavailable
from bucketline_service.http.auth import Guards
from bucketline_service.http.browser_headers import DATA
from bucketline_service.http.map_uris import opened, path_of
from bucketline_service.http.middleware import is_json
from bucketline_service.http.responses import as_json
from bucketline_service.http.schemas.maps import MapDetail, MapPutOut, MapsOut, UriIn
from bucketline_service.http.schemas.shared import MapPath
from bucketline_service.http.validation_errors import invalid_body
from bucketline_service.maps import (
    FORMATS,
    STORED,
    MapInfo,
    RequestedColumns,
    ResolutionMap,
    format_for_suffix,
    format_named,
    put_notes,
)
from bucketline_service.names import check_name

_BODY = {
    "requestBody": {
        "required": True,
        "description": "the map itself, or its uri",
        "content": {
            **{
                media_type: {"schema": {"type": "string", "format": "binary"}}
                for each in FORMATS.values()
                for media_type in each.media_types
            },
            "application/json": {"schema": UriIn.model_json_schema()},
        },
    }
}


_COLUMN = "name of the column in the file, by default detected"
_WidthColumn = Annotated[str | None, Query(description=f"{_COLUMN}, required with height_column")]
_HeightColumn = Annotated[str | None, Query(description=f"{_COLUMN}, required with width_column")]
_SKIP = "leave out rows without a width or height, and count them in num_skipped"
_OPTIONAL = f"{_COLUMN} (optional); empty: ignore the column"
_OptionalColumn = Annotated[str | None, Query(description=_OPTIONAL)]
_RepeatsColumn = Annotated[
    str | None,
    Query(description=f"{_OPTIONAL}. 1 is once per epoch, except in a column named repeats, where 0 is"),
]


def routes(coordinator: Coordinator, guards: Guards, uploads: Path, roots: tuple[Path, ...]) -> APIRouter:
    """``uploads``: the folder for uploads while they stream. ``roots``: folders whose files ``uri`` may name."""
    router = APIRouter(tags=["maps"], route_class=guards.route)
    _add_put(router, coordinator, guards, uploads, roots)
    _add_others(router, coordinator, guards)
    return router


def _add_put(
    router: APIRouter, coordinator: Coordinator, guards: Guards, uploads: Path, roots: tuple[Path, ...]
) -> None:
    @router.put(
        "/v1/maps/{map}",
        summary="Upload a resolution map",
        status_code=201,
        response_model=MapPutOut,
        openapi_extra=_BODY,
        **guards.operators(
            409, 413, also={200: {"model": MapPutOut, "description": "the same content again"}}
        ),
    )
    async def put_map(
        map: MapPath,
        request: Request,
        id_column: Annotated[str | None, Query(description=_COLUMN)] = None,
        width_column: _WidthColumn = None,
        height_column: _HeightColumn = None,
        orientation_column: _OptionalColumn = None,
        num_repeats_column: _RepeatsColumn = None,
        num_frames_column: _OptionalColumn = None,
        skip_missing_sizes: Annotated[bool, Query(description=_SKIP)] = False,
    ) -> Response:
        """Id, width and height of every image, and optional columns, in any of the formats or by ``uri``. The whole map
        is checked before it is stored. Other content under an existing name is a conflict."""
        optional = (orientation_column, num_repeats_column, num_frames_column)
        check_name("map", map)  # before a long body is read
        columns = RequestedColumns(id_column, width_column, height_column, *optional, skip_missing_sizes)
        content_type = request.headers.get("content-type", "")
        if is_json(content_type):
            where = _where(await request.json())
            put = await _read(coordinator, roots, where, map, columns)
        else:
            if not content_type:
                raise Invalid(
                    "Content-Type", "is required", f"Known formats are {', '.join(FORMATS)}, e.g. text/csv"
                )
            kind = format_named(content_type)
            put = await _upload(coordinator, uploads, request, map, kind.name, columns)
        stored, created, num_skipped = put
        told: dict[str, Any] = {}
        if stored.names and (found := put_notes(stored.names)):
            told["notes"] = found
        if skip_missing_sizes:
            told["num_skipped"] = num_skipped
        return as_json({**_about(map, stored), **told}, 201 if created else 200)


def _add_others(router: APIRouter, coordinator: Coordinator, guards: Guards) -> None:
    @router.get("/v1/maps", summary="List all maps", response_model=MapsOut, **guards.readers())
    async def list_maps() -> Response:
        """Every map by name, with its digest and number of images."""
        return as_json({"maps": [_about(each.name, each) for each in await coordinator.list_maps()]})

    @router.get("/v1/maps/{map}", summary="Get a map", response_model=MapDetail, **guards.readers(404))
    async def get_map(map: MapPath) -> Response:
        """A map with the histogram of its sizes and aspects."""
        stored = await coordinator.get_map(map)
        return as_json({**_about(map, stored), "histogram": stored.histogram()})

    @router.delete("/v1/maps/{map}", summary="Delete a map", status_code=204, **guards.operators(404, 409))
    async def delete_map(map: MapPath) -> Response:
        """Delete a map. If runs use it this is a conflict that names them."""
        await coordinator.delete_map(map)
        return Response(status_code=204, headers=DATA)


async def _read(
    coordinator: Coordinator, roots: tuple[Path, ...], where: UriIn, name: str, columns: RequestedColumns
) -> tuple[ResolutionMap, bool, int]:
    """Put a file that is on the coordinator's host."""
    path = path_of(where.uri)
    with ExitStack() as stack:
        # in a thread, because the folder may be on a network and slow
        file = await asyncio.to_thread(stack.enter_context, opened(roots, path))
        kind = format_named(where.format) if where.format else format_for_suffix(path)
        return await coordinator.put_map(name, file, kind.name, columns)


async def _upload(
    coordinator: Coordinator,
    uploads: Path,
    request: Request,
    name: str,
    file_format: str,
    columns: RequestedColumns,
) -> tuple[ResolutionMap, bool, int]:
    """Stream the body into a temporary file and put that."""
    try:
        with tempfile.NamedTemporaryFile(dir=uploads, prefix="upload-") as file:
            async for chunk in request.stream():
                file.write(chunk)
            file.flush()
            return await coordinator.put_map(name, Path(file.name), file_format, columns)
    except OSError as error:
        raise StoreUnavailable(f"the upload cannot be written to {uploads}: {error}") from error


def _where(document: Any) -> UriIn:
    try:
        return UriIn.model_validate(document)
    except ValidationError as error:
        raise invalid_body(error, document) from error


def _about(name: str, stored: ResolutionMap | MapInfo) -> dict[str, object]:
    return {
        "map": name,
        "digest": stored.digest,
        "num_images": stored.num_images,
        "id_kind": stored.id_kind,
        **{kind: stored.optional.get(kind) for kind in STORED},
    }
