"""What probes are answered."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Status(BaseModel):
    status: str


class Health(Status):
    version: str


class Readiness(Status):
    store_risks: list[str] | None = Field(
        None,
        description="where there are any: why the store may lose what it has acknowledged, and what would do",
    )
    map_root: str | None = Field(
        None,
        description="where there is one: ready, or unavailable (runs go on whose maps are here, others wait)",
    )
