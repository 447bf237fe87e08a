"""Several plans of one map, their costs side by side. Nothing is kept, and no run is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.coordinator.runs import rows_of
from bucketline_service.coordinator.spec import PlanFields
from bucketline_service.errors import BucketlineError, Invalid, StoreUnavailable
from bucketline_service.maps import MapStore, ResolutionMap
from bucketline_service.planning.preview import preview_line, preview_novelai
from bucketline_service.planning.sizes import Sizes, distinct_sizes

MAX_SPECS = 16


class Preview(NamedTuple):
    """``spec`` with every default written out, where it can be met; else as it was given. One of the others is None."""

    spec: PlanFields
    stats: dict[str, Any] | None
    problem: BucketlineError | None


class Previews:
    """One at a time, off the event loop: each is as heavy as it is quick."""

    def __init__(self, maps: MapStore) -> None:
        self._maps = maps
        self._turn = asyncio.Lock()

    async def get(self, map_name: str, specs: Sequence[PlanFields]) -> tuple[int, list[Preview]]:
        """How many images the map has, and what each spec costs. Raises ``NotFound`` for the map."""
        async with self._turn:
            return await asyncio.to_thread(previews, self._maps, map_name, specs)


def previews(maps: MapStore, map_name: str, specs: Sequence[PlanFields]) -> tuple[int, list[Preview]]:
    """The same, here and now. Raises ``Invalid`` for a number of specs out of range; what is wrong with one of them is
    its own problem."""
    if not 1 <= len(specs) <= MAX_SPECS:
        raise Invalid("specs", f"{len(specs)} are given", f"Give 1 to {MAX_SPECS}")
    desk = _Desk(maps, maps.get(map_name))
    return desk.map.num_images, [desk.preview(spec) for spec in specs]


class _Desk:
    """A map, and what the specs that were looked at have needed of it."""

    def __init__(self, maps: MapStore, image_map: ResolutionMap) -> None:
        self.map = image_map
        self._maps = maps
        self._all: Sizes | None = None

    def preview(self, spec: PlanFields) -> Preview:
        try:
            spec = spec.resolved()
            return Preview(spec, self._stats(spec), None)
        except StoreUnavailable:
            raise
        except BucketlineError as error:
            return Preview(spec, None, error)

    def _stats(self, spec: PlanFields) -> dict[str, Any]:
        rows = self._valid_rows(spec)
        if spec.planner == "novelai":
            ids = self.map.int_ids if self.map.id_kind == "int64" else None
            widths, heights = self.map.widths, self.map.heights
            return preview_novelai(spec.plan_spec(), widths, heights, ids, spec.world_size, rows)
        sizes = self._sizes(rows)
        num_invalid = None if rows is None else self.map.num_images - len(rows)
        return preview_line(spec.plan_spec(spec.fit(*sizes)), sizes, spec.world_size, num_invalid)

    def _sizes(self, rows: NDArray[np.int64] | None) -> Sizes:
        if rows is not None:
            return distinct_sizes(self.map.widths, self.map.heights, rows)
        if self._all is None:
            self._all = distinct_sizes(self.map.widths, self.map.heights)
        return self._all

    def _valid_rows(self, spec: PlanFields) -> NDArray[np.int64] | None:
        if spec.valid_ids is None:
            return None
        if not isinstance(spec.valid_ids, str):
            return rows_of(self.map, spec.valid_ids)
        valid = self._maps.get(spec.valid_ids)
        return rows_of(self.map, valid.ids(np.arange(valid.num_images)))
