"""What a batch costs its rank: pixels, the work of a transformer, or seconds that a training has measured.

Costs compare the batches of one run with each other, so each kind has its own unit. Every kind is computed from single
operations on float64, whose order is fixed, and ``math.fsum``: two machines that plan the same run get the same bits,
and so put the same batches into one step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

_I64 = NDArray[np.int64]
_F64 = NDArray[np.float64]

PIXELS_PER_TOKEN = 256
"""Of ``MeasuredCost``, which does not know the model's patches: 16 x 16 pixels of one frame, as of an autoencoder's
stride of 8 and patches of 2."""


class Shapes(NamedTuple):
    """Sizes of images as served: ``widths`` and ``heights`` int64[G] in pixels, ``frames`` int64[G]."""

    widths: _I64
    heights: _I64
    frames: _I64

    @property
    def pixels(self) -> _F64:
        """float64[G]: of one image, over all frames. Exact below 2^53."""
        return self.widths.astype(np.float64) * self.heights * self.frames

    def tokens(self, stride: int, frame_stride: int) -> _F64:
        """float64[G]: of one image, ``stride`` x ``stride`` pixels of ``frame_stride`` frames each; a part of a token
        counts as one."""
        columns, rows = -(-self.widths // stride), -(-self.heights // stride)
        return columns.astype(np.float64) * rows * -(-self.frames // frame_stride)


@dataclass(frozen=True)
class BatchCost(ABC):
    """One kind of cost. The fields of a kind are part of a plan's fingerprint."""

    kind: ClassVar[str]
    """Its name in the run spec."""

    @abstractmethod
    def of(self, shapes: Shapes, batch_sizes: _I64) -> _F64:
        """float64[G]: the cost of batches of ``batch_sizes`` int64[G] images. Positive, and never less for a larger
        batch of the same shape."""

    def of_lengths(self, tokens: _F64) -> _F64:
        """float64[S]: the cost of an image in a slot of ``tokens`` float64[S], of a pack. Packs of one budget have
        about as many pixels each, so that attention is what they differ in: by default the square of the tokens."""
        return tokens * tokens


@dataclass(frozen=True)
class PixelCost(BatchCost):
    """Pixels of all frames."""

    kind = "pixels"

    def of(self, shapes: Shapes, batch_sizes: _I64) -> _F64:
        return shapes.pixels * batch_sizes


@dataclass(frozen=True)
class TransformerCost(BatchCost):
    """``S + S^2 / (6 * hidden_size)`` for each image of S tokens: the work of a transformer with full attention, in
    units of what one token costs without it.

    For each token a layer does 24 ``hidden_size``^2 floating-point operations with its weights and 4 S ``hidden_size``
    in attention to S tokens; the backward pass and more layers multiply both alike. The ratio S / (6 h) is that of
    Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM" (2021), 5.1.
    """

    kind = "transformer"
    hidden_size: int
    stride: int = 16
    frame_stride: int = 1

    def of(self, shapes: Shapes, batch_sizes: _I64) -> _F64:
        tokens = shapes.tokens(self.stride, self.frame_stride)
        return self.of_lengths(tokens) * batch_sizes

    def of_lengths(self, tokens: _F64) -> _F64:
        return tokens + tokens * tokens / (6.0 * self.hidden_size)


class Timing(NamedTuple):
    """``seconds`` that a training step took on a batch of one shape."""

    width: int
    height: int
    num_frames: int
    batch_size: int
    seconds: float


class Fit(NamedTuple):
    """``batch_size * (linear * S + quadratic * S^2)`` seconds for a batch of images with S tokens. Neither is negative,
    and one is positive."""

    linear: float
    quadratic: float


@dataclass(frozen=True)
class MeasuredCost(BatchCost):
    """Seconds of a step. ``timings``: at least one, no two of the same shape and batch size, in ascending order.

    A batch that was timed costs what it took, or what a smaller batch of its shape took if that was slower. Batch sizes
    between two timed ones of a shape are interpolated; those outside are in proportion to the nearest. Shapes that were
    not timed have the fitted cost.
    """

    kind = "measured"
    timings: tuple[Timing, ...]

    def of(self, shapes: Shapes, batch_sizes: _I64) -> _F64:
        tokens = shapes.pixels / PIXELS_PER_TOKEN
        costs: _F64 = (tokens * self.fit.linear + tokens * tokens * self.fit.quadratic) * batch_sizes
        sides = zip(*(side.tolist() for side in shapes), strict=True)
        curves = np.array([self._curve_of.get(shape, -1) for shape in sides], dtype=np.int64)
        is_timed = curves >= 0
        costs[is_timed] = self._interpolated(curves[is_timed], batch_sizes[is_timed])
        return costs

    @cached_property
    def fit(self) -> Fit:
        """The least squares of the relative errors, ``fitted / seconds - 1``, with neither number below 0. With shapes
        of one number of tokens only, the quadratic part is 0.

        As a regression of seconds per token on tokens, centred at their weighted mean, so that the ladders of one area,
        whose S hardly differ, lose no digits.
        """
        tokens = [t.width * t.height * t.num_frames / PIXELS_PER_TOKEN for t in self.timings]
        # tokens a second: a fitted cost c per token has the relative error rate * c - 1
        rates = [s * t.batch_size / t.seconds for s, t in zip(tokens, self.timings, strict=True)]
        weights = [rate * rate for rate in rates]
        flat = math.fsum(rates) / math.fsum(weights)
        if len(set(tokens)) == 1:
            return Fit(flat, 0.0)
        mean = math.fsum(w * s for w, s in zip(weights, tokens, strict=True)) / math.fsum(weights)
        offsets = [s - mean for s in tokens]
        slope = math.fsum(rate * d for rate, d in zip(rates, offsets, strict=True))
        slope /= math.fsum(w * d * d for w, d in zip(weights, offsets, strict=True))
        if slope < 0:
            return Fit(flat, 0.0)
        if flat - slope * mean < 0:
            steep = [rate * s for rate, s in zip(rates, tokens, strict=True)]
            return Fit(0.0, math.fsum(steep) / math.fsum(each * each for each in steep))
        return Fit(flat - slope * mean, slope)

    @cached_property
    def _curve_of(self) -> dict[tuple[int, int, int], int]:
        """A number for each timed (width, height, frames)."""
        return {shape: at for at, shape in enumerate(dict.fromkeys(timing[:3] for timing in self.timings))}

    @cached_property
    def _points(self) -> tuple[_I64, _I64, _F64]:
        """[K] of each timing, by curve and batch size: its curve, its batch size, and its cost in seconds."""
        curves = np.array([self._curve_of[timing[:3]] for timing in self.timings], dtype=np.int64)
        sizes = np.array([timing.batch_size for timing in self.timings], dtype=np.int64)
        costs = np.array([timing.seconds for timing in self.timings], dtype=np.float64)
        for at in range(1, len(costs)):
            if curves[at] == curves[at - 1]:
                costs[at] = max(costs[at], costs[at - 1])
        return curves, sizes, costs

    def _interpolated(self, of: _I64, batch_sizes: _I64) -> _F64:
        """float64[N]: the cost of ``batch_sizes`` int64[N] on the curves ``of`` int64[N]."""
        curves, sizes, costs = self._points
        base = int(max(sizes.max(), batch_sizes.max(initial=0))) + 1
        above = np.searchsorted(curves * base + sizes, of * base + batch_sizes, side="right")
        below = np.maximum(above - 1, 0)
        above = np.minimum(above, len(curves) - 1)
        has_below = (curves[below] == of) & (sizes[below] <= batch_sizes)
        has_above = (curves[above] == of) & (sizes[above] > batch_sizes)
        nearest = np.where(has_below, below, above)
        scaled = costs[nearest] * (batch_sizes / sizes[nearest])
        is_between = has_below & has_above
        gaps = np.where(is_between, sizes[above] - sizes[below], 1)
        between = costs[below] + (costs[above] - costs[below]) * ((batch_sizes - sizes[below]) / gaps)
        found: _F64 = np.where(is_between, between, scaled)
        return found


def most_images(cost: BatchCost, shapes: Shapes, limit: float, most: _I64) -> _I64:
    """int64[G]: how many images of each shape a batch may have so that it costs at most ``limit``: 0 to ``most``
    int64[G]. By bisection, because a batch never costs less than a smaller one."""
    fits, too_many = np.zeros_like(most), most + 1
    while (too_many - fits > 1).any():
        middle = np.maximum((fits + too_many) // 2, 1)
        is_within = cost.of(shapes, middle) <= limit
        is_open = too_many - fits > 1
        fits = np.where(is_open & is_within, middle, fits)
        too_many = np.where(is_open & ~is_within, middle, too_many)
    return fits
