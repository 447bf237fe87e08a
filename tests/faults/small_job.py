"""A small job for scenarios: a run of one epoch on two ranks, ``bucketline serve`` over any store, stepped workers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.checked import Api
from tests.faults.record import Log
from tests.faults.stepped import Stepped
from tests.server import ServerProcess
from tests.worlds import SMALL

RUN = "run"
SPEC = {"map": "small", "world_size": 2, "batch_size": 4, "epochs": 1}
"""25 steps of two batches over 200 images."""
END = [0, 25]


class Job:
    """Its log is that of record.py: ``history`` is what the checker reads."""

    def __init__(
        self, store: str | None, folder: Path, data_dir: Path, stack: ExitStack, **options: Any
    ) -> None:
        self.log_dir = folder / "log"
        self.log_dir.mkdir()
        self.data_dir = data_dir
        self._log = Log(self.log_dir / "driver.jsonl")
        self._stack = stack
        flags = ["--store", store] if store else []
        self.server = ServerProcess(data_dir, *flags, **options)
        stack.callback(self.server.close)
        self.api: Api = self.server.api()

    def put(self) -> None:
        self.api.put_csv("small", SMALL, 201)
        self.api.put(f"/v1/runs/{RUN}", SPEC, 201)
        spec = self.api.get(f"/v1/runs/{RUN}")["spec"]
        # one rank would have an epoch of its own, with units of one batch
        of_ranks = [
            self.api.get(f"/v1/runs/{RUN}/batches", epoch=0, step=0, rank=rank, count=1024)["batches"]
            for rank in range(2)
        ]
        told = [
            [each[name] for name in ("bucket", "width", "height", "ids")]
            for step in zip(*of_ranks, strict=True)
            for each in step
        ]
        mixed_steps = self.api.get(f"/v1/runs/{RUN}/stats")["mixed_steps"]
        self._log.write("run", lockstep=spec["lockstep"], epochs=spec["epochs"], image_ids=[*range(200)])
        self._log.write("plan", epoch=0, batches=told, left_out=[])
        begin = {"origin": {"epoch": 0, "step": 0}, "offset": 0, "world_size": 2, "mixed_steps": mixed_steps}
        self.began(1, begin, "start")

    def began(self, generation: int, answer: Mapping[str, Any], resume: Any) -> None:
        """Log a session. ``generation``: by the job's own count, which continues when the store's falls back."""
        origin = [answer["origin"]["epoch"], answer["origin"]["step"]]
        told = {name: answer[name] for name in ("world_size", "offset", "mixed_steps")}
        self._log.write("session", generation=generation, origin=origin, resume=resume, **told)

    def start(self, generation: int, session: str, **more: Any) -> dict[str, Any]:
        """Start the job again, and log it."""
        answer: dict[str, Any] = self.api.session(RUN, session, **more)
        self.began(generation, answer, more["resume"])
        return answer

    def worker(self, rank: int, holder: str, generation: int = 1) -> Stepped:
        self._log.write("started", holder=holder, rank=rank, generation=generation)
        worker = Stepped(self.log_dir, self.server.url, RUN, rank, holder, generation)
        self._stack.callback(worker.close)
        return worker

    def restored(self) -> None:
        self._log.write("restored")

    def cursors(self) -> list[tuple[int, int]]:
        return self.api.cursors(RUN)

    def holders(self) -> list[str | None]:
        return [each["holder"] for each in self.api.get(f"/v1/runs/{RUN}/ranks")["ranks"]]

    def lease_of(self, rank: int, holder: str) -> int:
        """The one that the holder has already."""
        lease: int = self.api.lease(RUN, rank, holder)["lease"]
        return lease

    @property
    def num_store_errors(self) -> float:
        (found,) = re.findall(r"^bucketline_store_errors_total (\S+)$", self._metrics(), re.MULTILINE)
        return float(found)

    def finish(self, generation: int = 1) -> None:
        """Write down where the ranks stand when all have had their last batch."""
        for each in self.api.get(f"/v1/runs/{RUN}/ranks")["ranks"]:
            about = {name: each[name] for name in ("rank", "holder", "epoch", "step")}
            self._log.write("final", generation=generation, **about)

    def count(self, name: str) -> float:
        """A counter of the run, from ``/metrics``."""
        found = re.findall(rf'^bucketline_{name}_total{{run="{RUN}"}} (\S+)$', self._metrics(), re.MULTILINE)
        return sum(map(float, found))

    def _metrics(self) -> str:
        return self.api.ask("GET", "/metrics", 200).text

    def end(self, event: str) -> list[dict[str, Any]]:
        """Stop the coordinator: each ``event`` in its log. Whether it also noticed an outage is a matter of chance."""
        status, errors = self.server.stop()
        assert status == 0, errors
        lines = [json.loads(line) for line in errors.splitlines()]
        return [line for line in lines if line.get("event") == event]


@contextmanager
def job(store: str | None, folder: Path, data_dir: Path | None = None, **options: Any) -> Iterator[Job]:
    """``options`` are those of ``ServerProcess``."""
    with ExitStack() as stack:
        started = Job(store, folder, data_dir or folder / "data", stack, **options)
        started.put()
        yield started
