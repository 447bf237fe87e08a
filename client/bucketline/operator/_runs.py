"""Runs: put, look at, delete; where an image is, and the batches of a plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from .. import _wire
from .._checks import includes, seconds, whole
from .._errors import PlanFailed, UsageError
from .._types import AnyBatch, Batch, Json, Pack
from ._connection import Connection

T = TypeVar("T")

POLL_S = 0.2
WARNINGS_S = 10.0
"""How long to wait for the warnings about a plan that is ready: they take seconds with 10^8 images."""


REPORTS_A_PAGE = 1000


class RunCalls(Connection):
    def put_run(
        self,
        name: str,
        spec: Mapping[str, Any],
        *,
        wait: bool = True,
        timeout_s: float = 3600.0,
        progress: Callable[[Json], None] | None = None,
    ) -> Json:
        """Create a run; nothing changes if it exists with the same spec.

        ```python
        operator.put_run("sdxl-base", {"map": "photos", "world_size": 8, "batch_size": 16})
        ```

        Args:
            name: the run's name.
            spec: the run spec.
            wait: whether to wait until the plan is ready, and for its warnings.
            timeout_s: how long to wait for the plan, in seconds.
            progress: called with the run's document while it is being planned.

        Returns:
            The run's document. Its `warnings` say what of the plan would surprise, each with a `remedy`; `None` if that
            is not known within a few seconds.

        Raises:
            Invalid: if the spec is wrong; `field` names what.
            Conflict: if the run exists with another spec.
            PlanFailed: if the run cannot be planned.
            CoordinatorUnavailable: if the plan is not ready in time.
        """
        timeout_s = seconds("timeout_s", timeout_s, may_be_zero=True)
        started_s = time.monotonic()
        document = self._ask(_wire.Request("PUT", _wire.run_path(name), body=dict(spec)))
        while wait and document.get("status") == "planning":
            if time.monotonic() - started_s > timeout_s:
                raise self._transport.unavailable(f"when {name} is planned", None, 0, timeout_s)
            if progress is not None:
                progress(document)
            time.sleep(POLL_S)
            document = self.run(name)
        until_s = time.monotonic() + min(WARNINGS_S, timeout_s)
        # an older coordinator has none, which is not null
        while wait and document.get("status") == "ready" and document.get("warnings", ()) is None:
            if time.monotonic() >= until_s:
                break
            time.sleep(POLL_S)
            document = self.run(name)
        if wait and document.get("status") == "failed":
            raise PlanFailed(f"run {name!r}: {document.get('detail') or 'planning failed'}")
        return document

    def runs(self) -> list[Json]:
        """The documents of all runs."""
        return self._get_list(_wire.path("runs"), "runs")

    def run(self, name: str) -> Json:
        """The document of one run: its `spec`, `status`, `state`, `fingerprint`, `warnings` and so on."""
        return self._get(_wire.run_path(name))

    def stats(self, run: str) -> Json:
        """What the run's plan costs: images, steps, crop, repeats, buckets."""
        return self._get(_wire.run_path(run, "stats"))

    def ranks(self, run: str) -> list[Json]:
        """Where each rank of the run is, and who holds it."""
        return self._get_list(_wire.run_path(run, "ranks"), "ranks")

    def reports(self, run: str, *, newest: int | None = None) -> Json:
        """The images of the run that workers could not use: `reports`, in the order in which they were first reported,
        `num_images`, and `num_not_kept`, how many reports of further images came after 100,000.

        ```python
        found = operator.reports("sdxl-base")
        bad = [each["id"] for each in found["reports"] if each["reason"] == "unreadable"]
        ```

        Each has `number`, `id`, `map`, `count` (of batches, at least), `reason`, `detail`, and its `first` and `last`
        batch.

        Args:
            run: the run's name.
            newest: only so many, up to 1,000, of those that were first reported last; unless given, all.
        """
        path = _wire.run_path(run, "reports")
        if newest is not None:
            return self._get(path, limit=whole("newest", newest, 1, REPORTS_A_PAGE))
        reports: list[Json] = []
        while True:
            after = reports[-1]["number"] if reports else 0
            page = self._get(path, after=after, limit=REPORTS_A_PAGE)
            if not page["reports"]:
                return {**page, "reports": reports}
            reports += page["reports"]

    def image(self, run: str, id: int | str, *, epoch: int | None = None, map: str | None = None) -> Json:
        """Why an image is in its bucket, and when it is served.

        ```python
        for place in operator.image("sdxl-base", 389644, epoch=3)["served"]:
            print(place["step"], place["rank"])
        ```

        Args:
            run: the run's name.
            id: the image's id in the map.
            epoch: the current one unless given.
            map: the image's map, if several maps of the run contain the id.
        """
        return self._get(_wire.run_path(run, "images", id), epoch=epoch, map=map)

    def batches(
        self,
        run: str,
        epoch: int,
        step: int,
        rank: int,
        count: int = 1,
        *,
        world_size: int | None = None,
        include: Sequence[str] = (),
    ) -> list[Batch]:
        """The plan itself: `count` batches of `rank` from one step on. Moves no cursor.

        ```python
        first = operator.batches("sdxl-base", epoch=0, step=0, rank=0, count=100)
        ```

        Args:
            run: the run's name.
            epoch: counted from 0.
            step: the first step, counted from 0.
            rank: whose batches.
            count: how many, up to 1,024.
            world_size: the number of ranks to shard over; the current one unless given.
            include: as in `BucketClient`.

        Raises:
            UsageError: if the run serves packs: call `packs`.
        """
        found = self._batches(run, epoch, step, rank, count, world_size, include)
        return _all_of(Batch, found, f"run {run!r} serves packs: call packs instead of batches")

    def packs(
        self,
        run: str,
        epoch: int,
        step: int,
        rank: int,
        count: int = 1,
        *,
        world_size: int | None = None,
        include: Sequence[str] = (),
    ) -> list[Pack]:
        """The plan of a run of packed batches (`pack` in its spec); otherwise as `batches`.

        ```python
        first = operator.packs("native", epoch=0, step=0, rank=0, count=100)
        ```

        Args:
            run: the run's name.
            epoch: counted from 0.
            step: the first step, counted from 0.
            rank: whose packs.
            count: how many, up to 1,024.
            world_size: the number of ranks to shard over; the current one unless given.
            include: as in `BucketClient`.

        Raises:
            UsageError: if the run serves batches of one resolution: call `batches`.
        """
        found = self._batches(run, epoch, step, rank, count, world_size, include)
        message = f"run {run!r} serves batches of one resolution, not packs: call batches instead of packs"
        return _all_of(Pack, found, message)

    def _batches(
        self,
        run: str,
        epoch: int,
        step: int,
        rank: int,
        count: int,
        world_size: int | None,
        include: Sequence[str],
    ) -> list[AnyBatch]:
        what = _wire.run_path(run, "batches")
        place = {"epoch": epoch, "step": step, "rank": rank, "count": count, "world_size": world_size}
        return self._read(what, _wire.batches_from, **place, include=",".join(includes(include)) or None)

    def delete_run(self, name: str, *, force: bool = False) -> None:
        """Delete a run; unless `force`, `Conflict` if one of its ranks was active in the last minute."""
        params = (("force", "true"),) if force else ()
        self._ask(_wire.Request("DELETE", _wire.run_path(name), params=params))


def _all_of(kind: type[T], batches: Sequence[object], otherwise: str) -> list[T]:
    """The batches, all of one type; ``UsageError(otherwise)`` if they are of another."""
    found = [batch for batch in batches if isinstance(batch, kind)]
    if len(found) < len(batches):
        raise UsageError(otherwise)
    return found
