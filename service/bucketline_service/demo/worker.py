"""One worker process of the demo: ``python -m bucketline_service.demo.worker URL RUN RANK STEP_S``.

It prints a line of JSON for every batch that it has finished. The parent reads them as the log of the training.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

from bucketline import BucketClient, StartWarning


def main(url: str, run: str, rank: int, step_s: float) -> None:
    warnings.simplefilter("ignore", StartWarning)  # a killed worker resumes at its cursor, as it should here
    with BucketClient(url, run, holder=f"demo-{rank}-{time.time_ns()}") as client:
        for batch in client.epoch(rank):
            time.sleep(step_s)  # a real worker would train here
            print(json.dumps([batch.step, batch.width, batch.height, batch.ids]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
