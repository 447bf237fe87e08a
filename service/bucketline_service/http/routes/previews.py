"""The route of previews: what plans would cost, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response

from bucketline_service.coordinator import Coordinator
from bucketline_service.errors import Invalid
from bucketline_service.http.auth import Guards
from bucketline_service.http.body_limits import while_wanted
from bucketline_service.http.problems import members
from bucketline_service.http.responses import as_json
from bucketline_service.http.schemas.plan_costs import PreviewsIn, PreviewsOut
from bucketline_service.previews import comparison
from bucketline_service.previews.side_by_side import Preview
from bucketline_service.spec.maps import MapSpec, check_maps

Theme = Literal["light", "dark"]
FigureQuery = Annotated[
    Theme | None, Query(description="add a table and charts for people, for a light or a dark background")
]
NarrowQuery = Annotated[
    bool, Query(description="arrange the parts of the chart one below the other, for a phone")
]


def routes(coordinator: Coordinator, guards: Guards) -> APIRouter:
    router = APIRouter(tags=["previews"], route_class=guards.route)
    drawing = asyncio.Lock()

    @router.post(
        "/v1/previews",
        summary="Compare what plans would cost",
        response_model=PreviewsOut,
        **guards.operators(404, 413),
    )
    async def preview(
        request: Request, body: PreviewsIn, figure: FigureQuery = None, narrow: NarrowQuery = False
    ) -> Response:
        """What each of several specs costs on a map, without putting a run. Nothing is stored. A spec that cannot be
        met has a problem in place of stats."""
        check_maps(body.map, body.maps, None)
        if body.names is not None and len(body.names) != len(body.specs):
            detail = f"must be one for each of the {len(body.specs)} specs, got {len(body.names)}"
            raise Invalid("names", detail, "Name every spec, or leave names out")
        maps = body.maps or [MapSpec(map=body.map or "")]
        found = await while_wanted(request, coordinator.previews.get(maps, body.specs))
        answer = document(body.map, *found)
        if figure is not None:
            async with drawing:
                answer = await asyncio.to_thread(_drawn, answer, body.names, figure, narrow)
        return as_json(answer)

    return router


def _drawn(answer: dict[str, Any], names: Sequence[str] | None, theme: Theme, narrow: bool) -> dict[str, Any]:
    """The answer with tables and charts for people."""
    # imported here, because it takes a moment and most coordinators draw no charts
    from bucketline_service import charts

    chart = charts.comparison(answer, names, theme=theme, narrow=narrow)
    return {
        **answer,
        "previews": [
            {**each, "figure": orjson.Fragment(charts.plan(each["stats"], theme=theme).to_json())}
            if "stats" in each
            else each
            for each in answer["previews"]
        ],
        "comparison": {
            "rows": [row._asdict() for row in comparison.rows(answer)],
            "figure": orjson.Fragment(chart.to_json()),
        },
    }


def document(map_name: str | None, num_images: int, previews: list[Preview]) -> dict[str, Any]:
    """The answer, which the command line also prints."""
    return {
        "map": map_name,
        "num_images": num_images,
        "previews": [
            {"spec": spec.to_json() if spec else None, "problem": members(problem)}
            if problem
            else {
                "spec": spec.to_json() if spec else None,
                "stats": stats,
                "warnings": [each._asdict() for each in warnings],
            }
            for spec, stats, problem, warnings in previews
        ],
    }
