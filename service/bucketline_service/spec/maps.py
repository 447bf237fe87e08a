"""The maps of a run spec: which maps, which of their ids, and how often their images are served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, StrictStr
from pydantic_core import PydanticCustomError

from bucketline_service.errors import Invalid
from bucketline_service.names import check_name
from bucketline_service.spec.ladder_kinds import SpecModel

MAX_REPEATS = 10_000
MAX_MAPS = 256
MAX_WEIGHT = 1e9
MAX_LISTED_IDS = 1 << 16
"""The most ids that a spec may list. They are stored with the run, and are part of every answer about it."""

_T = TypeVar("_T")
_R = TypeVar("_R", bound="Repeats")
_M = TypeVar("_M", bound="MapSpec")
_Ids = Annotated[list[_T], Field(min_length=1, max_length=MAX_LISTED_IDS, fail_fast=True)]
NumRepeats = Annotated[float, Field(strict=True, gt=0, le=MAX_REPEATS, allow_inf_nan=False)]


def _check_listed(given: Any) -> Any:
    """Refuse a list that is too long with a message that says what to do instead; pydantic's own does not."""
    if isinstance(given, list) and len(given) > MAX_LISTED_IDS:
        about = {"num": f"{len(given):,}", "most": f"{MAX_LISTED_IDS:,}"}
        told = "at most {most} ids may be listed, got {num}; put them as a map and give its name"
        raise PydanticCustomError("listed_ids", told, about)
    return given


_IntId = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
ValidIds = Annotated[_Ids[_IntId] | _Ids[StrictStr] | str, BeforeValidator(_check_listed)]


class Repeats(SpecModel):
    """How often the images of a map come in an epoch."""

    num_repeats: NumRepeats | None = Field(
        None,
        description="how often each image is served in an epoch; with 1.5, half of the images are served twice",
    )
    repeats: Annotated[float, Field(strict=True, ge=0, lt=MAX_REPEATS, allow_inf_nan=False)] | None = Field(
        None, description="additional times, as SimpleTuner counts: 0 is once. Not with num_repeats"
    )
    valid_ids: ValidIds | None = Field(
        None,
        description="use only these ids of the map: a list of at most 65,536, or the name of a map that contains them",
    )

    @property
    def times(self) -> float:
        return self.num_repeats or 1.0

    def counted(self: _R, field: str) -> _R:
        """With ``num_repeats`` written out. ``field``: the prefix of both fields' names. Raises ``Invalid``."""
        self.check_valid_ids(field)
        if self.repeats is None:
            return self.model_copy(update={"num_repeats": self.times})
        if self.num_repeats is not None:
            raise Invalid(
                f"{field}repeats",
                "must not be given together with num_repeats",
                "Give one: repeats 0 is num_repeats 1",
            )
        return self.model_copy(update={"num_repeats": self.repeats + 1.0, "repeats": None})

    def check_valid_ids(self, field: str) -> None:
        if isinstance(self.valid_ids, str):
            check_name(f"{field}valid_ids", self.valid_ids)


class MapSpec(Repeats):
    """One of several maps of a run."""

    map: str = Field(description="name of the resolution map")
    weight: Annotated[float, Field(strict=True, gt=0, le=MAX_WEIGHT, allow_inf_nan=False)] | None = Field(
        None,
        description="the map's share of the epoch, relative to the sum of all weights; all maps have one, or none",
    )

    def counted(self: _M, field: str) -> _M:
        self.check_valid_ids(field)
        return self if self.weight is not None else super().counted(field)


def check_maps(one: str | None, several: Sequence[MapSpec] | None, valid_ids: object) -> None:
    """Raise ``Invalid`` unless exactly one of ``map`` and ``maps`` is given, and the fields of the maps agree."""
    if (one is None) == (several is None):
        raise Invalid(
            "map",
            "exactly one of map and maps is required",
            'Give "map": "name", or "maps": [{"map": "name"}, …]',
        )
    if several is None:
        return
    names = [each.map for each in several]
    for index, each in enumerate(several):
        if names.index(each.map) != index:
            raise Invalid(f"maps.{index}.map", f"{each.map!r} is listed more than once", "Give each map once")
        if each.weight is None and any(other.weight is not None for other in several):
            raise Invalid(
                f"maps.{index}.weight",
                "is missing, but other maps have one",
                "Give a weight to all maps, or to none",
            )
        if each.weight is not None and (each.num_repeats is not None or each.repeats is not None):
            name = "repeats" if each.num_repeats is None else "num_repeats"
            hint = "The weight already determines how often the images are served"
            raise Invalid(f"maps.{index}.weight", f"must not be given together with {name}", hint)
    if valid_ids is not None:
        raise Invalid("valid_ids", "is ambiguous with several maps", "Give it inside maps, for each map")
