"""The costs of several plans of the same maps, side by side. Nothing is stored, and no run is needed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import BucketlineError, Invalid, StoreUnavailable
from bucketline_service.maps import MapStore
from bucketline_service.maps.async_store import AsyncMapStore
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.unreached_sizes import occupied, unreached_sizes
from bucketline_service.plans.plan_files import num_threads
from bucketline_service.plans.run_images import Sources
from bucketline_service.previews.estimate import estimate_by_planning, estimate_from_sizes
from bucketline_service.spec.advice import PlanWarning, plan_warnings
from bucketline_service.spec.maps import MapSpec
from bucketline_service.spec.run_spec import PlanFields

MAX_SPECS = 16


def check_num_specs(num_specs: int) -> None:
    """Raise ``Invalid`` for more specs than one request compares, or none."""
    if not 1 <= num_specs <= MAX_SPECS:
        raise Invalid("specs", f"must be 1 to {MAX_SPECS} specs, got {num_specs}")


class Preview(NamedTuple):
    """``spec`` with every default written out if it can be met; otherwise as it was given, None if it did not parse at
    all. ``stats`` or ``problem`` is None; ``warnings``: what of the plan would surprise."""

    spec: PlanFields | None
    stats: dict[str, Any] | None
    problem: BucketlineError | None
    warnings: list[PlanWarning]


class Previews:
    """One request at a time, off the event loop, because each uses all cores for a moment."""

    def __init__(self, library: AsyncMapStore) -> None:
        self._library = library
        self._turn = asyncio.Lock()

    async def get(
        self, maps: Sequence[MapSpec], specs: Sequence[PlanFields | Invalid]
    ) -> tuple[int, list[Preview]]:
        """How many images the maps have, and what each spec costs. Raises ``NotFound`` for a map. Cancelled, it leaves
        the queue, or stops before the next spec."""
        is_unwanted = threading.Event()
        async with self._turn:
            work = self._library.do(previews, self._library.maps, maps, specs, is_unwanted.is_set)
            task = asyncio.create_task(work)
            try:
                return await asyncio.shield(task)
            finally:
                is_unwanted.set()
                await asyncio.wait([task])  # the next one has its turn when the thread is free


def previews(
    store: MapStore,
    maps: Sequence[MapSpec],
    specs: Sequence[PlanFields | Invalid],
    is_unwanted: Callable[[], bool] = lambda: False,
) -> tuple[int, list[Preview]]:
    """The same, synchronously. An ``Invalid`` among ``specs`` stands for a spec that did not parse. Raises ``Invalid``
    for a number of specs out of range; an error in one of them is the problem of its preview. ``is_unwanted``: called
    before each spec, whether to skip the rest."""
    check_num_specs(len(specs))
    desk = _Desk(store, maps)
    found = [desk.preview(spec) for spec in takewhile(lambda _: not is_unwanted(), specs)]
    return desk.sources.images.num_rows, found


class _Desk:
    """Maps, and their distinct sizes once a spec has needed them."""

    def __init__(self, store: MapStore, maps: Sequence[MapSpec]) -> None:
        self._store = store
        self._maps = [each.counted(f"maps.{index}.") for index, each in enumerate(maps)]
        self.sources = Sources([each.map for each in maps], [store.get(each.map) for each in maps])
        self._all: dict[bool, list[Part]] = {}

    def preview(self, spec: PlanFields | Invalid) -> Preview:
        if isinstance(spec, Invalid):
            return Preview(None, None, spec, [])
        try:
            spec = spec.resolved()
            return Preview(spec, *self._plan(spec))
        except StoreUnavailable:
            raise
        except BucketlineError as error:
            return Preview(spec, None, error, [])

    def _plan(self, spec: PlanFields) -> tuple[dict[str, Any], None, list[PlanWarning]]:
        """The stats, no problem, and the warnings."""
        rows = self._valid_rows(spec)
        sources = self.sources
        if sources.are_several:
            spec.check_several_maps()
        parts = self._parts(rows, spec.frame_buckets is not None)
        if not spec.planner_kind.counts_from_sizes:
            plan = spec.plan_spec()
            told = estimate_by_planning(plan, sources.images, sources.int_ids, spec.world_size, rows)
        else:
            num_invalid = None if rows is None else sources.images.num_rows - len(rows)
            plan = spec.plan_spec(spec.fit(parts, self._maps), self._maps)
            told = estimate_from_sizes(plan, Images(parts), spec.world_size, num_invalid, num_threads())
        for name, share in zip(sources.names, told["maps"], strict=True):
            share["map"] = name
        unreached = unreached_sizes(
            plan, Images(parts), occupied(told), with_unsought=spec.ladder.lists_sizes
        )
        return told, None, plan_warnings(spec, plan, told, unreached, spec.world_size)

    def _parts(self, rows: NDArray[np.int64] | None, with_frames: bool) -> list[Part]:
        if rows is not None:
            return self.sources.distinct(rows, with_frames=with_frames)
        if with_frames not in self._all:
            self._all[with_frames] = self.sources.distinct(with_frames=with_frames)
        return self._all[with_frames]

    def _valid_rows(self, spec: PlanFields) -> NDArray[np.int64] | None:
        of_maps = [each.valid_ids for each in self._maps]
        if spec.valid_ids is not None:
            if self.sources.are_several:
                raise Invalid(
                    "valid_ids", "is ambiguous with several maps", "Give it inside maps, for each map"
                )
            of_maps = [spec.valid_ids]
        return self.sources.rows_of(
            [partial(self._ids, each) if isinstance(each, str) else each for each in of_maps],
            are_listed=spec.valid_ids is None,
        )

    def _ids(self, name: str) -> list[int] | list[str]:
        valid = self._store.get(name)
        return valid.ids(np.arange(valid.num_images))
