"""Why an attempt failed, and the error for a deadline that passed without a whole answer."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from .._errors import CoordinatorUnavailable, ProtocolError


class Reason(enum.Enum):
    """What kind of failure it was, which decides where the next attempt goes."""

    UNREACHABLE = "the connection failed or timed out"
    UNTRUSTED = "the certificate is not trusted"
    FOREIGN = "something other than a coordinator answered"
    UNAVAILABLE = "502, 503 or 504: down, overloaded, or unreachable from a proxy"
    BUSY = "asked to try again here: 408, 429, 500, or a plan that is being built"

    @property
    def tries_another_replica(self) -> bool:
        """Another replica would answer 500 as well, its plan is no further, and a client that is asked to slow down
        (429) does not evade that elsewhere."""
        return self is not Reason.BUSY


class Unanswered(Exception):  # noqa: N818 - never leaves this package
    """One attempt failed, and another one may not: the network, a timeout, 408, 429, any 5xx, or an answer that is not
    the coordinator's own. ``code`` is the coordinator's error code, where it gave one."""

    def __init__(
        self, message: str, reason: Reason, *, retry_after_s: float | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.code = code


def one_line(message: object) -> str:
    return " ".join(str(message).split())


def unavailable(
    urls: Sequence[str],
    failed: Sequence[str],
    what: str,
    cause: Unanswered | None,
    attempts: int,
    waited_s: float,
) -> CoordinatorUnavailable:
    """The error that says in one line what was tried, why it failed and what to do.

    ``urls`` are safe to display; ``failed`` says of each replica that has failed why, where there are several.
    """
    details = list(failed) if len(urls) > 1 else []
    if cause is None and (attempts or len(urls) == 1):
        details.insert(0, "the last: the request is still under way")
    elif cause is not None and len(urls) == 1:
        details.append(f"the last: {one_line(cause)}")
    last = "".join(f"; {each}" for each in details)
    who = f"{urls[0]} gave no answer" if len(urls) == 1 else f"none of {', '.join(urls)} gave an answer"
    if cause is None or cause.code is not None:
        advice = "call again, or wait longer (timeout_s)"
    else:
        advice = "is a coordinator running there? `bucketline serve` starts one; if it is elsewhere, change the url"
    return CoordinatorUnavailable(
        f"{who} to {what} in {waited_s:.1f} s ({attempts} attempts failed{last}): {advice}",
        attempts=attempts,
        waited_s=waited_s,
        code=cause.code if cause is not None else None,
    )


def never_a_coordinator(
    urls: Sequence[str], failed: Sequence[str], what: str, cause: Unanswered, attempts: int, waited_s: float
) -> ProtocolError:
    """The error for an address where only something other than a coordinator has ever answered."""
    last = one_line(cause) if len(urls) == 1 else "; ".join(failed)
    return ProtocolError(
        f"no coordinator has answered at {', '.join(urls)} to {what} in {waited_s:.1f} s ({attempts} attempts, "
        f"the last: {last}): is the url right, and does the proxy or ingress in front of the coordinator let the "
        "request through?"
    )
