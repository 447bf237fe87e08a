"""Routes of runs: put, get, delete, and what their plans hold and cost."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Path, Query, Response

from bucketline_service.coordinator import Coordinator, RunSpec
from bucketline_service.errors import Invalid
from bucketline_service.http.auth import Guards
from bucketline_service.http.browser_headers import DATA
from bucketline_service.http.responses import as_json, as_list
from bucketline_service.http.schemas.delivery import Batches
from bucketline_service.http.schemas.plan_costs import StatsOut
from bucketline_service.http.schemas.runs import ImageOut, RanksOut, RunOut, RunsOut
from bucketline_service.http.schemas.shared import RunPath
from bucketline_service.planning.planner_port import MAX_EPOCH
from bucketline_service.runs.batch_documents import INCLUDES, Include, Includes
from bucketline_service.runs.sharding import MAX_COUNT
from bucketline_service.store.port import MAX_WORLD_SIZE, Cursor

EpochQuery = Annotated[int, Query(ge=0, le=MAX_EPOCH, description="the epoch, from 0")]
EpochOrPresentQuery = Annotated[
    int | None, Query(ge=0, le=MAX_EPOCH, description="the epoch, from 0, by default the current one")
]
MapQuery = Annotated[str | None, Query(max_length=256, description="which map, if several have the id")]
StepQuery = Annotated[int, Query(ge=0, lt=2**53, description="the first step, from 0 in each epoch")]
RankQuery = Annotated[int, Query(ge=0, lt=MAX_WORLD_SIZE, description="the rank whose batches")]
CountQuery = Annotated[int, Query(ge=1, le=MAX_COUNT, description="how many batches, one per step")]
WorldSizeQuery = Annotated[
    int | None,
    Query(
        ge=1,
        le=MAX_WORLD_SIZE,
        description="how many ranks each epoch is sharded over, by default those of the run",
    ),
]
ForceQuery = Annotated[
    bool, Query(description="delete it although ranks were seen in the last minute; their workers fail")
]
IncludeQuery = Annotated[
    str | None,
    Query(
        max_length=256,
        description=f"what batches include in addition, separated by commas: {', '.join(INCLUDES)}",
        # only for OpenAPI: the error of _includes is more helpful than that of a pattern
        json_schema_extra={"pattern": "^({0})(,({0}))*$".format("|".join(INCLUDES))},
    ),
]


def routes(coordinator: Coordinator, guards: Guards) -> APIRouter:
    router = APIRouter(tags=["runs"], route_class=guards.route)
    _add_writing(router, coordinator, guards)
    _add_reading(router, coordinator, guards)
    return router


def _add_writing(router: APIRouter, coordinator: Coordinator, guards: Guards) -> None:
    also: dict[int | str, Any] = {
        200: {"model": RunOut, "description": "the same spec again"},
        202: {"model": RunOut, "description": "accepted; the plan is being built"},
    }
    puts, deletes = guards.operators(404, 409, 413, also=also), guards.operators(404, 409)

    @router.put("/v1/runs/{run}", summary="Put a run", status_code=201, response_model=RunOut, **puts)
    async def put_run(run: RunPath, spec: RunSpec) -> Response:
        """A map, a plan spec and a world size. The run starts with generation 1 at step 0 of epoch 0. Another spec
        under an existing name is a conflict. ``warnings`` says what of the plan would surprise, and what to do."""
        created = await coordinator.put_run(run, spec)
        about = await coordinator.queries.put_run(run)
        status = 202 if about["status"] == "planning" else 201 if created else 200
        return as_json(about, status)

    @router.delete("/v1/runs/{run}", summary="Delete a run", status_code=204, **deletes)
    async def delete_run(run: RunPath, force: ForceQuery = False) -> Response:
        """Forget a run, its cursors and leases. Its map stays. A conflict while ranks are at work, unless forced."""
        await coordinator.delete_run(run, force=force)
        return Response(status_code=204, headers=DATA)


def _add_reading(router: APIRouter, coordinator: Coordinator, guards: Guards) -> None:
    """Runs, the progress of their ranks, and what their plans hold and cost."""
    queries = coordinator.queries
    reads = guards.readers(404, 409)

    @router.get("/v1/runs", summary="List all runs", response_model=RunsOut, **guards.readers())
    async def list_runs() -> Response:
        """All runs by name. A run whose record in the store is damaged is ``failed``."""
        return as_json({"runs": await queries.runs()})

    @router.get("/v1/runs/{run}", summary="Get a run", response_model=RunOut, **reads)
    async def get_run(run: RunPath) -> Response:
        """Its spec with every default, its status, and the state dict at the slowest rank's cursor."""
        return as_json(await queries.run(run))

    @router.get("/v1/runs/{run}/ranks", summary="List the ranks of a run", response_model=RanksOut, **reads)
    async def ranks(run: RunPath) -> Response:
        """Each rank's cursor and holder, how far it is behind the leader, and its speed."""
        return as_json({"ranks": await queries.ranks(run)})

    @router.get("/v1/runs/{run}/stats", summary="Get what a plan costs", response_model=StatsOut, **reads)
    async def stats(run: RunPath) -> Response:
        """What an epoch costs, by bucket and in total: that of the slowest rank. Others differ in what is left out."""
        return as_json(await queries.stats(run))

    @router.get(
        "/v1/runs/{run}/images/{id:path}",
        summary="Explain an image's place",
        response_model=ImageOut,
        **reads,
    )
    async def image(
        run: RunPath,
        id: Annotated[str, Path(description="the image's id in the map; it may contain slashes")],
        epoch: EpochOrPresentQuery = None,
        map: MapQuery = None,
    ) -> Response:
        """Its bucket or why it is pruned, and at which steps and ranks an epoch serves it."""
        return as_json(await queries.image(run, id, epoch, map))

    @router.get("/v1/runs/{run}/batches", summary="Read the plan itself", response_model=Batches, **reads)
    async def batches(
        run: RunPath,
        epoch: EpochQuery,
        step: StepQuery,
        rank: RankQuery,
        count: CountQuery = 1,
        world_size: WorldSizeQuery = None,
        include: IncludeQuery = None,
    ) -> Response:
        """Batches of a rank, read without moving its cursor. With ``world_size``, as each epoch is sharded over that
        many ranks."""
        start, besides = Cursor(epoch, step), _includes(include)
        found, num_steps = await coordinator.delivery.batches(run, rank, start, count, world_size, besides)
        return as_json({"batches": as_list(found), "num_steps": num_steps})


def _includes(given: str | None) -> Includes:
    words = [] if given is None else given.split(",")
    for word in words:
        if word not in INCLUDES:
            raise Invalid("include", f"must be of {', '.join(INCLUDES)}, got {word[:80]!r}")
    return frozenset(cast("list[Include]", words))
