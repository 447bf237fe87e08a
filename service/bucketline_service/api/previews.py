"""The route of previews: what plans would cost, side by side."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Response

from bucketline_service.api.auth import Guards
from bucketline_service.api.costs import PreviewsIn, PreviewsOut
from bucketline_service.api.problems import documented, members
from bucketline_service.api.wire import as_json
from bucketline_service.coordinator import Coordinator
from bucketline_service.coordinator.map_specs import MapSpec, check_maps
from bucketline_service.coordinator.previews import Preview


def routes(coordinator: Coordinator, guards: Guards) -> APIRouter:
    router = APIRouter(tags=["previews"], route_class=guards.route)

    @router.post(
        "/v1/previews",
        summary="Compare what plans would cost",
        dependencies=[Depends(guards.operator)],
        response_model=PreviewsOut,
        responses=documented(401, 403, 404, 413, 422, 503),
    )
    async def preview(body: PreviewsIn) -> Response:
        """What each of several specs costs on a map, before any run is put; nothing is kept. A spec that can not be met
        has its problem beside the others' stats."""
        check_maps(body.map, body.maps, None)
        maps = body.maps or [MapSpec(map=body.map or "")]
        return as_json(document(body.map, *await coordinator.previews.get(maps, body.specs)))

    return router


def document(map_name: str | None, num_images: int, previews: list[Preview]) -> dict[str, Any]:
    """The answer, which the command line gives as well."""
    return {
        "map": map_name,
        "num_images": num_images,
        "previews": [
            {"spec": spec.to_json() if spec else None, "problem": members(problem)}
            if problem
            else {"spec": spec.to_json() if spec else None, "stats": stats}
            for spec, stats, problem in previews
        ],
    }
