"""The ladders of a run spec, by ``kind``: the fields that users write, and the buckets that follow from them.

To add a kind, write a ``LadderSpec`` and list it in ``_SIMPLE``; ``LADDERS`` and everything else derive from it.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets import ladder_generators as ladders
from bucketline_service.planning.buckets.fitted_ladder import fitted
from bucketline_service.planning.buckets.ladder_generators import MAX_BUCKETS, MAX_SIDE, Ladder
from bucketline_service.planning.buckets.no_upscale import NoUpscale, needed
from bucketline_service.planning.buckets.preset_ladders import PRESETS, preset
from bucketline_service.planning.buckets.pruning import Limits
from bucketline_service.planning.packing.native_sizes import NativeSizes

Pixels = Annotated[int, Field(strict=True, ge=1, lt=2**53)]
Size = tuple[Pixels, Pixels]
Aspect = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_Sides = NDArray[np.uint32]
_Samples = NDArray[np.float64]
if TYPE_CHECKING:
    _PresetName = str
else:
    _PresetName = Literal[tuple(PRESETS)]
MAX_LENGTHS = 64
NumBuckets = Annotated[int, Field(strict=True, ge=1, le=MAX_BUCKETS)]


class SpecModel(BaseModel):
    """Part of a run spec: a field that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LadderSpec(SpecModel):
    """One kind of ladder. A kind gives its own fields, ``kind`` among them, and either ``build`` or ``fit``,
    unless it ``is_native``."""

    kind: str

    is_word: ClassVar[bool] = False
    """Whether a spec may name the kind alone, as a text, because no field needs a value."""
    is_tier: ClassVar[bool] = True
    """Whether it may be one of several ladders of a run."""
    is_of_tiers: ClassVar[bool] = False
    """Whether it consists of several ladders, whose images must not share a batch."""
    is_native: ClassVar[bool] = False
    """Whether images keep their own sizes, so that there are no buckets."""
    lists_sizes: ClassVar[bool] = False
    """Whether a spec lists the sizes one by one."""
    smaller: ClassVar[str] = "use smaller sizes"
    """What to do so that sizes are smaller, in words; empty where that alone would not help."""

    def check(self) -> None:
        """Raise ``Invalid`` for a field that would be ignored."""

    def build(self) -> Ladder:
        """The buckets, where they do not depend on the images. Raises ``Invalid``."""
        raise NotImplementedError

    def tiers(self) -> tuple[Ladder, ...]:
        """A ladder for each base resolution, the lowest first. Raises ``Invalid``."""
        return (self.build(),)

    @property
    def depends_on_images(self) -> bool:
        """Whether ``fit`` chooses the buckets, for the run's images."""
        return False

    def fit(self, widths: _Sides, heights: _Sides, samples: _Samples, limits: Limits) -> list[ladders.Size]:
        """(width, height) of each bucket, for images of these sizes, ``widths`` and ``heights`` [N]. ``samples``
        float64[N]: how often an epoch asks for each, 0 where it never does. Raises ``Invalid``."""
        raise NotImplementedError

    @property
    def rule(self) -> NoUpscale | None:
        """What chooses the bucket of an image in place of the nearest aspect."""
        return None

    @property
    def choice(self) -> Literal["highest", "every"]:
        """Which tiers an image goes to, of those that it fills."""
        return "highest"


class NovelaiLadder(LadderSpec):
    """The ladder of NovelAI's BucketManager: the largest bucket for each width and height within the area of
    ``max_size``."""

    kind: Literal["novelai"] = "novelai"
    is_word = True
    smaller = "lower ladder.max_size"
    max_size: Size = Field((768, 512), description="(width, height) whose area no bucket exceeds")
    divisible: Pixels = Field(64, description="sides are min_dim plus multiples of this")
    min_dim: Pixels = Field(256, description="the shortest side")
    dim_limit: Pixels = Field(1024, description="the longest side")
    base_res: Size = Field((512, 512), description="(width, height) of the catch-all bucket")

    def build(self) -> Ladder:
        return ladders.novelai(self.max_size, self.divisible, self.min_dim, self.dim_limit, self.base_res)


def _check_one_area(given: Any) -> Any:
    """Refuse a list of several sides with a message that names tiers; pydantic's own speaks of a pair."""
    if isinstance(given, list) and len(given) > 2:
        raise PydanticCustomError(
            "resolution", 'must be one side, or [width, height]; for several sides use "kind": "tiers"'
        )
    return given


class KohyaLadder(LadderSpec):
    """The ladder of kohya-ss/sd-scripts' ``--enable_bucket``."""

    kind: Literal["kohya"]
    is_word = True
    smaller = ""
    resolution: Annotated[Pixels | Size, BeforeValidator(_check_one_area)] = Field(
        (512, 512), description="a side, or (width, height); no bucket exceeds its area"
    )
    min_bucket_reso: Pixels = Field(256, description="the shortest side")
    max_bucket_reso: Pixels = Field(1024, description="the longest side")
    bucket_reso_steps: Pixels = Field(64, description="sides are multiples of this")
    bucket_no_upscale: Annotated[bool, Field(strict=True)] = Field(
        False,
        description="no image is scaled up: the buckets are the images' own sizes, rounded down to steps; larger "
        "images are scaled down to the area of resolution. Not with min_bucket_reso and max_bucket_reso",
    )

    def check(self) -> None:
        for name in ("min_bucket_reso", "max_bucket_reso") if self.bucket_no_upscale else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                detail = "has no effect with bucket_no_upscale, whose buckets are the images' own sizes"
                raise Invalid(f"ladder.{name}", detail, "Leave it out, or prune with assign.min_size")

    @property
    def depends_on_images(self) -> bool:
        return self.bucket_no_upscale

    def fit(self, widths: _Sides, heights: _Sides, samples: _Samples, limits: Limits) -> list[ladders.Size]:
        assert self.rule is not None
        is_served = samples > 0  # an image that no epoch asks for needs no bucket
        return needed(self.rule, widths[is_served], heights[is_served], limits)

    @property
    def rule(self) -> NoUpscale | None:
        return NoUpscale.of(self.resolution, self.bucket_reso_steps) if self.bucket_no_upscale else None

    def build(self) -> Ladder:
        """Not with ``bucket_no_upscale``, whose buckets depend on the images."""
        return ladders.kohya(
            self.resolution, self.min_bucket_reso, self.max_bucket_reso, self.bucket_reso_steps
        )


class ExplicitLadder(LadderSpec):
    """Just these sizes."""

    kind: Literal["explicit"]
    lists_sizes = True
    smaller = "leave these sizes out of ladder.sizes"
    sizes: list[Size] = Field(
        min_length=1, max_length=MAX_BUCKETS, fail_fast=True, description="(width, height) of each bucket"
    )

    def build(self) -> Ladder:
        return ladders.explicit(self.sizes)


class GeometricLadder(LadderSpec):
    """The aspect-ratio buckets of tdrussell/diffusion-pipe: evenly spaced in the logarithm, about equal in area."""

    kind: Literal["geometric"]
    is_word = True
    smaller = "lower ladder.base_res"
    min_ar: Aspect = Field(0.5, description="the smallest aspect, width / height")
    max_ar: Aspect = Field(2.0, description="the largest aspect")
    num_ar_buckets: NumBuckets = Field(
        7, description="number of aspects from min_ar to max_ar, evenly spaced in the logarithm"
    )
    base_res: Pixels | Size = Field(
        (512, 512), description="a side, or (width, height); the buckets have about its area"
    )
    divisible: Pixels = Field(32, description="sides are rounded to multiples of this")

    def build(self) -> Ladder:
        return ladders.geometric(self.min_ar, self.max_ar, self.num_ar_buckets, self.base_res, self.divisible)


class PresetLadder(LadderSpec):
    """A published table of sizes, by name."""

    kind: Literal["preset"]
    smaller = "use a preset of smaller sizes"
    name: _PresetName = Field(description="which published table")

    def build(self) -> Ladder:
        return preset(self.name)


class FittedLadder(LadderSpec):
    """The sizes that lose the least of this map's images by cropping."""

    kind: Literal["fitted"]
    is_word = True
    is_tier = False
    smaller = "lower ladder.max_size"
    num_buckets: NumBuckets = Field(16, description="maximum number of buckets")
    max_size: Size = Field((768, 512), description="(width, height) whose area no bucket exceeds")
    divisible: Pixels = Field(64, description="sides are multiples of this")
    min_dim: Pixels = Field(256, description="the shortest side")
    dim_limit: Pixels = Field(1024, description="the longest side")
    min_fill: Annotated[float, Field(strict=True, ge=0, le=1)] = Field(
        0.75, description="the smallest share of max_size's area, except for the longest bucket of each side"
    )

    @property
    def depends_on_images(self) -> bool:
        return True

    def fit(self, widths: _Sides, heights: _Sides, samples: _Samples, limits: Limits) -> list[ladders.Size]:
        bounds = (self.max_size, self.divisible, self.min_dim, self.dim_limit, self.min_fill)
        return fitted(widths, heights, self.num_buckets, *bounds, samples).sizes


class NativeLadder(LadderSpec):
    """No buckets: every image keeps its own aspect, and is never scaled up. For packs."""

    kind: Literal["native"]
    is_word = True
    is_tier = False
    is_native = True
    smaller = "lower ladder.max_pixels"
    max_pixels: Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE**2)] = Field(
        1_048_576, description="larger images are scaled down to this many pixels"
    )
    divisible: Pixels = Field(16, description="sides are multiples of this; a token is its square")
    num_lengths: Annotated[int, Field(strict=True, ge=1, le=MAX_LENGTHS)] = Field(
        32, description="maximum number of token counts that images are rounded up to"
    )

    def check(self) -> None:
        self.sizes()

    def sizes(self) -> NativeSizes:
        """Raises ``Invalid`` naming an invalid field."""
        return NativeSizes.of(self.max_pixels, self.divisible)

    @property
    def depends_on_images(self) -> bool:
        return True


_SIMPLE = (
    NovelaiLadder,
    KohyaLadder,
    GeometricLadder,
    PresetLadder,
    FittedLadder,
    ExplicitLadder,
    NativeLadder,
)
if TYPE_CHECKING:
    TierLadder = LadderSpec
else:
    TierLadder = Annotated[
        reduce(or_, (kind for kind in _SIMPLE if kind.is_tier)), Field(discriminator="kind")
    ]
MAX_TIERS = 16


class TiersLadder(LadderSpec):
    """A ladder for each of several base resolutions."""

    kind: Literal["tiers"]
    is_tier = False
    is_of_tiers = True
    smaller = "leave the largest out of ladder.resolution, or of ladder.ladders"
    resolution: Annotated[list[Pixels], Field(min_length=1, max_length=MAX_TIERS)] | None = Field(
        None,
        description="one side per tier, whose square is its area: each has kohya's ladder, of half to twice the side",
    )
    bucket_reso_steps: Pixels = Field(64, description="with resolution: sides are multiples of this")
    ladders: Annotated[list[TierLadder], Field(min_length=1, max_length=MAX_TIERS)] | None = Field(
        None, description="instead of resolution: one ladder per tier"
    )
    choose: Literal["highest", "every"] = Field(
        "highest",
        description="an image is assigned to the highest tier that it fills without being scaled up, or to every tier",
    )

    def tiers(self) -> tuple[Ladder, ...]:
        if (self.resolution is None) == (self.ladders is None):
            hint = "Give the sides of the tiers, e.g. [512, 768, 1024], or a ladder for each"
            raise Invalid("ladder.resolution", "exactly one of resolution and ladders is required", hint)
        if self.resolution is not None:
            twice = {side for side in self.resolution if self.resolution.count(side) > 1}
            if twice:
                raise Invalid(
                    "ladder.resolution", f"{min(twice)} is listed more than once", "Give each side once"
                )
            built = [self._kohya(side) for side in self.resolution]
        else:
            built = [self._built(index, ladder) for index, ladder in enumerate(self.ladders or ())]
        return tuple(sorted(built, key=lambda ladder: int((ladder.widths * ladder.heights).max())))

    @property
    def choice(self) -> Literal["highest", "every"]:
        return self.choose

    def _built(self, index: int, ladder: TierLadder) -> Ladder:
        if ladder.rule is not None:
            detail = "is not supported in a tier, whose buckets do not depend on the images"
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
            detail = f"{side} is out of range, with bucket_reso_steps {step}"
            raise Invalid("ladder.resolution", detail, f"Use sides from {step} to {MAX_SIDE // 2}")
        return ladders.kohya(side, max(side // 2, step), side * 2, step)


LADDERS: dict[str, type[LadderSpec]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in (*_SIMPLE, TiersLadder)
}
"""All kinds, by name."""
DEFAULT_LADDER = NovelaiLadder
LADDER_WORDS: dict[str, dict[str, str]] = {
    **{kind: {"kind": kind} for kind, model in LADDERS.items() if model.is_word},
    **{name: {"kind": "preset", "name": name} for name in PRESETS},
}
"""Ladders that a spec may give as a text: kinds whose fields all have defaults, and presets."""


_DEFAULT_KIND = DEFAULT_LADDER.model_fields["kind"].default


def _kind(given: Any) -> Any:
    return given.get("kind", _DEFAULT_KIND) if isinstance(given, dict) else getattr(given, "kind", None)


def _check_kind(given: Any) -> Any:
    """Refuse what cannot be a ladder, with a message that lists the kinds; pydantic's own names the union's parts."""
    if isinstance(given, SpecModel):
        return given
    if isinstance(given, str) and given in LADDER_WORDS:
        return LADDER_WORDS[given]
    if not isinstance(given, dict):
        about = {"named": ", ".join(LADDER_WORDS), "example": '{"kind": "kohya", "resolution": 512}'}
        raise PydanticCustomError("ladder", "must be one of {named}, or an object, e.g. {example}", about)
    kind = _kind(given)
    if not isinstance(kind, str) or kind not in LADDERS:
        about = {"given": repr(kind)[:80], "kinds": ", ".join(LADDERS)}
        raise PydanticCustomError("ladder", "kind must be one of {kinds}, got {given}", about)
    for name in given if "kind" not in given else ():
        owners = [each for each, model in LADDERS.items() if name in model.model_fields]
        if owners and _DEFAULT_KIND not in owners:
            about = {"name": name, "owners": " and ".join(owners), "owner": owners[0]}
            raise PydanticCustomError(
                "ladder", '{name} is a field of kind {owners}: add "kind": "{owner}"', about
            )
    return given


if TYPE_CHECKING:
    AnyLadder = LadderSpec
else:
    AnyLadder = Annotated[
        reduce(or_, (Annotated[model, Tag(kind)] for kind, model in LADDERS.items())),
        Discriminator(_kind),
        BeforeValidator(_check_kind),
    ]
