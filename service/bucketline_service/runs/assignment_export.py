"""Export of the bucket and size that each image of a run has (planning/assignments.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from bucketline_service.maps import MapStore
from bucketline_service.planning.assignments import Assignments, assignments
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.plans.run_images import Sources
from bucketline_service.runs.registry import Runs
from bucketline_service.runs.run import Run
from bucketline_service.runs.table_file import Format, TableFile, id_columns, id_fields, pieces
from bucketline_service.runs.valid_ids import of_valid_ids

_GEOMETRY = ("bucket", "width", "height", "resize_width", "resize_height", "crop_left", "crop_top")


class AssignmentExport:
    """Needs no cursor, and moves none."""

    def __init__(self, runs: Runs, maps: MapStore) -> None:
        self._runs = runs
        self._maps = maps

    async def get(self, name: str, format: Format) -> TableFile:
        """The table of all images that the run has. Every error is raised here, before the first piece."""
        run = await self._runs.open(name)
        found = await asyncio.to_thread(self._open, run, format)
        return TableFile(f"{name}-assignments.{format}", format, found)

    def _open(self, run: Run, format: Format) -> Iterator[bytes]:
        plan = run.plan
        spec, sources = plan.spec, plan.sources
        schema = _schema(spec, sources)
        blocks = assignments(spec, plan.prepared, sources.images, of_valid_ids(run, self._maps))
        return pieces((_table(each, spec, sources, schema) for each in blocks), schema, format)


def _schema(spec: PlanSpec, sources: Sources) -> Any:
    """``num_frames`` is present if the run has ``frame_buckets``, ``length`` if it has packs."""
    names = [*_GEOMETRY]
    names += ["num_frames"] if spec.frame_buckets else []
    names += ["length"] if spec.packing else []
    return pa.schema([*id_fields(sources), *((name, pa.int64()) for name in names)])


def _table(block: Assignments, spec: PlanSpec, sources: Sources, schema: Any) -> Any:
    columns = dict(
        zip(
            _GEOMETRY,
            (block.buckets, *block.sizes.T, *block.cuts.resize_sizes.T, *block.cuts.crop_left_tops.T),
            strict=True,
        )
    )
    if spec.frame_buckets:
        columns["num_frames"] = block.frames
    if spec.packing:
        columns["length"] = spec.packing.lengths[block.buckets]
    return pa.table({**id_columns(block.rows, sources), **columns}, schema=schema)
