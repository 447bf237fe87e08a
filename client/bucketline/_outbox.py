"""Reports of images that could not be used, on their way to the coordinator.

No lock, no I/O and no clock: the engine holds its lock around every call and passes the time in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from ._types import Cursor, Json

INTERVAL_S = 1.0
"""Reports are gathered for this long after the last time that some were sent."""

MAX_CALL = 1024
"""The coordinator's limit of images in one call."""

MAX_WAITING = 1 << 14
"""How many images wait at most, while there is no coordinator."""

NEVER_S = float("inf")
ImageKey = tuple[str | None, int | str]
"""Map and id."""


@dataclass
class BatchReport:
    """What is to be said of one batch, in one call: ``images``, as the call has them."""

    rank: int
    place: Cursor
    images: dict[ImageKey, Json]


class Outbox:
    """Each image of a batch once. What was added is kept until it is ``settled``."""

    def __init__(self) -> None:
        self._gathered: dict[tuple[int, Cursor], BatchReport] = {}
        self._sending: deque[BatchReport] = deque()
        self._next_s = 0.0  # when what is gathered may be sent
        self.num_waiting = 0
        self.num_refused = 0
        """Images for which there was no room."""

    def add(self, rank: int, place: Cursor, images: dict[ImageKey, Json]) -> None:
        for key, image in images.items():
            report = self._gathered.get((rank, place))
            if report is not None and key in report.images:
                report.images[key] = image
                continue
            if self.num_waiting >= MAX_WAITING:
                self.num_refused += 1
                continue
            if report is None or len(report.images) >= MAX_CALL:
                if report is not None:
                    self._sending.append(report)
                report = self._gathered[rank, place] = BatchReport(rank, place, {})
            report.images[key] = image
            self.num_waiting += 1

    @property
    def due_s(self) -> float:
        """When the next call is due."""
        if self._sending:
            return 0.0
        return self._next_s if self._gathered else NEVER_S

    def take(self, now_s: float, flush: bool) -> BatchReport | None:
        """The next call, None if none is due; with ``flush``, whatever waits. It stays the next one until it is
        ``settled``."""
        if not self._sending and self._gathered and (flush or now_s >= self._next_s):
            self._sending.extend(self._gathered.values())
            self._gathered.clear()
            self._next_s = now_s + INTERVAL_S
        return self._sending[0] if self._sending else None

    def settled(self, report: BatchReport, only: Iterable[int] | None = None) -> list[Json]:
        """The call has been answered for good; with ``only`` for the images of these indexes alone. Returns them."""
        keys = list(report.images)
        if only is not None:
            keys = [keys[index] for index in sorted(set(only))]
        images = [report.images.pop(key) for key in keys]
        self.num_waiting -= len(images)
        if not report.images:
            self._sending.remove(report)
        return images
