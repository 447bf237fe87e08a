"""The costs of a run spec, by ``kind``: what batches are compared by.

To add a kind, write a ``CostSpec`` and list it in ``COSTS``, and the ``BatchCost`` that it builds.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from bucketline_service.errors import Invalid
from bucketline_service.planning.batch_cost import (
    BatchCost,
    MeasuredCost,
    PixelCost,
    Timing,
    TransformerCost,
)
from bucketline_service.planning.buckets.ladder_generators import MAX_SIDE
from bucketline_service.spec.batch_sizes import NumFrames, NumImages
from bucketline_service.spec.ladder_kinds import SpecModel

MAX_TIMINGS = 4_096
_Side = Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)]
# bounds within which no product or square of a fit leaves the range of a float
_Seconds = Annotated[float, Field(strict=True, ge=1e-9, le=1e9)]


class CostSpec(SpecModel):
    """One kind of cost. A kind gives its own fields, ``kind`` among them, and ``build``."""

    kind: str
    knows_packs: ClassVar[bool] = True
    """Whether it compares packs too."""

    def build(self) -> BatchCost:
        """Raises ``Invalid``."""
        raise NotImplementedError


class PixelsCostSpec(CostSpec):
    """The pixels of a batch; of a pack, which has about as many as any other, the sum of the squares of its lengths in
    tokens."""

    kind: Literal["pixels"] = "pixels"

    def build(self) -> BatchCost:
        return PixelCost()


class TransformerCostSpec(CostSpec):
    """The work of a transformer with full attention."""

    kind: Literal["transformer"]
    hidden_size: Annotated[int, Field(strict=True, ge=1, le=1_048_576)] = Field(
        description="width of the model's layers: the larger, the less attention weighs"
    )
    stride: _Side = Field(
        16, description="side of a token in pixels: an autoencoder's stride of 8 and patches of 2"
    )
    frame_stride: _Side = Field(1, description="frames per token")

    def build(self) -> BatchCost:
        return TransformerCost(self.hidden_size, self.stride, self.frame_stride)


class TimingSpec(SpecModel):
    """How long a step took on a batch of one shape."""

    width: _Side = Field(description="of the bucket, in pixels")
    height: _Side = Field(description="of the bucket, in pixels")
    num_frames: NumFrames = Field(1, description="frames of each clip")
    batch_size: NumImages = Field(description="images of the batch")
    seconds: _Seconds = Field(description="how long the step took")

    def build(self) -> Timing:
        """The same for the planner."""
        return Timing(self.width, self.height, self.num_frames, self.batch_size, self.seconds)


class MeasuredCostSpec(CostSpec):
    """Seconds that steps took."""

    kind: Literal["measured"]
    knows_packs = False
    seconds: Annotated[list[TimingSpec], Field(min_length=1, max_length=MAX_TIMINGS, fail_fast=True)] = Field(
        description="how long a step took at each shape, as bucketline.torch.measure_cost finds it"
    )

    def build(self) -> BatchCost:
        rows = [row.build() for row in self.seconds]
        first: dict[tuple[int, ...], int] = {}
        for index, row in enumerate(rows):
            batch = (row.width, row.height, row.num_frames, row.batch_size)
            if batch in first:
                detail = f"this shape and batch_size is timed in row {first[batch]} already"
                raise Invalid(
                    f"cost.seconds.{index}", detail, "Give each once, such as the median of several"
                )
            first[batch] = index
        return MeasuredCost(tuple(sorted(rows)))


COSTS: dict[str, type[CostSpec]] = {
    PixelCost.kind: PixelsCostSpec,
    TransformerCost.kind: TransformerCostSpec,
    MeasuredCost.kind: MeasuredCostSpec,
}
"""All kinds, by name."""


def _kind(given: Any) -> Any:
    return given.get("kind") if isinstance(given, dict) else getattr(given, "kind", None)


if TYPE_CHECKING:
    AnyCost = CostSpec
else:
    AnyCost = Annotated[
        reduce(or_, (Annotated[model, Tag(kind)] for kind, model in COSTS.items())),
        Discriminator(
            _kind,
            custom_error_type="cost",
            custom_error_message=f"must be an object whose kind is one of {', '.join(COSTS)}",
        ),
    ]
