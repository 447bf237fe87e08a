"""Responses to probes."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Status(BaseModel):
    status: str


class Health(Status):
    version: str


class Readiness(Status):
    store_risks: list[str] | None = Field(
        None, description="if there are any: why the store may lose acknowledged writes, and what to do"
    )
    map_root: str | None = Field(
        None,
        description="if there is one: ready, or unavailable (runs whose maps are local continue, others wait)",
    )
