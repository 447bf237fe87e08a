"""A training job that advances on command: real clients, one for each rank."""

from __future__ import annotations

from bucketline import BucketClient

TOKENS = {"BUCKETLINE_WORKER_TOKEN": "worker-token-1", "BUCKETLINE_OPERATOR_TOKEN": "operator-token-1"}
RUN = "job"
NASTY = "<img src=x onerror=alert(1)>"


class Job:
    def __init__(self, url: str, run: str = RUN, token: str = TOKENS["BUCKETLINE_WORKER_TOKEN"]) -> None:
        self._client = BucketClient(url, run=run, token=token)

    def advance(self, num_steps: int, *ranks: int) -> int:
        """All of these ranks by so many steps, acknowledged; the last step that is done."""
        for _ in range(num_steps):
            batches = [(rank, self._client.next_batch(rank)) for rank in ranks]
        for rank, batch in batches:
            self._client.ack(rank, batch)
        self._client.flush()
        return batches[-1][1].step

    def close(self) -> None:
        self._client.close()
