"""Routes of sessions and leases."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from bucketline_service.coordinator import Coordinator
from bucketline_service.http.auth import Guards
from bucketline_service.http.responses import as_json
from bucketline_service.http.schemas.delivery import LeaseIn, LeaseOut, SessionIn, SessionOut
from bucketline_service.http.schemas.shared import RankPath, RunPath, StateDictModel
from bucketline_service.runs.run import Run
from bucketline_service.store.port import Cursor


def routes(coordinator: Coordinator, guards: Guards) -> APIRouter:
    router = APIRouter(tags=["delivery"], route_class=guards.route, **guards.readers(404, 409, 413))
    delivery = coordinator.delivery

    @router.post("/v1/runs/{run}/sessions", summary="Start the whole job", response_model=SessionOut)
    async def start_session(run: RunPath, body: SessionIn) -> Response:
        """Begins a new generation, which fences all leases of older ones. Idempotent by ``session``."""
        resume = body.resume.to_state() if isinstance(body.resume, StateDictModel) else body.resume
        session = await coordinator.sessions.start(run, body.session, body.world_size, resume)
        costs = {
            "left_out_batches": session.left_out_batches,
            "mixed_steps": session.mixed_steps,
            "rolled_over_batches": session.rolled_over_batches,
        }
        return as_json({**_standing(session.run, session.cursor), **costs})

    @router.post("/v1/runs/{run}/ranks/{rank}/lease", summary="Take a rank's lease", response_model=LeaseOut)
    async def lease(run: RunPath, rank: RankPath, body: LeaseIn) -> Response:
        """Gives the right to move a rank's cursor, and fences an older lease of another holder."""
        leased = await delivery.lease(run, rank, body.holder, body.session)
        cursor = leased.run.sharding.normal(leased.record.cursor)
        return as_json({"lease": leased.record.lease, **_standing(leased.run, cursor)})

    return router


def _cursor(cursor: Cursor) -> dict[str, int]:
    return {"epoch": cursor.epoch, "step": cursor.step}


def _standing(run: Run, cursor: Cursor) -> dict[str, Any]:
    sharding, generation = run.sharding, run.generation
    epoch = generation.origin.epoch
    return {
        "generation": generation.number,
        "generation_id": generation.birth or None,
        "world_size": sharding.world_size,
        "cursor": _cursor(cursor),
        "num_steps": 0 if sharding.is_over(cursor) else sharding.num_steps(cursor.epoch),
        "origin": _cursor(generation.origin),
        "offset": generation.offset,
        "origin_lockstep": run.lockstep(epoch),
        "lockstep": run.lockstep(epoch + 1),
        "fingerprint": run.document.fingerprint,
    }
