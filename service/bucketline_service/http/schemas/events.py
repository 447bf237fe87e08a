"""Events, as they go out."""

from __future__ import annotations

from pydantic import BaseModel, Field

from bucketline_service.events import KEPT_EVENTS


class EventFields(BaseModel):
    """Which are there depends on the event."""

    version: str | None = Field(None, description="coordinator_started: of the coordinator")
    map: str | None = Field(None, description="map_put, map_deleted")
    num_images: int | None = Field(None, description="map_put")
    digest: str | None = Field(None, description="map_put")
    maps: str | None = Field(None, description="run_put: of the run, with commas between them")
    planner: str | None = Field(None, description="run_put")
    world_size: int | None = Field(None, description="run_put, session_begun")
    took_s: float | None = Field(None, description="run_planned: null where the plan was there already")
    session: str | None = Field(None, description="session_begun; fenced: the one that asked")
    generation: int | None = Field(
        None,
        description="session_begun, lease_given, fenced: the present one; store_lost_state: the lost one",
    )
    epoch: int | None = Field(None, description="session_begun, lease_adopted: of the cursor")
    step: int | None = Field(None, description="session_begun, lease_adopted: of the cursor")
    holder: str | None = Field(None, description="lease_given: the new one")
    num_ranks: int | None = Field(None, description="where one event tells of many ranks")
    lasted_s: float | None = Field(None, description="store_back: how long the store was gone")
    detail: str | None = Field(
        None, description="run_failed, store_unavailable, store_at_risk, map_root_unavailable: why"
    )


class EventOut(BaseModel):
    id: int = Field(description="larger than those of all that were told before")
    at: float = Field(description="Unix seconds; of several, the last")
    since: float = Field(description="Unix seconds; of several, the first")
    event: str = Field(json_schema_extra={"enum": [*KEPT_EVENTS]})
    run: str | None
    rank: int | None
    count: int = Field(description="how often it came; of a fence and the like, several may be told as one")
    fields: EventFields
    replica: str = Field(description="host of the coordinator that tells it")
    pid: int = Field(description="its process there")


class EventsOut(BaseModel):
    events: list[EventOut] = Field(description="newest first")
