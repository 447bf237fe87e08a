"""Routes of runs: put, look at, ask why, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from bucketline_service.api.auth import Guards
from bucketline_service.api.problems import documented
from bucketline_service.api.wire import (
    Batches,
    ImageOut,
    RanksOut,
    RunOut,
    RunsOut,
    StatsOut,
    as_json,
)
from bucketline_service.coordinator import Coordinator, RunSpec
from bucketline_service.coordinator.deal import MAX_COUNT, MAX_EPOCH
from bucketline_service.state.port import LEASE_STRIDE, Cursor

EpochQuery = Annotated[int, Query(ge=0, le=MAX_EPOCH)]


def routes(coordinator: Coordinator, guards: Guards) -> APIRouter:
    router = APIRouter(tags=["runs"])
    readers = [Depends(guards.any)]
    operators = [Depends(guards.operator)]

    @router.put(
        "/v1/runs/{run}",
        dependencies=operators,
        status_code=201,
        response_model=RunOut,
        responses={
            200: {"model": RunOut, "description": "the same spec again"},
            202: {"model": RunOut, "description": "accepted; the plan is being built"},
            **documented(401, 403, 404, 409, 413, 422, 503),
        },
    )
    async def put_run(run: str, spec: RunSpec) -> Response:
        """Open a run: a map, a plan spec and a world size. Born with generation 1 at step 0 of epoch 0."""
        created = await coordinator.runs.put(run, spec)
        about = await coordinator.answers.run(run)
        status = 202 if about["status"] == "planning" else 201 if created else 200
        return as_json(about, status)

    @router.get("/v1/runs", dependencies=readers, response_model=RunsOut, responses=documented(401, 503))
    async def list_runs() -> Response:
        return as_json({"runs": await coordinator.answers.runs()})

    @router.get(
        "/v1/runs/{run}",
        dependencies=readers,
        response_model=RunOut,
        responses=documented(401, 404, 422, 503),
    )
    async def get_run(run: str) -> Response:
        return as_json(await coordinator.answers.run(run))

    @router.get(
        "/v1/runs/{run}/stats",
        dependencies=readers,
        response_model=StatsOut,
        responses=documented(401, 404, 422, 503),
    )
    async def stats(run: str) -> Response:
        """What the plan costs: per bucket and over all, exact for every epoch (``novelai``: for the present one)."""
        return as_json(await coordinator.answers.stats(run))

    @router.get(
        "/v1/runs/{run}/ranks",
        dependencies=readers,
        response_model=RanksOut,
        responses=documented(401, 404, 422, 503),
    )
    async def ranks(run: str) -> Response:
        """Where every rank stands, and who holds it."""
        return as_json({"ranks": await coordinator.answers.ranks(run)})

    @router.get(
        "/v1/runs/{run}/images/{id:path}",
        dependencies=readers,
        response_model=ImageOut,
        responses=documented(401, 404, 422, 503),
    )
    async def image(run: str, id: str, epoch: EpochQuery | None = None) -> Response:
        """Why an image is where it is, and at which step, on which rank it comes in an epoch (the present one unless
        given). Its id may hold slashes."""
        return as_json(await coordinator.answers.image(run, id, epoch))

    @router.get(
        "/v1/runs/{run}/batches",
        dependencies=readers,
        response_model=Batches,
        responses=documented(401, 404, 422, 503),
    )
    async def batches(
        run: str,
        epoch: EpochQuery,
        step: Annotated[int, Query(ge=0, lt=2**53)],
        rank: Annotated[int, Query(ge=0, lt=LEASE_STRIDE)],
        count: Annotated[int, Query(ge=1, le=MAX_COUNT)] = 1,
        world_size: Annotated[int | None, Query(ge=1, le=LEASE_STRIDE)] = None,
    ) -> Response:
        """The plan itself: pure, moves nothing. With ``world_size``, as a job of that size is dealt each epoch."""
        found = await coordinator.delivery.batches(run, rank, Cursor(epoch, step), count, world_size)
        return as_json({"batches": found})

    @router.delete(
        "/v1/runs/{run}",
        dependencies=operators,
        status_code=204,
        responses=documented(401, 403, 404, 422, 503),
    )
    async def delete_run(run: str) -> Response:
        """Forget a run, its cursors and leases. Its map stays."""
        await coordinator.delete_run(run)
        return Response(status_code=204)

    return router
