"""Export of the ledger (planning/ledger.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from bucketline_service.errors import Invalid
from bucketline_service.maps import MapStore
from bucketline_service.planning.ledger import Entries, Ledger
from bucketline_service.plans.run_images import Sources
from bucketline_service.runs.registry import Runs
from bucketline_service.runs.resume import check_size
from bucketline_service.runs.run import Run
from bucketline_service.runs.sessions import Sessions
from bucketline_service.runs.table_file import Format, TableFile, id_columns, id_fields, pieces
from bucketline_service.runs.valid_ids import of_valid_ids

MAX_EPOCHS = 1000
"""The most epochs in one answer."""


class LedgerExport:
    """No export moves a cursor."""

    def __init__(self, runs: Runs, sessions: Sessions, maps: MapStore) -> None:
        self._runs = runs
        self._sessions = sessions
        self._maps = maps

    async def get(
        self, name: str, first: int | None, last: int | None, world_size: int | None, format: Format
    ) -> TableFile:
        """The ledger of epochs ``first`` (default: the present one) to ``last`` (default: ``first``), each as
        ``world_size`` ranks (default: the run's) train it from its start. Every error is raised here, before the first
        piece: ``Invalid`` if the run has no such epochs or ranks, or if they are too many."""
        run = await self._runs.open(name)
        if first is None:
            run, state = await self._sessions.state(run)
            first = min(state["epoch"], run.sharding.end_epoch - 1)
        last = first if last is None else last
        _check_epochs(run, first, last)
        if world_size is not None:
            check_size(run, world_size)
        pieces = await asyncio.to_thread(self._open, run, range(first, last + 1), world_size, format)
        return TableFile(f"{name}-epochs-{first}-{last}.{format}", format, pieces)

    def _open(self, run: Run, epochs: range, num_ranks: int | None, format: Format) -> Iterator[bytes]:
        run = run.sharded_to(num_ranks)
        plan, world_size = run.plan, run.generation.world_size
        valid = of_valid_ids(run, self._maps)
        made: dict[int, Ledger] = {}
        # all epochs have the same lockstep, except the one in which the generation began
        for epoch in (epochs[0], run.generation.origin.epoch, epochs[-1]):
            spec, planner = run.laid(epoch)
            if epoch in epochs and spec.lockstep not in made:
                made[spec.lockstep] = Ledger(
                    spec, plan.prepared, plan.sources.images, planner, world_size, valid
                )
        for each in made.values():
            each.join(made.values())
        # an epoch that cannot be planned must raise now, not in the middle of the answer
        run.laid(epochs[0]).planner.batches(epochs[0], np.empty(0, dtype=np.int64), world_size)
        always = next(iter(made.values())).always()
        entries = (entry for epoch in epochs for entry in made[run.laid(epoch).spec.lockstep].epoch(epoch))
        schema = _schema(plan.sources)
        tables = (_table(each, plan.sources, schema) for each in chain(always, entries))
        return pieces(tables, schema, format)


def _check_epochs(run: Run, first: int, last: int) -> None:
    if last < first:
        raise Invalid("to", f"must be at least from, {first}, got {last}")
    if last - first >= MAX_EPOCHS:
        detail = f"must be at most {first + MAX_EPOCHS - 1}, got {last}: one answer has up to {MAX_EPOCHS:,} epochs"
        raise Invalid("to", detail)
    if last >= run.sharding.end_epoch:
        field = "from" if first == last else "to"
        end = run.sharding.end_epoch
        raise Invalid(field, f"must be less than {end}, the number of epochs of the run, got {last}")


def _schema(sources: Sources) -> Any:
    fields = [("epoch", pa.int64()), ("what", pa.string()), ("reason", pa.string())]
    return pa.schema([*fields, *id_fields(sources), ("num", pa.int64())])


def _table(entries: Entries, sources: Sources, schema: Any) -> Any:
    num = len(entries.rows)
    columns = {
        "epoch": pa.repeat(pa.scalar(entries.epoch, pa.int64()), num),
        "what": pa.repeat(entries.what, num),
        "reason": pa.repeat(entries.reason, num),
        **id_columns(entries.rows, sources),
        "num": pa.array(entries.nums),
    }
    return pa.table(columns, schema=schema)
