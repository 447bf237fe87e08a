"""How long to wait between attempts: exponential backoff with full jitter, and Retry-After."""

from __future__ import annotations

import logging
import random

BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 10.0
RETRY_AFTER_CAP_S = 60.0


class Backoff:
    """The wait after each failure in a row: full jitter under a doubling cap, and never less than Retry-After.

    Full jitter, because 10,000 ranks that lost the coordinator at the same moment must not return in step.
    """

    def __init__(self, uniform: random.Random | None = None) -> None:
        self._random = uniform or random.Random()
        self.failures = 0

    def reset(self) -> None:
        self.failures = 0

    def next_delay_s(self, retry_after_s: float | None) -> float:
        cap_s = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(self.failures, 16))
        self.failures += 1
        least_s = min(retry_after_s or 0.0, RETRY_AFTER_CAP_S)
        return least_s + self._random.uniform(0.0, cap_s)


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """Seconds to wait, from either form of Retry-After (RFC 9110, 10.2.3); None if it is missing or not readable."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        import email.utils  # imported late: it is slow, and coordinators send seconds

        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - now_s
        except ValueError:
            return None
    return seconds if 0 < seconds < float("inf") else 0.0


def log_level(failures: int) -> int:
    """A warning for the first failure in a row; that it continues is only for debugging."""
    return logging.WARNING if failures == 1 else logging.DEBUG
