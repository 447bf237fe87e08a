"""Whether any coordinator has ever answered. Until then a wrong address or certificate is reported early."""

from __future__ import annotations

from .failures import Reason, Unanswered

FOREIGN_PATIENCE_S = 5.0
"""How long answers that are not a coordinator's are retried if no coordinator has ever answered. An ingress that
reloads its routes is through by then, and a wrong address is reported soon. Once a coordinator has answered, only the
deadline counts."""


class FirstContact:
    """What is known of ``num_urls`` replicas before one of them has answered. No lock, no I/O and no clock."""

    def __init__(self, num_urls: int) -> None:
        self._num_urls = num_urls
        self._has_answered = False
        self._untrusted: set[int] = set()
        self._foreign: set[int] = set()  # replicas whose last answer was not a coordinator's
        self._foreign_since_s: float | None = None  # since when this holds of all of them

    def answered(self) -> None:
        self._has_answered = True
        self._foreign_since_s = None

    def failed(self, at: int, failure: Unanswered, now_s: float) -> None:
        for replicas, reason in ((self._untrusted, Reason.UNTRUSTED), (self._foreign, Reason.FOREIGN)):
            (replicas.add if failure.reason is reason else replicas.discard)(at)
        self._has_answered = self._has_answered or failure.code is not None
        if self._has_answered or len(self._foreign | self._untrusted) < self._num_urls:
            self._foreign_since_s = None
        elif self._foreign_since_s is None:
            self._foreign_since_s = now_s

    @property
    def is_hopeless(self) -> bool:
        """Whether no replica will ever be trusted. A job that has begun waits for the certificate's renewal instead."""
        return len(self._untrusted) == self._num_urls and not self._has_answered

    @property
    def is_foreign(self) -> bool:
        """Whether only something other than a coordinator has ever answered."""
        return self._foreign_since_s is not None

    def deadline_s(self, started_s: float, timeout_s: float) -> float:
        """Until when a call that began at ``started_s`` waits."""
        until_s = started_s + timeout_s
        if self._foreign_since_s is None:
            return until_s
        return min(until_s, max(started_s, self._foreign_since_s) + FOREIGN_PATIENCE_S)
