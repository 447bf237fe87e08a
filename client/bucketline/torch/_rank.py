"""Which rank this process is, of how many: the process group's word, else the launcher's."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch.distributed as dist

from .._checks import whole
from .._errors import UsageError
from .._identity import launched


def seat_of(rank: int | None, world_size: int | None) -> tuple[int, int | None]:
    """(rank, world_size); the world size is None, and is not looked at, where only the rank was given.

    ``UsageError`` where a launcher says that this is one of several processes but not which rank it is: a task of srun
    or mpirun need not be the rank of that number, and taken for a job of its own it would take the others' batches.
    """
    if rank is not None:
        return whole("rank", rank), None if world_size is None else whole("world_size", world_size, 1)
    if world_size is not None:
        raise UsageError("rank: was expected beside world_size")
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return _of_launcher(os.environ)


def _of_launcher(environ: Mapping[str, str]) -> tuple[int, int]:
    process = launched(environ)
    if process.names == ("RANK", "WORLD_SIZE"):
        return process.rank or 0, process.size or 1
    if not process.is_of_several:
        return 0, 1
    said = ", ".join(f"{name}={environ[name]}" for name in process.names)
    rank, size = process.names if len(process.names) == 2 else ("RANK", "WORLD_SIZE")
    ranks = f"rank=int(os.environ[{rank!r}]), world_size=int(os.environ[{size!r}])"
    raise UsageError(
        f"rank: {said} says that this is one of several processes, and nothing says which rank each is: launch with "
        f"torchrun, initialize torch.distributed before this, or pass rank and world_size ({ranks} where each is a "
        "rank of one job; rank=0, world_size=1 where each trains by itself)"
    )


def check_world_size(dealt_to: int, world_size: int | None) -> None:
    if world_size is not None and dealt_to != world_size:
        raise UsageError(
            f"world_size: the run deals its epoch to {dealt_to} ranks and this job has {world_size}. Call "
            "begin(a checkpoint's state) or begin(None) in every process, before anything else is asked"
        )
