"""Which rank this process is, of how many: the process group's word, else the launcher's."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch.distributed as dist

from .._checks import whole
from .._errors import UsageError


def seat_of(rank: int | None, world_size: int | None) -> tuple[int, int | None]:
    """(rank, world_size); the world size is None, and is not looked at, where only the rank was given."""
    if rank is not None:
        return whole("rank", rank), None if world_size is None else whole("world_size", world_size, 1)
    if world_size is not None:
        raise UsageError("rank: was expected beside world_size")
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return _of_launcher(os.environ)


def _of_launcher(environ: Mapping[str, str]) -> tuple[int, int]:
    rank, world_size = environ.get("RANK", ""), environ.get("WORLD_SIZE", "")
    if rank.isdecimal() and world_size.isdecimal():
        return int(rank), int(world_size)
    return 0, 1


def check_world_size(dealt_to: int, world_size: int | None) -> None:
    if world_size is not None and dealt_to != world_size:
        raise UsageError(
            f"world_size: the run deals its epoch to {dealt_to} ranks and this job has {world_size}. Start a session: "
            f"load_state_dict(a checkpoint's state), or client.start_session({world_size}, 'cursor') in every process"
        )
