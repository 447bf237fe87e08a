"""The ladders of a run spec, by ``kind``: what users write of each, and how it becomes buckets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets import ladder as ladders
from bucketline_service.planning.buckets.fitted_ladder import fitted
from bucketline_service.planning.buckets.ladder import MAX_BUCKETS, MAX_SIDE, Ladder
from bucketline_service.planning.buckets.no_upscale import NoUpscale
from bucketline_service.planning.buckets.preset_ladders import PRESETS, preset

Pixels = Annotated[int, Field(strict=True, ge=1)]
Size = tuple[Pixels, Pixels]
Aspect = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NumBuckets = Annotated[int, Field(strict=True, ge=1, le=MAX_BUCKETS)]


class SpecModel(BaseModel):
    """Part of a run spec: a field that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NovelaiLadder(SpecModel):
    """The ladder of NovelAI's BucketManager: the largest bucket for each width and height within the area of
    ``max_size``."""

    kind: Literal["novelai"] = "novelai"
    max_size: Size = Field((768, 512), description="(width, height) whose area no bucket exceeds")
    divisible: Pixels = Field(64, description="sides are min_dim plus multiples of this")
    min_dim: Pixels = Field(256, description="the shortest side")
    dim_limit: Pixels = Field(1024, description="the longest side")
    base_res: Size = Field((512, 512), description="(width, height) of the catch-all bucket")

    def build(self) -> Ladder:
        return ladders.novelai(self.max_size, self.divisible, self.min_dim, self.dim_limit, self.base_res)


def _check_one_area(given: Any) -> Any:
    """Refuse a list of areas, which the words for a pair would not help with."""
    if isinstance(given, list) and len(given) > 2:
        raise PydanticCustomError(
            "resolution", 'is one side, or [width, height]; several sides are tiers: say "kind": "tiers"'
        )
    return given


class KohyaLadder(SpecModel):
    """The ladder of kohya-ss/sd-scripts' ``--enable_bucket``."""

    kind: Literal["kohya"]
    resolution: Annotated[Pixels | Size, BeforeValidator(_check_one_area)] = Field(
        (512, 512), description="a side, or (width, height); its area is the buckets'"
    )
    min_bucket_reso: Pixels = 256
    max_bucket_reso: Pixels = 1024
    bucket_reso_steps: Pixels = 64
    bucket_no_upscale: Annotated[bool, Field(strict=True)] = Field(
        False,
        description="scale no image up: the buckets are the images' own sizes rounded down to steps, those of larger "
        "images scaled to resolution's area. Not with min_bucket_reso and max_bucket_reso",
    )

    def check(self) -> None:
        """Raise ``Invalid`` for a bound that would be ignored."""
        for name in ("min_bucket_reso", "max_bucket_reso") if self.bucket_no_upscale else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                detail = "does not count with bucket_no_upscale, whose buckets are the images' own sizes"
                raise Invalid(f"ladder.{name}", detail, "Leave it out, or prune with assign.min_size")

    @property
    def rule(self) -> NoUpscale | None:
        """What chooses the bucket in place of the nearest aspect."""
        return NoUpscale.of(self.resolution, self.bucket_reso_steps) if self.bucket_no_upscale else None

    def build(self) -> Ladder:
        """Not for ``bucket_no_upscale``, whose buckets hang on the images."""
        return ladders.kohya(
            self.resolution, self.min_bucket_reso, self.max_bucket_reso, self.bucket_reso_steps
        )


class ExplicitLadder(SpecModel):
    """Just these sizes."""

    kind: Literal["explicit"]
    sizes: list[Size] = Field(
        min_length=1, max_length=MAX_BUCKETS, fail_fast=True, description="(width, height) of each bucket"
    )

    def build(self) -> Ladder:
        return ladders.explicit(self.sizes)


class GeometricLadder(SpecModel):
    """The aspect-ratio buckets of tdrussell/diffusion-pipe: evenly spaced in the logarithm, about equal in area."""

    kind: Literal["geometric"]
    min_ar: Aspect = Field(0.5, description="the least aspect, width / height")
    max_ar: Aspect = Field(2.0, description="the largest aspect")
    num_ar_buckets: NumBuckets = Field(7, description="buckets from min_ar to max_ar")
    base_res: Pixels | Size = Field(
        (512, 512), description="a side, or (width, height), whose area is the buckets'"
    )
    divisible: Pixels = Field(32, description="sides are rounded to multiples of this")

    def build(self) -> Ladder:
        return ladders.geometric(self.min_ar, self.max_ar, self.num_ar_buckets, self.base_res, self.divisible)


class PresetLadder(SpecModel):
    """A published table of sizes, by name."""

    kind: Literal["preset"]
    name: Literal["sd15", "sdxl", "pixart-512", "pixart-1024"]

    def build(self) -> Ladder:
        return preset(self.name)


class FittedLadder(SpecModel):
    """The sizes that lose the least of this map's images by cropping."""

    kind: Literal["fitted"]
    num_buckets: NumBuckets = Field(16, description="at most so many buckets")
    max_size: Size = Field((768, 512), description="(width, height) whose area no bucket exceeds")
    divisible: Pixels = Field(64, description="sides are multiples of this")
    min_dim: Pixels = Field(256, description="the shortest side")
    dim_limit: Pixels = Field(1024, description="the longest side")
    min_fill: Annotated[float, Field(strict=True, ge=0, le=1)] = Field(
        0.75, description="the least share of max_size's area, but for the longest bucket of a side"
    )

    def fit(
        self,
        widths: NDArray[np.uint32],
        heights: NDArray[np.uint32],
        counts: NDArray[np.int64] | NDArray[np.float64] | None = None,
    ) -> list[tuple[int, int]]:
        """(width, height) of each bucket, for images of these sizes; ``counts``: how many of each, or how often they
        come. Raises ``Invalid``."""
        return fitted(
            widths,
            heights,
            self.num_buckets,
            self.max_size,
            self.divisible,
            self.min_dim,
            self.dim_limit,
            self.min_fill,
            counts,
        ).sizes


TierLadder = Annotated[
    NovelaiLadder | KohyaLadder | GeometricLadder | PresetLadder | ExplicitLadder, Field(discriminator="kind")
]
MAX_TIERS = 16


class TiersLadder(SpecModel):
    """A ladder for each of several base resolutions."""

    kind: Literal["tiers"]
    resolution: Annotated[list[Pixels], Field(min_length=1, max_length=MAX_TIERS)] | None = Field(
        None,
        description="sides whose squares are the tiers' areas: kohya's ladder for each, of half to twice the side",
    )
    bucket_reso_steps: Pixels = Field(64, description="of the ladders of resolution")
    ladders: Annotated[list[TierLadder], Field(min_length=1, max_length=MAX_TIERS)] | None = Field(
        None, description="instead of resolution: the ladders themselves"
    )
    choose: Literal["highest", "every"] = Field(
        "highest",
        description="an image goes to the highest tier that it fills without upscaling, or to every tier",
    )

    def build(self) -> list[Ladder]:
        """From the lowest tier on. Raises ``Invalid``."""
        if (self.resolution is None) == (self.ladders is None):
            hint = "Give the sides of the tiers, e.g. [512, 768, 1024], or a ladder for each"
            raise Invalid("ladder.resolution", "one of resolution and ladders is to be given", hint)
        if self.resolution is not None:
            twice = {side for side in self.resolution if self.resolution.count(side) > 1}
            if twice:
                raise Invalid(
                    "ladder.resolution", f"{min(twice)} is there more than once", "Give each side once"
                )
            built = [self._kohya(side) for side in self.resolution]
        else:
            built = [self._built(index, ladder) for index, ladder in enumerate(self.ladders or ())]
        return sorted(built, key=lambda ladder: int((ladder.widths * ladder.heights).max()))

    def _built(self, index: int, ladder: TierLadder) -> Ladder:
        if isinstance(ladder, KohyaLadder) and ladder.bucket_no_upscale:
            detail = "a tier has the same buckets whatever the images are"
            hint = "Leave it out: with choose: highest only images too small for every tier are scaled up"
            raise Invalid(f"ladder.ladders.{index}.bucket_no_upscale", detail, hint)
        try:
            return ladder.build()
        except Invalid as error:
            name = error.field.removeprefix("ladder.")
            words = error.detail.removeprefix(f"{error.field}: ")
            raise Invalid(f"ladder.ladders.{index}.{name}", words) from error

    def _kohya(self, side: int) -> Ladder:
        # its bounds are not the user's, and so must not be what is wrong
        step = self.bucket_reso_steps
        if step <= MAX_SIDE and not step <= side <= MAX_SIDE // 2:
            detail = f"{side} is out of range, in steps of bucket_reso_steps {step}"
            raise Invalid("ladder.resolution", detail, f"Take sides from {step} to {MAX_SIDE // 2}")
        return ladders.kohya(side, max(side // 2, step), side * 2, step)


_KINDS: dict[str, type[SpecModel]] = {
    "novelai": NovelaiLadder,
    "kohya": KohyaLadder,
    "geometric": GeometricLadder,
    "preset": PresetLadder,
    "fitted": FittedLadder,
    "explicit": ExplicitLadder,
    "tiers": TiersLadder,
}
_DEFAULT_KIND = "novelai"
_NAMED = {
    **{kind: {"kind": kind} for kind in ("novelai", "kohya", "geometric", "fitted")},
    **{name: {"kind": "preset", "name": name} for name in PRESETS},
}
"""Ladders that a word says: kinds that need no field, and presets."""


def _kind(given: Any) -> Any:
    return given.get("kind", _DEFAULT_KIND) if isinstance(given, dict) else getattr(given, "kind", None)


def _check_kind(given: Any) -> Any:
    """Refuse what no kind of ladder can be, in words that help; the union's own would name its parts."""
    if isinstance(given, SpecModel):
        return given
    if isinstance(given, str) and given in _NAMED:
        return _NAMED[given]
    if not isinstance(given, dict):
        about = {"named": ", ".join(_NAMED), "example": '{"kind": "kohya", "resolution": 512}'}
        raise PydanticCustomError("ladder", "must be one of {named}, or an object, e.g. {example}", about)
    kind = _kind(given)
    if not isinstance(kind, str) or kind not in _KINDS:
        about = {"given": repr(kind)[:80], "kinds": ", ".join(_KINDS)}
        raise PydanticCustomError("ladder", "kind {given} is none of {kinds}", about)
    for name in given if "kind" not in given else ():
        owners = [each for each, model in _KINDS.items() if name in model.model_fields]
        if owners and _DEFAULT_KIND not in owners:
            about = {"name": name, "owners": " and ".join(owners), "owner": owners[0]}
            raise PydanticCustomError("ladder", '{name} is of kind {owners}: say "kind": "{owner}"', about)
    return given


AnyLadder = Annotated[
    Annotated[NovelaiLadder, Tag("novelai")]
    | Annotated[KohyaLadder, Tag("kohya")]
    | Annotated[GeometricLadder, Tag("geometric")]
    | Annotated[PresetLadder, Tag("preset")]
    | Annotated[FittedLadder, Tag("fitted")]
    | Annotated[ExplicitLadder, Tag("explicit")]
    | Annotated[TiersLadder, Tag("tiers")],
    Discriminator(_kind),
    BeforeValidator(_check_kind),
]
