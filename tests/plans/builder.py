"""A process that builds a plan in a folder: ``builder.py FOLDER [NUM]``. Prints a line for each chunk that is done, and
at the end a digest of the plan. It kills itself after the given number of chunks."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path

from bucketline_service.planning import chunked_passes
from bucketline_service.planning.build_plan import prepare
from bucketline_service.plans.build_checkpoint import BuildCheckpoint
from tests.planning.checkpoints import content, job

CHUNK = 100


def build(folder: Path, num_chunks: int = 0) -> str:
    heard: list[float] = []

    def tell(share: float) -> None:
        heard.append(share)
        print(share, flush=True)
        if len(heard) == num_chunks:
            os.kill(os.getpid(), signal.SIGKILL)

    spec, images, valid = job()
    checkpoint = BuildCheckpoint(folder, tell, keep_every_s=0)
    prepared = prepare(spec, images, valid_rows=valid, checkpoint=checkpoint, num_threads=2)
    checkpoint.finish()
    arrays, summary = content(prepared)
    return hashlib.sha256(b"".join(arrays) + summary.encode()).hexdigest()


if __name__ == "__main__":
    chunked_passes.CHUNK = CHUNK
    print(build(Path(sys.argv[1]), *map(int, sys.argv[2:])))
