"""What an HTTP answer means, and whether it is the coordinator's own or that of something in between.

Only the coordinator can refuse a request. What an ingress, a proxy or a login page says in its place (a 404 while
routes are reloaded, a 403, a redirect) says nothing about the request, so the request is repeated as after a 503.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from .. import _wire
from .._errors import CODES, ProtocolError, Refused
from .._types import Json
from .failures import Reason, Unanswered
from .retry import retry_after_s
from .urls import without_credentials

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

URN = "urn:bucketline:problem:"
"""What the ``type`` of a coordinator's problem documents begins with, also if a later release has a new code."""
QUOTED_BYTES, QUOTED_CHARACTERS = 2000, 80

UNAVAILABLE_STATUSES = frozenset({502, 503, 504})
"""Gone, overloaded or behind a gap, where another replica may not be."""

FINAL_5XX = frozenset({501, 505, 511})
"""Not what a proxy says while its coordinator is away: an unknown method, another version of HTTP, a login page."""


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """The coordinator's document, read."""

    value: T


def is_expected(response: httpx.Response, request: _wire.Request) -> bool:
    """A success of the media type that was asked for; the body need not be read yet."""
    given = media_type(response.headers.get("Content-Type", ""))
    is_typed = given == (request.accept or "application/json") or (response.status_code == 204 and not given)
    return response.is_success and is_typed


def outcome_of(
    response: httpx.Response, request: _wire.Request, reader: Callable[[Json], T]
) -> Answered[T] | Refused | Unanswered:
    """The document that ``reader`` makes of it, the coordinator's refusal, or why the request has to be repeated."""
    if is_expected(response, request):
        return _read(response, reader)
    status, headers = response.status_code, response.headers
    wait_s = retry_after_s(headers.get("Retry-After"), time.time())
    problem = own_problem(headers.get("Content-Type", ""), response.content)
    if problem is None:
        return _not_a_coordinators(response, request, wait_s)
    if not _wire.is_retried(status):
        return _wire.refusal(request, status, problem)
    code = problem["code"]
    is_elsewhere_better = status in UNAVAILABLE_STATUSES and code != "planning"
    return Unanswered(
        f"{status} {problem.get('detail') or response.reason_phrase}",
        Reason.UNAVAILABLE if is_elsewhere_better else Reason.BUSY,
        retry_after_s=wait_s,
        code=code,
    )


def _read(response: httpx.Response, reader: Callable[[Json], T]) -> Answered[T] | Unanswered:
    what = f"{response.status_code} {media_type(response.headers.get('Content-Type', ''))}"
    try:
        document = _wire.read_json(response.content, what) if response.status_code != 204 else {}
        return Answered(_wire.read(document, reader, what))
    except ProtocolError as exc:
        return Unanswered(str(exc), Reason.FOREIGN)


def _not_a_coordinators(response: httpx.Response, request: _wire.Request, wait_s: float | None) -> Unanswered:
    status, headers = response.status_code, response.headers
    message = described(status, headers.get("Content-Type", ""), headers.get("Location"), response.content)
    if response.is_success:
        message += f", expected {request.accept or 'JSON'}"
    if status in FINAL_5XX or not _wire.is_retried(status):
        reason = Reason.FOREIGN
    else:
        reason = Reason.UNAVAILABLE if status in UNAVAILABLE_STATUSES else Reason.BUSY
    return Unanswered(message, reason, retry_after_s=wait_s)


def media_type(content_type: str) -> str:
    """``text/html`` of ``Text/HTML; charset=utf-8``."""
    return content_type.partition(";")[0].strip().lower()


def own_problem(content_type: str, content: bytes) -> Json | None:
    """The coordinator's problem document; None if the error is not the coordinator's."""
    if media_type(content_type) != "application/problem+json":
        return None
    try:
        problem = json.loads(content)
    except ValueError:
        return None
    if not isinstance(problem, dict) or not isinstance(problem.get("code"), str):
        return None
    is_own = problem["code"] in CODES or str(problem.get("type", "")).startswith(URN)
    return problem if is_own else None


def described(status: int, content_type: str, location: str | None, content: bytes) -> str:
    """An answer that is not the coordinator's, in one line: a page's text without tags, or where a redirect leads."""
    if 300 <= status < 400 and location:
        # the query of an address is often a secret: a login's state, a signature
        return f"{status}, a redirect to {without_credentials(location.partition('?')[0])[:200]!r}"
    text = re.sub(r"<[^>]*>", " ", content[:QUOTED_BYTES].decode(errors="replace"))
    quoted = " ".join(text.split())[:QUOTED_CHARACTERS]
    return f"{status} {media_type(content_type) or 'without a content type'} {quoted!r}"
