"""Whether an HTTP answer is the coordinator's own, or that of something in between: an ingress, a proxy, a login page.

Only the coordinator can refuse a request. What another says in its place (an ingress 404 while its routes are
reloaded, a proxy's 403, a redirect to a login page) says nothing about the request, so it is asked again as after 503.
"""

from __future__ import annotations

import json
import re

from .._errors import BY_CODE
from .._types import Json
from .urls import shown

CODES = frozenset(BY_CODE) | {"planning", "store_unavailable", "method_not_allowed", "internal"}
URN = "urn:bucketline:problem:"
"""What the ``type`` of a coordinator's problem documents begins with, also where a later release has a new code."""
SHOWN_BYTES, SHOWN_CHARACTERS = 2000, 80


def media_type(content_type: str) -> str:
    """``text/html`` of ``Text/HTML; charset=utf-8``."""
    return content_type.partition(";")[0].strip().lower()


def own_problem(content_type: str, content: bytes) -> Json | None:
    """The coordinator's problem document; None where the error is not the coordinator's."""
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
    """What somebody else answered, in one line: the text of a page without its tags, where a redirect leads to."""
    if 300 <= status < 400 and location:
        # the query of an address is often a secret: a login's state, a signature
        return f"{status}, a redirect to {shown(location.partition('?')[0])[:200]!r}"
    text = re.sub(r"<[^>]*>", " ", content[:SHOWN_BYTES].decode(errors="replace"))
    said = " ".join(text.split())[:SHOWN_CHARACTERS]
    return f"{status} {media_type(content_type) or 'without a content type'} {said!r}"
