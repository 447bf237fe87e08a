"""The errors of the client, one tree. What can be retried has been retried when one of them is raised.

BucketlineError
+- UsageError              the call is wrong; found before anything was asked (also a ValueError)
+- ClientClosed            the client was closed before this call
+- EndOfRun                the run has an end (``epochs`` in its spec), and this rank has reached it
+- CoordinatorUnavailable  no answer until the deadline: nothing is lost, call again
+- ProtocolError           no coordinator has ever answered, but something else has (wrong URL?); or an answer that
                           contradicts itself
+- SessionReused           the session's name belongs to an earlier start of the job
+- PlanFailed              the coordinator could not plan the run
+- Refused                 the coordinator said no, and would say it again
   +- Invalid              422, ``field`` says what is wrong
   +- NotFound             404, no such map, run, rank or image
   +- Conflict             409, the name is taken by other content, or the thing is in use
   +- Fenced               409, another process or a newer start of the job holds this rank
   +- PlanMismatch         409, a state dict of another plan
   +- TooLarge             413
   +- Unauthorized         401, no token or a wrong one
   +- Forbidden            403, a worker's token where an operator's is needed

Every constructor takes one message and optional keywords, so that errors survive pickling and the re-raising
of DataLoader workers, which builds them from their text.
"""

# N818: these are names from the protocol (``fenced``, ``not_found``); a suffix would only make them longer.
# ruff: noqa: N818

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class BucketlineError(Exception):
    """Base of all that this package raises on purpose."""


class UsageError(BucketlineError, ValueError):
    """An argument, a state dict or the environment is wrong. Nothing was sent."""


class ClientClosed(BucketlineError):
    """``close()`` was called; make a new client."""


class EndOfRun(BucketlineError):
    """There is no further batch for this rank: its run ends after the last epoch of the spec."""


class CoordinatorUnavailable(BucketlineError):
    """The deadline passed without an answer; ``__cause__`` is the last failure.

    ``attempts`` counts the requests that failed in a row, ``waited_s`` is how long the caller waited,
    ``code`` is the coordinator's own word where it gave one (``store_unavailable``, ``planning``). The client
    stays usable.
    """

    def __init__(
        self, message: str, *, attempts: int = 0, waited_s: float = 0.0, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.attempts = attempts
        self.waited_s = waited_s
        self.code = code


class ProtocolError(BucketlineError):
    """Something else than a coordinator answers, and none has before (then it is waited out until the deadline, and is
    ``CoordinatorUnavailable``); or the coordinator's answer contradicts itself."""


class SessionReused(BucketlineError):
    """The session was begun from another place than the one asked for now: name each start of the job
    anew."""


class PlanFailed(BucketlineError):
    """The run's status is ``failed``; the message is the coordinator's reason."""


class Refused(BucketlineError):
    """An answer that repeating can not change. ``problem`` is the whole RFC 9457 document."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str | None = None,
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.problem = dict(problem or {})


class Invalid(Refused):
    """``field`` is a dotted path of what is wrong in the request, where the coordinator named it."""

    @property
    def field(self) -> str | None:
        field = self.problem.get("field")
        return field if isinstance(field, str) else None


class NotFound(Refused):
    """No such thing."""


class Conflict(Refused):
    """The name is taken by other content, or the thing is in use."""


class Fenced(Refused):
    """Another holder, or a newer start of the job, has taken this rank; nothing was changed by this client
    since.

    The client never takes the rank back by itself: ``start_session`` or ``load_state_dict`` do, or a new
    client.
    """


class PlanMismatch(Refused):
    """The state dict was saved under another plan (other map, seed, batch size …): its place means nothing
    here. The message says which run has that plan, where one has it.

    ``expected`` is the run's fingerprint, ``given`` the state's. ``differs`` says in what: ``version`` (the
    planner's), ``map``, ``valid_ids``, ``buckets`` (their sizes or batch sizes) or ``spec`` (its rest).

    Or the run itself was planned by a release of the coordinator with another version of the planner.
    """

    @property
    def expected(self) -> str | None:
        return self._text("expected")

    @property
    def given(self) -> str | None:
        return self._text("given")

    @property
    def differs(self) -> list[str]:
        differs = self.problem.get("differs")
        return [str(part) for part in differs] if isinstance(differs, list) else []

    def _text(self, name: str) -> str | None:
        value = self.problem.get(name)
        return value if isinstance(value, str) else None


class TooLarge(Refused):
    """A body or a count over the coordinator's limit."""


class Unauthorized(Refused):
    """No token, or one the coordinator does not know (``BUCKETLINE_TOKEN``)."""


class Forbidden(Refused):
    """The token is known, but may not do this."""


BY_CODE: dict[str, type[Refused]] = {
    "invalid": Invalid,
    "not_found": NotFound,
    "conflict": Conflict,
    "fenced": Fenced,
    "plan_mismatch": PlanMismatch,
    "too_large": TooLarge,
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
}
"""The protocol's codes. Another of the coordinator's, such as a later release may have, is a plain ``Refused``."""
