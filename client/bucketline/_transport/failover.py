"""Which of several replicas is asked next. No lock, no I/O and no clock."""

from __future__ import annotations

import random
from collections.abc import Callable

RETURN_AFTER_S = 30.0
RETURN_CAP_S = 600.0
"""How long a client that had to leave its home replica stays with another one before it tries its home again: twice as
long after every try that fails, up to this cap. The wait is stretched by a random factor of 1 to 2, so that clients do
not return all at once."""


class Failover:
    """Stays with one replica while it answers. After a failure the next one is a replica that has not failed since the
    last answer, the one that answered last first; once all have failed, they take turns.

    After an answer elsewhere it returns to ``home`` after a while. Otherwise the first restart of a replica would leave
    all of its clients with the others for good.
    """

    def __init__(
        self, num_urls: int, home: int, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self.failed: dict[int, str] = {}  # replica -> why, for those that have failed since the last answer
        self._num_urls = num_urls
        self._home = home % num_urls
        self._at = self._home
        self._answered: int | None = None
        self._return_at_s: float | None = None
        self._stay_s = RETURN_AFTER_S
        self._uniform = uniform

    def choose(self, now_s: float) -> int:
        """The replica to ask now."""
        if self._return_at_s is not None and now_s >= self._return_at_s:
            self._at, self._return_at_s = self._home, None
            self._stay_s = min(2 * self._stay_s, RETURN_CAP_S)
        return self._at

    @property
    def at(self) -> int:
        return self._at

    def answered(self, at: int, now_s: float) -> None:
        self.failed.clear()
        self._answered = at
        if at == self._home:
            self._stay_s = RETURN_AFTER_S
        if self._at == self._home:
            self._return_at_s = None
        elif self._return_at_s is None:
            self._return_at_s = now_s + self._stay_s * self._uniform(1.0, 2.0)

    def note_failure(self, at: int, why: str, *, leave: bool) -> bool:
        """Whether the next attempt goes to a replica that has not failed since the last answer."""
        self.failed[at] = why
        if not leave or at != self._at:  # another thread has already left it
            return self._at not in self.failed
        in_turn = [(at + step) % self._num_urls for step in range(1, self._num_urls + 1)]
        if self._answered is not None:
            in_turn.insert(0, self._answered)
        self._at = next((each for each in in_turn if each not in self.failed), (at + 1) % self._num_urls)
        return self._at not in self.failed
