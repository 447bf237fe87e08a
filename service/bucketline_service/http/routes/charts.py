"""Routes of charts: plotly's JSON, drawn from the same answers that the API gives as numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Annotated, Any, Literal

from cachetools import LRUCache
from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from bucketline_service.coordinator import Coordinator
from bucketline_service.http.auth import Guards
from bucketline_service.http.browser_headers import DATA
from bucketline_service.http.schemas.shared import MapPath, RunPath

MAX_ANSWERS = 4
"""How many stats are cached: several charts show the same."""
MAX_CHARTS = 256
"""How many charts are cached. Each has a few kilobytes, or about a hundred for 4,096 buckets."""

Ask = Callable[[], Awaitable[dict[str, Any]]]
StatsFigure = Literal[
    "buckets", "crop_loss", "aspect_error", "bucket_crop_loss", "pruned", "tails", "lengths", "pack_kinds"
]
RunFigure = Annotated[Literal[StatsFigure, "ranks"], Path(description="which chart of the run")]
MapFigure = Annotated[Literal["sizes", "aspects"], Path(description="which chart of the map")]
ThemeQuery = Annotated[Literal["light", "dark"], Query(description="for a light or a dark background")]


class FigureOut(BaseModel):
    """For ``Plotly.newPlot`` or ``plotly.graph_objects.Figure``."""

    data: list[dict[str, Any]] = Field(description="traces")
    layout: dict[str, Any]


class _Drawer:
    """Draws one chart at a time, in a thread, since workers' requests share this process, and caches it."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._answers: LRUCache[Hashable, dict[str, Any]] = LRUCache(MAX_ANSWERS)
        self._charts: LRUCache[Hashable, str] = LRUCache(MAX_CHARTS)

    async def draw(self, name: str, theme: str, ask: Ask, key: Hashable = None) -> Response:
        """``ask`` gives the answer that the chart shows. ``key``: everything that this depends on, or None if it
        changes from one moment to the next."""
        async with self._turn:
            text = self._charts.get((name, theme, key)) if key else None
            if text is None:
                answer = self._answers.get(key) if key else None
                answer = answer or await ask()
                text = await asyncio.to_thread(_drawn, name, theme, answer)
                if key:
                    self._answers[key] = answer
                    self._charts[name, theme, key] = text
        return Response(text, headers=DATA, media_type="application/json")


def _drawn(name: str, theme: str, answer: dict[str, Any]) -> str:
    # imported here, because it takes a moment and most coordinators draw no charts
    from bucketline_service import charts

    text: str = getattr(charts, name)(answer, theme=theme).to_json()
    return text


def routes(coordinator: Coordinator, guards: Guards) -> APIRouter:
    router = APIRouter(tags=["figures"], route_class=guards.route)
    drawer = _Drawer()
    reads = guards.readers(404, 409)

    @router.get(
        "/v1/runs/{run}/figures/{figure}", summary="See a run as a chart", response_model=FigureOut, **reads
    )
    async def run_figure(run: RunPath, figure: RunFigure, theme: ThemeQuery = "light") -> Response:
        """Plotly's JSON. ``ranks`` shows ``/ranks``, all others show ``/stats``. ``lengths`` and ``pack_kinds`` are
        empty without packs, ``buckets``, ``bucket_crop_loss`` and ``tails`` with packs."""
        if figure == "ranks":

            async def ranks() -> dict[str, Any]:
                return {"ranks": await coordinator.queries.ranks(run)}

            return await drawer.draw(figure, theme, ranks)
        found, epoch = await coordinator.queries.present(run)
        # the fingerprint identifies the plan, the rest how this epoch is sharded
        key = (found.document.fingerprint, epoch, found.generation.world_size, found.lockstep(epoch))
        return await drawer.draw(figure, theme, lambda: coordinator.queries.stats_of(found, epoch), key)

    @router.get(
        "/v1/maps/{map}/figures/{figure}", summary="See a map as a chart", response_model=FigureOut, **reads
    )
    async def map_figure(map: MapPath, figure: MapFigure, theme: ThemeQuery = "light") -> Response:
        """Plotly's JSON of the map's histogram: ``sizes``, width by height, or ``aspects``."""
        found = await coordinator.get_map(map)

        async def histogram() -> dict[str, Any]:
            return {"histogram": found.histogram()}

        return await drawer.draw(figure, theme, histogram, (found.digest,))

    return router
