"""Who this process is to the coordinator: its name as a holder, and its start of the job as a session."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from ._errors import UsageError

SESSION_VARIABLE = "BUCKETLINE_SESSION"
LAUNCHERS = (
    ("RANK", ("WORLD_SIZE",)),
    ("OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",)),
    ("MV2_COMM_WORLD_RANK", ("MV2_COMM_WORLD_SIZE",)),  # MVAPICH2
    ("PMI_RANK", ("PMI_SIZE",)),
    ("FLUX_TASK_RANK", ("FLUX_JOB_SIZE",)),
    ("JSM_NAMESPACE_RANK", ("JSM_NAMESPACE_SIZE",)),  # jsrun
    ("SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS")),
)
"""Where launchers write which process this is and how many there are, the innermost launcher first (torchrun under
srun)."""
OTHER_RANKS = ("PMIX_RANK", "PALS_RANKID", "LOCAL_RANK", "SLURM_LOCALID")
"""Variables that say nothing if they are 0, and otherwise that there are other processes."""
SPECIAL_STEPS = 0xFFFFFFF0
"""The numbers of steps that srun did not start (batch scripts, the shells of salloc) begin here."""


class Launched(NamedTuple):
    """``rank`` and ``size`` from the environment, None if they are missing there, and the names of their variables."""

    rank: int | None
    size: int | None
    names: tuple[str, ...]

    @property
    def is_of_several(self) -> bool:
        return (self.rank or 0) > 0 or (self.size or 1) > 1


def make_holder() -> str:
    """A name that no other process has, and that tells an operator where the process runs."""
    import socket  # imported late: importing bucketline needs no network, and httpx loads it anyway

    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"


def preferred_replica(holder: str, environ: Mapping[str, str]) -> int:
    """A number (modulo the replicas) by which the processes of a job spread over the replicas of a coordinator.

    ``RANK`` (torchrun) or ``SLURM_PROCID`` spread them evenly; else a hash of the holder does so approximately. The
    number is the same on every start unless the holder was generated. It is not Python's ``hash``, which differs
    between processes.
    """
    for name in ("RANK", "SLURM_PROCID"):
        if (number := environ.get(name, "")).isdecimal():
            return int(number)
    return zlib.crc32(holder.encode(errors="replace"))


def launched(environ: Mapping[str, str]) -> Launched:
    """What the innermost launcher says about this process, of those that say anything.

    Slurm also sets ``SLURM_NTASKS`` for a batch script and for the shell of ``salloc``, each of which is one process.
    The shell has no ``SLURM_PROCID``, or one of Slurm's special steps; a batch script looks like task 0 of srun.
    """
    for rank_name, size_names in LAUNCHERS:
        rank = _whole(environ, rank_name)
        names = [name for name in size_names if _whole(environ, name) is not None][:1]
        size = _whole(environ, names[0]) if names else None
        if rank_name == "SLURM_PROCID" and (rank is None or _is_special_step(environ)):
            continue
        if (rank or 0) > 0 or (size or 1) > 1 or (rank == 0 and size == 1):
            return Launched(rank, size, (rank_name, *names) if rank is not None else tuple(names))
    for name in OTHER_RANKS:
        if (rank := _whole(environ, name) or 0) > 0:
            return Launched(rank, None, (name,))
    return Launched(None, None, ())


def _whole(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else None


def _is_special_step(environ: Mapping[str, str]) -> bool:
    return (_whole(environ, "SLURM_STEP_ID") or 0) >= SPECIAL_STEPS


def session_name(world_size: int, environ: Mapping[str, str]) -> str:
    """The name of this start of the job: the same in all of its processes, and a new one after every restart.

    The first of these that exists: ``BUCKETLINE_SESSION`` unchanged; torchrun's run id and restart count; a random
    name for a job of one rank whose launcher knows of no other process; Slurm's job id, restart count and step, as
    every srun is a separate start. A random name is right only if one process starts the job. A job of several ranks
    or processes without the others is refused, because each process would start the job again and fence the others.
    Whether one process serves all ranks is unknown here, so such a process passes a name too.

    The world size is part of a derived name, because torchrun does not count a restart when nodes come or go.
    Its default run id ``none`` identifies nothing: two such jobs would share their sessions.
    """
    if name := environ.get(SESSION_VARIABLE):
        return name
    run_id = environ.get("TORCHELASTIC_RUN_ID")
    if run_id and run_id != "none":
        return f"{run_id}.{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}.w{world_size}"
    process = launched(environ)
    if world_size == 1 and not process.is_of_several:
        return os.urandom(16).hex()
    if job_id := environ.get("SLURM_JOB_ID"):
        start = [job_id, environ.get("SLURM_RESTART_COUNT", "0"), *_slurm_step(environ), f"w{world_size}"]
        return ".".join(start)
    several = (
        f"{world_size} ranks"
        if world_size > 1
        else f"{process.size or 'several'} processes ({process.names[-1]})"
    )
    raise UsageError(
        f"session: {several} must start one session under one name, and no name is known: pass session= or set "
        f"{SESSION_VARIABLE} to a value that all processes share and that is new for every start of the job, or "
        "launch with torchrun --rdzv-id (or --standalone), or under Slurm"
    )


def _slurm_step(environ: Mapping[str, str]) -> list[str]:
    """The step in which srun started all processes, if it did. Open MPI's mpirun starts the processes of other nodes
    through its own srun, and those of its node without: they have no step in common."""
    step = _whole(environ, "SLURM_STEP_ID")
    is_of_srun = step is not None and step < SPECIAL_STEPS and "OMPI_COMM_WORLD_SIZE" not in environ
    return [str(step)] if is_of_srun else []
