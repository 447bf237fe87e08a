"""One worker of the demo, a process of its own: ``python -m bucketline_service.demo.worker URL RUN RANK STEP_S``.

For every batch that it has finished it prints one line of JSON, which is the parent's log of what was trained on.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

from bucketline import BucketClient, StartWarning


def main(url: str, run: str, rank: int, step_s: float) -> None:
    warnings.simplefilter("ignore", StartWarning)  # one that was killed comes back at its cursor, as it is to
    with BucketClient(url, run, holder=f"demo-{rank}-{time.time_ns()}") as client:
        for batch in client.epoch(rank):
            time.sleep(step_s)  # where a real worker would train
            print(json.dumps([batch.step, batch.width, batch.height, batch.ids]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
