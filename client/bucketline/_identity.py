"""Who this process is to the coordinator: its name as a holder, and its start of the job as a session."""

from __future__ import annotations

import os
import secrets
import socket
import uuid
from collections.abc import Mapping

from ._errors import UsageError

SESSION_VARIABLE = "BUCKETLINE_SESSION"


def make_holder() -> str:
    """A name that no other process has, and that tells an operator where to look."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def session_name(world_size: int, environ: Mapping[str, str]) -> str:
    """The name of this start of the job, the same in all of its processes and another after every restart.

    In this order: ``BUCKETLINE_SESSION`` as it is; torchrun's run id and restart count; Slurm's job id and
    restart count; else a random one, which is right only where one process starts the job, so it is refused
    where ``WORLD_SIZE`` says that there are more.

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
    if processes.isdigit() and int(processes) > 1:
        raise UsageError(
            f"WORLD_SIZE={processes} processes must start one session under one name: pass session=, or set "
            f"{SESSION_VARIABLE} to something that all of them share and that changes with every start "
            "of the job (torchrun: --rdzv-id)"
        )
    return uuid.uuid4().hex
