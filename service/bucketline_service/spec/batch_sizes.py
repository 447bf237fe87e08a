"""Batch sizes of a run spec."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets.ladder_generators import MAX_SIDE
from bucketline_service.planning.plan_spec import Budget
from bucketline_service.spec.ladder_kinds import SpecModel

MAX_BATCH_SIZE = 65_536
MAX_TOKENS = 1 << 24
"""Of a pack."""

_B = TypeVar("_B", bound="BatchSizes")
_Limit = Annotated[int, Field(strict=True, ge=1, lt=2**53)]
NumImages = Annotated[int, Field(strict=True, ge=1, le=MAX_BATCH_SIZE)]
NumFrames = Annotated[int, Field(strict=True, ge=1, lt=2**31)]


class PackSpec(SpecModel):
    """Batches of images of several sizes."""

    max_tokens: Annotated[int, Field(strict=True, ge=1, le=MAX_TOKENS)] = Field(
        description="of all images of a batch together"
    )
    frame_stride: Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)] = Field(
        1, description="frames per token"
    )


class BatchSizes(SpecModel):
    """How many images a batch has: a number, for each bucket as many as a budget holds, or a pack of them."""

    batch_size: NumImages | None = Field(None, description="images per batch; or give a budget, or pack")
    pack: PackSpec | None = Field(
        None,
        description="batches are packs: images of several sizes that fill a budget of tokens. With ladder: native",
    )
    max_pixels_per_batch: _Limit | None = Field(
        None,
        description="each bucket gets as many images per batch as have at most this many pixels, over all frames",
    )
    max_tokens_per_batch: _Limit | None = Field(
        None, description="each bucket gets as many images per batch as have at most this many tokens"
    )
    max_cost_per_batch: Annotated[float, Field(strict=True, gt=0, lt=2**53)] | None = Field(
        None,
        description="each bucket gets as many images per batch as cost at most this, in the unit of cost",
    )
    latent_stride: Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)] | None = Field(
        None,
        description="side of a token in pixels: an autoencoder's stride of 8 and patches of 2 by default",
    )
    latent_frame_stride: Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)] | None = Field(
        None, description="frames per token"
    )
    min_batch_size: NumImages | None = Field(
        None, description="with a budget: the spec is refused if a bucket would have fewer images per batch"
    )
    max_batch_size: NumImages | None = Field(
        None, description="with a budget: no bucket has more images per batch"
    )
    batch_size_multiple: NumImages | None = Field(
        None, description="with a budget: batch sizes are rounded down to a multiple of this"
    )

    def with_sizes(self: _B) -> _B:
        """With a budget's defaults written out. Raises ``Invalid`` unless a batch size or one budget is given, with
        fields that go with it."""
        given = [name for name in ("batch_size", *_BUDGETS, "pack") if getattr(self, name) is not None]
        if len(given) != 1:
            what = f"must be given alone, got {' and '.join(given)}" if given else "is missing"
            hint = f"Give batch_size, or one budget: {' or '.join(_BUDGETS)}; or pack, with ladder: native"
            raise Invalid("batch_size", what, hint)
        told = {}
        for name, (owners, default) in _OF_BUDGETS.items():
            if given[0] in owners:
                told[name] = default if getattr(self, name) is None else getattr(self, name)
            elif getattr(self, name) is not None:
                raise Invalid(name, f"is not supported with {given[0]}", f"Use it with {' or '.join(owners)}")
        if told and told["min_batch_size"] > told["max_batch_size"]:
            detail = f"must be at most max_batch_size {told['max_batch_size']}, got {told['min_batch_size']}"
            raise Invalid("min_batch_size", detail, "Lower it, or raise max_batch_size")
        if told and told["max_batch_size"] % (multiple := told["batch_size_multiple"]) > (
            told["max_batch_size"] - told["min_batch_size"]
        ):
            detail = f"must have a multiple between min_batch_size {told['min_batch_size']} and "
            detail += f"max_batch_size {told['max_batch_size']}, got {multiple}"
            raise Invalid("batch_size_multiple", detail, "Use a divisor of max_batch_size")
        return self.model_copy(update=told)

    @property
    def sizes(self) -> int | Budget:
        """The batch size or budget, of a spec with its defaults written out. Not with packs."""
        if self.batch_size is not None:
            return self.batch_size
        field, limit = next((name, limit) for name in _BUDGETS if (limit := getattr(self, name)) is not None)
        return Budget(
            field,
            limit,
            self.latent_stride or 1,
            self.latent_frame_stride or 1,
            self.min_batch_size or 1,
            self.max_batch_size or MAX_BATCH_SIZE,
            self.batch_size_multiple or 1,
            is_of_cost=field == "max_cost_per_batch",
        )


_BUDGETS = ("max_pixels_per_batch", "max_tokens_per_batch", "max_cost_per_batch")
_OF_BUDGETS = {  # the budgets that a field goes with, and its default
    "latent_stride": (("max_tokens_per_batch",), 16),
    "latent_frame_stride": (("max_tokens_per_batch",), 1),
    "min_batch_size": (_BUDGETS, 1),
    "max_batch_size": (_BUDGETS, MAX_BATCH_SIZE),
    "batch_size_multiple": (_BUDGETS, 1),
}
