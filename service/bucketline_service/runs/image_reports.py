"""Reports of images that could not be used: what workers say of them, and what operators read."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from bucketline_service.errors import BucketlineError, Invalid, NotFound
from bucketline_service.observability.metrics import Metrics
from bucketline_service.plans.run_images import Sources
from bucketline_service.runs.registry import Runs
from bucketline_service.runs.run import Run
from bucketline_service.store.port import ImageReport, NewReport, Place, ReportOutcome

MAX_REPORTED_IMAGES = 100_000
"""How many images of a run are kept with their reports. Of those that are reported later, only the number is."""

MAX_IMAGES = 1024
"""The most images in one call."""

MAX_DETAIL = 200
"""Characters of a report's detail."""

_COUNTED = (ReportOutcome.NEW, ReportOutcome.COUNTED, ReportOutcome.NOT_KEPT)


class ReportedImage(NamedTuple):
    """``map``: None if the run has one map, or if no other map of the run has this id."""

    id: int | str
    map: str | None
    reason: str
    detail: str | None


class Reports:
    """Needs no lease: what a worker could not read stays true if it was fenced meanwhile, and a validation has no
    lease. ``clock`` gives Unix seconds."""

    def __init__(self, runs: Runs, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._runs = runs
        self._metrics = metrics
        self._clock = clock

    async def add(self, name: str, place: Place, images: Sequence[ReportedImage]) -> dict[str, int]:
        """Keep the reports of one batch. How many images are new to the run, how many are kept of it now, and of how
        many only the number is. Raises ``Invalid`` and ``NotFound``, with nothing kept, if one of the images is not in
        the run's maps; ``index`` says which, and ``indexes`` which all."""
        run = await self._runs.open(name)
        _check_epoch(run, place.epoch)
        # in a thread: each image is looked up in a map that may be on a slow disk
        found = await asyncio.to_thread(_name_images, run.plan.sources, images)
        reports = [
            NewReport(image, each.reason, each.detail) for image, each in zip(found, images, strict=True)
        ]
        reported = await self._runs.store.report(name, place, reports, MAX_REPORTED_IMAGES, self._clock())
        counted = [
            each.reason
            for each, outcome in zip(images, reported.outcomes, strict=True)
            if outcome in _COUNTED
        ]
        by_reason = Counter(counted)
        for reason, num in by_reason.items():
            self._metrics.of_run(name).reports[reason].inc(num)
        if by_reason:
            self._runs.event_log.emit(
                "images_reported",
                name,
                place.rank,
                num_images=len(counted),
                reason=by_reason.most_common(1)[0][0],
                num_reported=reported.num_images,
            )
        return {
            "num_new": reported.outcomes.count(ReportOutcome.NEW),
            "num_images": reported.num_images,
            "num_not_kept": reported.outcomes.count(ReportOutcome.NOT_KEPT),
        }

    async def read(self, name: str, after: int | None, limit: int) -> dict[str, Any]:
        """``limit`` reports after number ``after``, or the newest ones if it is None, by number; JSON-able."""
        found = await self._runs.store.reports(name, after, limit)
        return {
            "num_images": found.num_images,
            "num_not_kept": found.num_not_kept,
            "reports": [_document(each) for each in found.reports],
        }


def _check_epoch(run: Run, epoch: int) -> None:
    # not its step: a validation, or a start of the job with other ranks, has other steps
    if epoch >= run.sharding.end_epoch:
        raise Invalid(
            "epoch",
            f"must be less than {run.sharding.end_epoch}, the number of epochs of the run, got {epoch}",
        )


def _name_images(sources: Sources, images: Sequence[ReportedImage]) -> list[str]:
    """How the store names each image: a JSON array of map and id, each id as its map has it."""
    rows = []
    refused: dict[int, NotFound | Invalid] = {}
    for index, each in enumerate(images):
        try:
            rows.append(sources.find(each.id, each.map))
        except (NotFound, Invalid) as error:
            refused[index] = error
    if refused:
        raise _refusal(refused)
    found = np.array(rows, np.int64)
    pairs = zip(sources.map_names(found), sources.ids(found), strict=True)
    return [orjson.dumps(pair).decode() for pair in pairs]


def _refusal(refused: Mapping[int, NotFound | Invalid]) -> BucketlineError:
    """The error of the first image, with the numbers of all that are refused."""
    index, error = next(iter(refused.items()))
    others = f", and {len(refused) - 1:,} more are refused" if len(refused) > 1 else ""
    about: dict[str, Any] = {"index": index, "indexes": list(refused)}
    if isinstance(error, NotFound):
        return NotFound(f"images.{index}: {error.detail}{others}. Nothing was changed", **about)
    detail = error.detail.removeprefix(f"{error.field}: ")
    return Invalid(f"images.{index}.{error.field}", f"{detail}{others}. Nothing was changed", **about)


def _document(report: ImageReport) -> dict[str, Any]:
    map_name, image_id = orjson.loads(report.image)
    return {
        "number": report.number,
        "id": image_id,
        "map": map_name,
        "count": report.count,
        "reason": report.reason,
        "detail": report.detail,
        "first": {**report.first._asdict(), "at": report.first_at_s},
        "last": {**report.last._asdict(), "at": report.last_at_s},
    }
