"""The errors of the client, one tree. What can be retried has been retried before one of them is raised.

BucketlineError
+- UsageError              the call is wrong; detected before any request (also a ValueError)
+- ClientClosed            the client was closed before this call
+- EndOfRun                the run has an end (``epochs`` in its spec), and this rank has reached it
+- CoordinatorUnavailable  no answer before the deadline: nothing is lost, call again
+- ProtocolError           no coordinator has ever answered, but something else has (wrong URL?); or an answer that
                           contradicts itself
+- SessionReused           the session's name belongs to an earlier start of the job
+- PlanFailed              the coordinator could not plan the run
+- Refused                 the coordinator refused the request, and would refuse it again
   +- Invalid              422, ``field`` says what is wrong
   +- NotFound             404, no such map, run, rank or image
   +- Conflict             409, the name is taken by other content, or the thing is in use
   +- Fenced               409, another process or a newer start of the job holds this rank
   +- PlanMismatch         409, the state dict belongs to another plan
   +- TooLarge             413
   +- Unauthorized         401, no token or a wrong one
   +- Forbidden            403, a worker's token where an operator's is required

Every constructor takes one message and optional keywords, so that errors survive pickling and the re-raising
of DataLoader workers, which build them from their text.
"""

# N818: these are names from the protocol (``fenced``, ``not_found``); a suffix would only make them longer.
# ruff: noqa: N818

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class BucketlineError(Exception):
    """Base class of every error that this package raises on purpose.

    ```python
    try:
        batch = client.next_batch(rank)
    except bucketline.BucketlineError as error:
        log.error("no batch: %s", error)
    ```
    """


class UsageError(BucketlineError, ValueError):
    """An argument, a state dict or the environment is wrong, or the run is not one for this call. Nothing has changed.

    ```python
    client.next_batch("0")  # UsageError: rank must be an integer >= 0, got '0'
    ```
    """


class ClientClosed(BucketlineError):
    """`close()` was called; create a new client.

    ```python
    client.close()
    client.next_batch(0)  # ClientClosed
    ```
    """


class EndOfRun(BucketlineError):
    """There is no further batch for this rank: the run ends after the last epoch of its spec.

    ```python
    while True:
        try:
            train(client.next_batch(rank))
        except bucketline.EndOfRun:
            break
    ```
    """


class CoordinatorUnavailable(BucketlineError):
    """The deadline passed without an answer. Nothing is lost and the client stays usable: call again.

    ```python
    try:
        client.flush(timeout_s=5)
    except bucketline.CoordinatorUnavailable as error:
        print(f"no answer in {error.waited_s:.0f} s, after {error.attempts} attempts")
    ```

    Attributes:
        attempts: how many requests failed in a row.
        waited_s: how long the caller waited, in seconds.
        code: the coordinator's error code, if it gave one (`store_unavailable`, `planning`).
    """

    def __init__(
        self, message: str, *, attempts: int = 0, waited_s: float = 0.0, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.attempts = attempts
        self.waited_s = waited_s
        self.code = code


class ProtocolError(BucketlineError):
    """Something other than a coordinator answers, and no coordinator ever has; or an answer contradicts itself.

    Once a coordinator has answered, such answers are retried until the deadline, which ends in
    `CoordinatorUnavailable`.

    ```python
    Operator("http://intranet-login").runs()  # ProtocolError: no coordinator has answered at ...
    ```
    """


class SessionReused(BucketlineError):
    """The session was started from another place than the one requested now. Give every start of the job a new name.

    ```python
    client.begin(state, session=f"{job_id}.{restart_count}")
    ```
    """


class PlanFailed(BucketlineError):
    """The run's status is `failed`; the message is the coordinator's reason.

    ```python
    try:
        operator.put_run("sdxl-base", spec)
    except bucketline.PlanFailed as error:
        sys.exit(str(error))
    ```
    """


class Refused(BucketlineError):
    """A refusal that repeating the request cannot change.

    ```python
    try:
        operator.put_run("sdxl-base", spec)
    except bucketline.Refused as error:
        print(error.status, error.code, error.problem)
    ```

    Attributes:
        status: the HTTP status.
        code: the coordinator's error code, such as `conflict`.
        problem: the whole RFC 9457 problem document.
    """

    def __init_subclass__(cls, *, code: str | None = None) -> None:
        if code is not None:
            BY_CODE[code] = cls

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


BY_CODE: dict[str, type[Refused]] = {}
"""The protocol's codes, from the classes below. Any other code of the coordinator is a plain ``Refused``."""

OTHER_CODES = frozenset(
    {"damaged", "internal", "method_not_allowed", "misdirected", "planning", "store_unavailable"}
)
"""Codes without a class: answers that are retried until the deadline, or refusals that no program handles."""


class Invalid(Refused, code="invalid"):
    """The request is wrong: 422.

    ```python
    try:
        operator.put_run("sdxl-base", {"map": "photos", "world_size": 8, "batch_size": 0})
    except bucketline.Invalid as error:
        print(error.field)  # batch_size
    ```
    """

    @property
    def field(self) -> str | None:
        """The dotted path of what is wrong in the request, if the coordinator named it."""
        field = self.problem.get("field")
        return field if isinstance(field, str) else None


class NotFound(Refused, code="not_found"):
    """There is no such map, run, rank or image: 404.

    ```python
    with contextlib.suppress(bucketline.NotFound):
        operator.delete_run("sdxl-base")
    ```
    """


class Conflict(Refused, code="conflict"):
    """The name is taken by other content, or the thing is in use: 409.

    ```python
    try:
        operator.delete_map("photos")
    except bucketline.Conflict as error:
        print("still used by", error.problem.get("runs"))
    ```
    """


class Fenced(Refused, code="fenced"):
    """Another holder, or a newer start of the job, has taken this rank; this client has changed nothing since: 409.

    The client never takes the rank back by itself. A new client does, and so do `begin`, `start_session` and
    `load_state_dict`.

    ```python
    try:
        batch = client.next_batch(rank)
    except bucketline.Fenced:
        sys.exit("this process has been replaced")
    ```
    """


class PlanMismatch(Refused, code="plan_mismatch"):
    """The state dict was saved under another plan (other map, seed, batch size ...), so its place is meaningless: 409.

    The message says which run has that plan, if one has. Also raised for a run that was planned by a release of the
    coordinator with another version of the planner.

    ```python
    try:
        client.begin(state)
    except bucketline.PlanMismatch as error:
        print("the checkpoint differs from the run in:", error.differs)
    ```
    """

    @property
    def expected(self) -> str | None:
        """The run's fingerprint."""
        return self._text("expected")

    @property
    def given(self) -> str | None:
        """The state dict's fingerprint."""
        return self._text("given")

    @property
    def differs(self) -> list[str]:
        """Where the plans differ: `version` (the planner's), `map`, `valid_ids`, `buckets` (their sizes or batch
        sizes) or `spec` (the rest of it)."""
        differs = self.problem.get("differs")
        return [str(part) for part in differs] if isinstance(differs, list) else []

    def _text(self, name: str) -> str | None:
        value = self.problem.get(name)
        return value if isinstance(value, str) else None


class TooLarge(Refused, code="too_large"):
    """A body or a count is over the coordinator's limit: 413.

    ```python
    operator.batches("sdxl-base", epoch=0, step=0, rank=0, count=10**6)  # TooLarge
    ```
    """


class Unauthorized(Refused, code="unauthorized"):
    """There is no token, or the coordinator does not know it: 401. Set `BUCKETLINE_TOKEN` or pass `token`.

    ```python
    client = BucketClient(url, run="sdxl-base", token=secret)
    ```
    """


class Forbidden(Refused, code="forbidden"):
    """The token is known, but lacks the permission: a worker's token where an operator's is required: 403.

    ```python
    Operator(url, token=worker_token).delete_run("sdxl-base")  # Forbidden
    ```
    """


CODES = frozenset(BY_CODE) | OTHER_CODES
"""Every code that a coordinator of this release may answer with."""
