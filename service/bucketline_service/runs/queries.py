"""What operators ask of a run: its state, its costs, its ranks, and why an image is where it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from bucketline_service.errors import Damaged, NotFound
from bucketline_service.maps import MapStore
from bucketline_service.planning.buckets.assignment import assign
from bucketline_service.planning.geometry import cover
from bucketline_service.planning.images import Chunk
from bucketline_service.planning.line.image_classes import PRUNED, ImageClassifier
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.line.units import in_service
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.plan_stats import epoch_stats
from bucketline_service.runs.progress import epoch_progress, mean_rate
from bucketline_service.runs.registry import STATUS_WAIT_S, Run, Runs
from bucketline_service.runs.run_document import RunDocument
from bucketline_service.runs.sessions import Sessions
from bucketline_service.runs.sharding import Sharding
from bucketline_service.runs.valid_ids import of_valid_ids
from bucketline_service.store.port import Cursor, Generation, RankRecord

_FIELDS = (
    *("progress", "fingerprint", "spec", "map_digests", "created_at"),
    *("generation", "session", "world_size", "num_steps", "state", "last_seen", "epoch_progress"),
)


class Queries:
    """Reading only: no cursor moves. Answers are JSON-able."""

    def __init__(self, runs: Runs, sessions: Sessions, maps: MapStore, clock: Callable[[], float]) -> None:
        self._runs = runs
        self._sessions = sessions
        self._maps = maps
        self._clock = clock

    async def run(self, name: str) -> dict[str, Any]:
        document, record = await self._runs.read(name)
        generation, state, num_steps = record.generation, None, None
        last_seen_s, progress = None, None
        status, detail = await self._runs.status(name, document)
        if status == "ready":
            run, records = await self._runs.with_ranks(await self._runs.open(name))
            state, last_seen_s = self._sessions.standing(run, records)
            progress = epoch_progress(run, records, self._clock())
            document, generation = run.document, run.generation
            over = run.sharding.is_over(_cursor(state))
            num_steps = 0 if over else run.sharding.num_steps(state["epoch"])
        return {
            "run": name,
            "status": status,
            "detail": detail,
            "progress": self._runs.progress(document) if status == "planning" else None,
            **_kept(document),
            **_about(generation),
            "num_steps": num_steps,
            "state": state,
            "last_seen": last_seen_s,
            "epoch_progress": progress,
        }

    async def runs(self) -> list[dict[str, Any]]:
        found = []
        for name in await self._runs.names():
            try:
                found.append(await self.run(name))
            except NotFound:  # deleted since it was listed
                continue
            except Damaged as error:
                found.append(await self._damaged(name, error))
        return found

    async def _damaged(self, name: str, error: Damaged) -> dict[str, Any]:
        """As ``run``, with what can be read."""
        about: dict[str, Any] = dict.fromkeys(_FIELDS)
        with suppress(Damaged, NotFound):
            record = await self._runs.store.read_run(name)
            about |= _about(record.generation)
            about |= _kept(RunDocument.decode(name, record.document))
        return {**about, "run": name, "status": "failed", "detail": error.detail}

    async def stats(self, name: str) -> dict[str, Any]:
        return await self.stats_of(*await self.present(name))

    async def present(self, name: str) -> tuple[Run, int]:
        """The run, and the slowest rank's epoch."""
        run, state = await self._sessions.state(await self._runs.open(name))
        return run, min(state["epoch"], run.sharding.end_epoch - 1)

    async def stats_of(self, run: Run, epoch: int) -> dict[str, Any]:
        return await asyncio.to_thread(_stats, run, epoch)

    async def ranks(self, name: str) -> list[dict[str, Any]]:
        """Every rank of the present generation, by rank; those that never took a lease stand at the origin."""
        run, records = await self._runs.with_ranks(await self._runs.open(name, STATUS_WAIT_S))
        generation, sharding = run.generation, run.sharding
        held = {record.rank: record for record in records}

        def tell() -> list[dict[str, Any]]:
            cursors = [record.cursor for record in records] or [generation.origin]
            leader = max(sharding.normal(cursor) for cursor in cursors)
            return [_rank(sharding, rank, held.get(rank), leader) for rank in range(generation.world_size)]

        # in a thread: there may be thousands of ranks, and epochs whose steps have to be counted
        return await asyncio.to_thread(tell)

    async def image(
        self, name: str, image_id: int | str, epoch: int | None, map_name: str | None = None
    ) -> dict[str, Any]:
        run = await self._runs.open(name)
        if epoch is None:
            run, state = await self._sessions.state(run)
            epoch = min(state["epoch"], run.sharding.end_epoch - 1)
        row = run.plan.sources.find(image_id, map_name)
        run.sharding.check_exists("", Cursor(epoch, 0))
        return await asyncio.to_thread(_image, run, self._maps, row, epoch)


def _kept(document: RunDocument) -> dict[str, Any]:
    return {
        "fingerprint": document.fingerprint,
        "spec": document.spec.to_json(),
        "map_digests": document.map_digests,
        "created_at": document.created_at_s,
    }


def _about(generation: Generation) -> dict[str, Any]:
    return {
        "generation": generation.number,
        "session": generation.session,
        "world_size": generation.world_size,
    }


def _cursor(state: Any) -> Cursor:
    return Cursor(state["epoch"], state["step"])


def _stats(run: Run, epoch: int) -> dict[str, Any]:
    """As an epoch is dealt from its start to the present generation's ranks."""
    plan, laid, world_size = run.plan, run.laid(epoch), run.generation.world_size
    told = epoch_stats(laid.spec, plan.prepared, plan.sources.images, laid.planner, epoch, world_size)
    for name, share in zip(plan.sources.names, told["maps"], strict=True):
        share["map"] = name
    return {
        "run": run.name,
        "fingerprint": run.document.fingerprint,
        "planner": plan.spec.planner,
        "tails": plan.spec.tails,
        "epoch": epoch,
        "world_size": world_size,
        "lockstep": run.lockstep(epoch),
        **told,
    }


def _rank(sharding: Sharding, rank: int, record: RankRecord | None, leader: Cursor) -> dict[str, Any]:
    cursor = sharding.normal(record.cursor if record else sharding.origin)
    about: dict[str, Any] = {
        "rank": rank,
        "epoch": cursor.epoch,
        "step": cursor.step,
        "holder": None,
        "last_seen": None,
        "steps_behind": sharding.distance(cursor, leader),
        "batches_per_s": None,
    }
    if record is None:
        return about
    about.update(holder=record.holder or None, last_seen=record.last_seen_s)
    about["batches_per_s"] = mean_rate(sharding, record)
    return about


def _image(run: Run, maps: MapStore, row: int, epoch: int) -> dict[str, Any]:
    plan = run.plan
    spec, sources = plan.spec, plan.sources
    chunk = sources.images.read(row, row + 1)
    width, height = int(chunk.widths[0]), int(chunk.heights[0])
    sorter = ImageClassifier(spec, sources.images)
    keys, reasons = sorter.keys(chunk)
    reason = PRUNED[int(reasons[0]) - 1] if reasons[0] else None
    found = plan.prepared.find(sorter, sources.images, row)
    if found is None:
        valid = of_valid_ids(run, maps)
        if valid is not None and not valid(np.array([row]))[0]:
            reason = "valid_ids"
    samples = float(plan.prepared.groups.samples[found[0]]) if found else 0.0
    ways = sorter.ways(int(keys[0])) if found else []
    # pruned images too are told their nearest bucket and what it would cost
    bucket = ways[0][0] if ways else _nearest(spec, chunk)
    num_frames = int(chunk.num_frames[0]) if chunk.num_frames is not None else 1
    served = _comings(run, row, epoch, width, height) if ways else []
    return {
        "id": sources.ids(np.array([row]))[0],
        "map": sources.map_names(np.array([row]))[0],
        "width": width,
        "height": height,
        "num_frames": num_frames if spec.frame_buckets else None,
        "aspect": width / height,
        "bucket": bucket if ways else None,
        "buckets": [{"bucket": each, "num_samples": (end - begin) * samples} for each, begin, end in ways],
        "pruned": reason,
        "nearest": _fitted(spec, bucket, width, height),
        "epoch": epoch,
        "served": served,
        "left_out": _left_out(run, sorter, row, epoch, [bucket for bucket, _, _ in ways], served)
        if ways
        else None,
    }


def _left_out(
    run: Run, sorter: ImageClassifier, row: int, epoch: int, buckets: list[int], served: list[dict[str, Any]]
) -> str | None:
    """Why an image does not come as often in the epoch as it might, in the words of the ledger: ``not_drawn``, where
    it comes less than once an epoch and this is not one of its epochs. None where it does."""
    plan, sharding = run.plan, run.sharding
    num_asked = plan.planner.num_asked(epoch, row)
    if not num_asked:
        return "not_drawn"
    if not run.spec.planner_kind.has_units:
        return None if served else "last_step"
    portions = SampleQuotas.of(sorter, plan.prepared.groups, plan.spec.num_buckets)
    if not in_service(run.laid(epoch).spec, portions)[buckets].any():
        return "small_bucket"
    if sum(not each["repeat"] for each in served) < num_asked:
        return "tail"
    end = sharding.consumed(Cursor(epoch, sharding.num_steps(epoch)))
    return "last_step" if any(each["position"] >= end for each in served) else None


def _nearest(spec: PlanSpec, chunk: Chunk) -> int:
    """The bucket of the first section that the image comes to without limits: where none is its own, that of the
    nearest aspect."""
    for rule in (spec.no_upscale, None):
        found = assign(
            chunk.widths,
            chunk.heights,
            spec.ladder,
            metric=spec.metric,
            no_upscale=rule,
            same_aspect=spec.same_aspect,
        )
        bucket = int(found.buckets[0])
        if bucket >= 0:
            break
    return bucket


def _fitted(spec: PlanSpec, bucket: int, width: int, height: int) -> dict[str, Any]:
    target_width, target_height = spec.targets[bucket]
    fit = cover(width, height, target_width, target_height)
    return {
        "bucket": bucket,
        "width": target_width,
        "height": target_height,
        "aspect_error": abs(width / height - float(spec.aspects[bucket])),
        **fit._asdict(),
    }


def _comings(run: Run, row: int, epoch: int, width: int, height: int) -> list[dict[str, Any]]:
    """Where the image comes in the epoch. ``step`` and ``rank`` are null where another generation dealt it, or where it
    is in the rest that does not fill a step of all ranks."""
    sharding = run.sharding
    found = []
    for place in sharding.planner_of(epoch).locate(epoch, row, sharding.world_size):
        at = sharding.step_of(epoch, place.position) if epoch >= sharding.origin.epoch else None
        target_width, target_height = run.plan.spec.targets[place.bucket]
        fit = cover(width, height, target_width, target_height)
        found.append(
            {
                "step": at[0] if at else None,
                "rank": at[1] if at else None,
                "position": place.position,
                "slot": place.slot,
                "bucket": place.bucket,
                "width": target_width,
                "height": target_height,
                **fit._asdict(),
                "repeat": place.repeat,
            }
        )
    return found
