"""Who this process is to the coordinator: its name as a holder, and its start of the job as a session."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping

from ._errors import UsageError

SESSION_VARIABLE = "BUCKETLINE_SESSION"


def make_holder() -> str:
    """A name that no other process has, and that tells an operator where to look."""
    import socket  # here and not above: importing bucketline needs no network, and httpx loads it anyway

    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"


def seat(holder: str, environ: Mapping[str, str]) -> int:
    """A number of this process, by which the processes of a job spread over the replicas of a coordinator.

    ``RANK`` (torchrun's) or ``SLURM_PROCID`` deal them out evenly; else a hash of the holder does, about. The
    same on every start but for a holder that was made up, and not Python's ``hash``, which is another in every
    process also of a name that is the same.
    """
    for name in ("RANK", "SLURM_PROCID"):
        if (number := environ.get(name, "")).isdecimal():
            return int(number)
    return zlib.crc32(holder.encode(errors="replace"))


def session_name(world_size: int, environ: Mapping[str, str]) -> str:
    """The name of this start of the job, the same in all of its processes and another after every restart.

    In this order: ``BUCKETLINE_SESSION`` as it is; torchrun's run id and restart count; Slurm's job id and
    restart count; else a random one, which is right only where one process starts the job. So it is refused
    for a job of several ranks, and where ``WORLD_SIZE`` says that there are several processes: each would
    start the job anew and fence the others. Whether one process serves all ranks can not be known here: it
    gives a name, as they do.

    The world size is part of a derived name, because torchrun does not count a restart when nodes come or go.
    Its default run id ``none`` names nothing: two jobs of it would share their sessions.
    """
    if name := environ.get(SESSION_VARIABLE):
        return name
    run_id = environ.get("TORCHELASTIC_RUN_ID")
    if run_id and run_id != "none":
        return f"{run_id}.{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}.w{world_size}"
    if job_id := environ.get("SLURM_JOB_ID"):
        return f"{job_id}.{environ.get('SLURM_RESTART_COUNT', '0')}.w{world_size}"
    processes = environ.get("WORLD_SIZE", "1")
    num_processes = int(processes) if processes.isdecimal() else 1
    if world_size > 1 or num_processes > 1:
        several = f"{world_size} ranks" if world_size > 1 else f"WORLD_SIZE={processes} processes"
        raise UsageError(
            f"session: {several} must start one session under one name, and none is known: pass session= or "
            f"set {SESSION_VARIABLE} to what all processes share and every start of the job has anew, or "
            "launch with torchrun --rdzv-id (or --standalone), or under Slurm"
        )
    return os.urandom(16).hex()
