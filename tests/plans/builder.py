"""A process that builds a plan in a folder, for tests that kill it: ``builder.py FOLDER``. Prints a line for each chunk
that is done, and at the end a digest of the plan."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from bucketline_service.planning import chunked_passes
from bucketline_service.planning.build_plan import prepare
from bucketline_service.plans.build_checkpoint import BuildCheckpoint
from tests.planning.checkpoints import content, job

CHUNK = 100


def build(folder: Path) -> str:
    spec, images, valid = job()
    checkpoint = BuildCheckpoint(folder, lambda share: print(share, flush=True), keep_every_s=0)
    prepared = prepare(spec, images, valid_rows=valid, checkpoint=checkpoint, num_threads=2)
    checkpoint.finish()
    arrays, summary = content(prepared)
    return hashlib.sha256(b"".join(arrays) + summary.encode()).hexdigest()


if __name__ == "__main__":
    chunked_passes.CHUNK = CHUNK
    print(build(Path(sys.argv[1])))
