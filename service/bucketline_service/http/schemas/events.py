"""Events, as they go out."""

from __future__ import annotations

from pydantic import BaseModel, Field

from bucketline_service.event_kinds import KEPT_EVENTS


class EventFields(BaseModel):
    """Which fields an event has depends on its name."""

    version: str | None = Field(None, description="coordinator_started: of the coordinator")
    map: str | None = Field(None, description="map_put, map_deleted")
    num_images: int | None = Field(
        None, description="map_put; images_reported: how many images the last call reported"
    )
    reason: str | None = Field(None, description="images_reported: of most of these images")
    num_reported: int | None = Field(
        None, description="images_reported: how many images of the run have been reported by now"
    )
    digest: str | None = Field(None, description="map_put")
    maps: str | None = Field(None, description="run_put: of the run, separated by commas")
    planner: str | None = Field(None, description="run_put")
    world_size: int | None = Field(None, description="run_put, session_begun")
    took_s: float | None = Field(None, description="run_planned: null if the plan already existed")
    session: str | None = Field(None, description="session_begun; fenced: that of the caller")
    generation: int | None = Field(
        None,
        description="session_begun, lease_given, fenced: the current one; store_lost_state: the lost one",
    )
    epoch: int | None = Field(None, description="session_begun, lease_adopted: of the cursor")
    step: int | None = Field(None, description="session_begun, lease_adopted: of the cursor")
    holder: str | None = Field(None, description="lease_given: the new one")
    num_ranks: int | None = Field(None, description="if one event stands for many ranks")
    lasted_s: float | None = Field(None, description="store_back: how long the store was unavailable")
    detail: str | None = Field(
        None, description="run_failed, store_unavailable, store_at_risk, map_root_unavailable: why"
    )


class EventOut(BaseModel):
    id: int = Field(description="larger than those of all earlier events")
    at: float = Field(description="Unix seconds; the last of several")
    since: float = Field(description="Unix seconds; the first of several")
    event: str = Field(json_schema_extra={"enum": [*KEPT_EVENTS]})
    run: str | None
    rank: int | None
    count: int = Field(description="how many events this one stands for")
    fields: EventFields
    replica: str = Field(description="host of the coordinator that logged it")
    pid: int = Field(description="process id of that coordinator")


class EventsOut(BaseModel):
    events: list[EventOut] = Field(description="newest first")
