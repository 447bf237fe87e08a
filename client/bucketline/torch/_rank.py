"""Which rank this process is, and of how many: from the process group, else from the launcher."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch.distributed as dist

from .._checks import whole
from .._errors import UsageError
from .._identity import launched


def rank_and_world_size(rank: int | None, world_size: int | None) -> tuple[int, int | None]:
    """(rank, world_size) of this process; the world size is None, and is not checked, if only the rank was given.

    ``UsageError`` if a launcher says that this is one of several processes but not which rank it is: a task of srun or
    mpirun need not be the rank of that number, and treated as a job of one it would take the others' batches.
    """
    if rank is not None:
        return whole("rank", rank), None if world_size is None else whole("world_size", world_size, 1)
    if world_size is not None:
        raise UsageError("rank must be given with world_size")
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return _of_launcher(os.environ)


def _of_launcher(environ: Mapping[str, str]) -> tuple[int, int]:
    process = launched(environ)
    if process.names == ("RANK", "WORLD_SIZE"):
        return process.rank or 0, process.size or 1
    if not process.is_of_several:
        return 0, 1
    found = ", ".join(f"{name}={environ[name]}" for name in process.names)
    rank, size = process.names if len(process.names) == 2 else ("RANK", "WORLD_SIZE")
    arguments = f"rank=int(os.environ[{rank!r}]), world_size=int(os.environ[{size!r}])"
    raise UsageError(
        f"rank: {found} says that this is one of several processes, but nothing says which rank each is: launch with "
        f"torchrun, initialize torch.distributed first, or pass rank and world_size ({arguments} if each is a rank of "
        "one job; rank=0, world_size=1 if each trains alone)"
    )


def check_world_size(run_world_size: int, world_size: int | None) -> None:
    """``UsageError`` if the run shards its epoch over another number of ranks."""
    if world_size is not None and run_world_size != world_size:
        raise UsageError(
            f"world_size: the run shards its epoch over {run_world_size} ranks, but this job has {world_size}. Call "
            "begin(state) with a checkpoint's state, or begin(None), first and in every process"
        )
