"""How long a training step takes at each shape of a run: the table of a measured cost."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .._checks import whole
from .._client import BucketClient
from .._errors import UsageError
from .._types import Batch, Json
from ..geometry import fit
from ..operator import Operator

_NUM_READ = 64
"""Batches of the plan that are read for their ids."""
_MAX_READ_IDS = 65_536


@dataclass(frozen=True, slots=True)
class Timing:
    """A training step on batches of one shape.

    ```python
    dearest = max(measured.timings, key=lambda timing: timing.seconds or 0)
    ```

    Attributes:
        width: of the bucket, in pixels.
        height: of the bucket, in pixels.
        num_frames: the length of each clip, in frames; None if the run has no frame buckets.
        batch_size: images of the batch.
        seconds: the median of the timed steps; None if the step ran out of memory.
        peak_memory_bytes: the most memory that tensors had on the current CUDA device, the model's included; None
            without CUDA.
    """

    width: int
    height: int
    num_frames: int | None
    batch_size: int
    seconds: float | None
    peak_memory_bytes: int | None

    def __str__(self) -> str:
        frames = "" if self.num_frames is None else f" x {self.num_frames} frames"
        took = "out of memory" if self.seconds is None else f"{self.seconds:.4g} s"
        memory = (
            "" if self.peak_memory_bytes is None else f", at most {self.peak_memory_bytes / 2**30:.1f} GiB"
        )
        return f"{self.width} x {self.height}{frames}, {self.batch_size} images: {took}{memory}"


@dataclass(frozen=True, slots=True)
class MeasuredCost:
    """What `measure_cost` returns. `print` shows a line for each shape.

    ```python
    measured = measure_cost(train_step, client)
    operator.put_run("sdxl-even", {**spec, "cost": measured.cost})
    ```

    Attributes:
        timings: one for each shape of the run, in the order in which they were measured, the most pixels first.
    """

    timings: tuple[Timing, ...]

    @property
    def cost(self) -> Json:
        """The field `cost` of a run spec. Shapes that ran out of memory are left out.

        Raises:
            UsageError: if every shape ran out of memory.
        """
        names = ("width", "height", "num_frames", "batch_size", "seconds")
        rows = [
            {name: value for name in names if (value := getattr(timing, name)) is not None}
            for timing in self.timings
            if timing.seconds is not None
        ]
        if not rows:
            raise UsageError("cost: every shape ran out of memory. Measure a run with smaller batches")
        return {"kind": "measured", "seconds": rows}

    @property
    def out_of_memory(self) -> list[Timing]:
        """The shapes at which the step ran out of memory."""
        return [timing for timing in self.timings if timing.seconds is None]

    def __str__(self) -> str:
        return "\n".join(map(str, self.timings))


def measure_cost(
    train_step: Callable[[Batch], object],
    client: BucketClient,
    *,
    warmup: int = 3,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> MeasuredCost:
    """Time a training step at each shape that the client's run has batches of.

    ```python
    def train_step(batch):
        latents = torch.randn(len(batch.ids), 16, batch.height // 8, batch.width // 8, device="cuda")
        loss_of(model(latents)).backward()
        optimizer.step()
        optimizer.zero_grad()

    measured = measure_cost(train_step, BucketClient(url, run="sdxl-base"))
    print(measured)
    ```

    The step should do what a step of the training does on the GPU, without waiting for images: random tensors of the
    batch's size will do. It really trains, so measure before a checkpoint is loaded. With several ranks, measure either
    in one process without `DistributedDataParallel`, or in all of them at once.

    No lease is taken and no cursor is moved; a worker's token is enough. Shapes are measured from the most pixels to
    the fewest, so that what does not fit is known first. On CUDA a step ends when the device has done its work; a step
    on another accelerator must wait for it by itself.

    Args:
        train_step: called with a `Batch` as `next_batch` returns it, with the images that the client `include`s. Its
            ids are real, but may be those of images of another bucket, and may come several times.
        client: of the run whose shapes are measured.
        warmup: steps of each shape that are not timed: for compilers, autotuning and the allocator.
        repeats: steps of each shape that are timed.
        clock: in seconds. `time.process_time` if the step runs on a CPU that has other work.

    Raises:
        UsageError: if an argument is wrong, or if the run serves packs, which have no shape to measure.
        CoordinatorUnavailable: if there was no answer in time.
        Refused: if the coordinator refuses the request, for example because there is no such run.
    """
    warmup, repeats = whole("warmup", warmup), whole("repeats", repeats, 1)
    batches = _batches(client)
    return MeasuredCost(tuple(_timed(train_step, batch, warmup, repeats, clock) for batch in batches))


def _timed(
    train_step: Callable[[Batch], object],
    batch: Batch,
    warmup: int,
    repeats: int,
    clock: Callable[[], float],
) -> Timing:
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    took: list[float] = []
    has_memory = True
    try:
        for _ in range(warmup):
            train_step(batch)
        for _ in range(repeats):
            _wait_for_device()
            started_s = clock()
            train_step(batch)
            _wait_for_device()
            took.append(clock() - started_s)
    except torch.OutOfMemoryError:
        has_memory = False
    if not has_memory:  # no longer in the handler, whose exception holds the step's tensors
        gc.collect()
        torch.cuda.empty_cache()
    return Timing(
        batch.width,
        batch.height,
        batch.num_frames,
        len(batch.ids),
        statistics.median(took) if has_memory else None,
        torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None,
    )


def _wait_for_device() -> None:
    if torch.cuda.is_initialized():  # by the step: otherwise it does not use it
        torch.cuda.synchronize()


def _batches(client: BucketClient) -> list[Batch]:
    """A batch of each shape, the most pixels first."""
    # the client's own transport belongs to its thread and its lease
    with Operator(
        client.url, client._token, timeout_s=client._timeout_s, verify=client._verify
    ) as coordinator:
        stats = coordinator.stats(client.run)
        if stats.get("packs"):
            raise UsageError(
                f"client: run {client.run!r} serves packs, whose images each have a size of their own, and a measured "
                'cost is a table of the shapes of buckets: let the run count tokens, "cost": {"kind": "transformer", …}'
            )
        buckets = [each for each in stats["buckets"] if each["num_batches"]]
        count = max(1, min(_NUM_READ, _MAX_READ_IDS // max(each["batch_size"] for each in buckets)))
        include = ("original_size",) if client._include else ()
        read: list[Batch] = []
        for rank in range(stats["world_size"]):  # with tails: short the first rank may have no image
            read = [
                each
                for each in coordinator.batches(client.run, 0, 0, rank, count, include=include)
                if each.ids
            ]
            if read:
                break
    shapes: dict[tuple[int, ...], Batch] = {}
    for bucket in sorted(buckets, key=_num_pixels, reverse=True):
        shape = (bucket["width"], bucket["height"], bucket["num_frames"] or 1, bucket["batch_size"])
        if shape not in shapes:
            shapes[shape] = _batch_of(bucket, read, client._include)
    return list(shapes.values())


def _num_pixels(bucket: Json) -> tuple[int, ...]:
    """Of a batch; equal ones are in the order of their sides."""
    frames = bucket["num_frames"] or 1
    num = bucket["width"] * bucket["height"] * frames * bucket["batch_size"]
    return (num, frames, bucket["width"], bucket["batch_size"])


def _batch_of(bucket: Json, read: Sequence[Batch], include: Sequence[str]) -> Batch:
    """A batch of the bucket's shape, of the images of a batch of its own that was read, else of another."""
    num, size = bucket["batch_size"], (bucket["width"], bucket["height"])

    def unlike(batch: Batch) -> tuple[bool, bool]:
        return batch.num_frames != bucket["num_frames"], (batch.width, batch.height) != size

    of = min(read, key=unlike)
    sizes = _filled(of.original_sizes, num)
    cuts = [fit(each, size) for each in sizes] if sizes and "crop" in include else None
    return replace(
        of,
        ids=_filled(of.ids, num),
        width=bucket["width"],
        height=bucket["height"],
        bucket=bucket["bucket"],
        repeats=None,
        num_frames=bucket["num_frames"],
        maps=_filled(of.maps, num),
        original_sizes=sizes if "original_size" in include else None,
        resize_sizes=None if cuts is None else [cut.resize_size for cut in cuts],
        crop_left_tops=None if cuts is None else [(cut.crop_left, cut.crop_top) for cut in cuts],
    )


def _filled(values: list[Any] | None, num: int) -> Any:
    """``num`` of the values, from the first one again as often as it takes."""
    return values and [values[at % len(values)] for at in range(num)]
