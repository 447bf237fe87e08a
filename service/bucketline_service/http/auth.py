"""Authentication by bearer token. A worker's token may read, move cursors and report images, an operator's may do
everything; while no token is set, every caller may do everything."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Coroutine, Set
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from bucketline_service.errors import Invalid
from bucketline_service.http.body_limits import JsonRequest
from bucketline_service.http.problems import Forbidden, Unauthorized, documented

_bearer = HTTPBearer(auto_error=False, description="BUCKETLINE_TOKEN: a worker's or an operator's")


class Tokens:
    """The valid tokens. Several of each kind may be valid, so that they can be replaced without an interruption.
    ``renew`` replaces all of them at once while requests are served."""

    def __init__(self, worker: frozenset[str] = frozenset(), operator: frozenset[str] = frozenset()) -> None:
        self._known = (frozenset(map(str.encode, worker)), frozenset(map(str.encode, operator)))

    @property
    def known(self) -> tuple[frozenset[bytes], frozenset[bytes]]:
        """The workers' and the operators' tokens."""
        return self._known

    def renew(self, other: Tokens) -> None:
        self._known = other.known

    def __bool__(self) -> bool:
        return any(self._known)


Guard = Callable[[HTTPAuthorizationCredentials | None], Awaitable[None]]


@dataclass(frozen=True)
class Guards:
    """Dependencies of routes that require any token, or an operator's; as dependencies they appear in OpenAPI.

    ``route`` is the class of these routes. It checks the token before the body is read, where FastAPI would read
    megabytes from a caller without a token first. It also refuses unknown query parameters, and limits what reading
    JSON may cost."""

    any: Guard
    operator: Guard
    route: type[APIRoute]

    @classmethod
    def of(cls, tokens: Tokens) -> Guards:
        async def any_token(given: HTTPAuthorizationCredentials | None = Depends(_bearer)) -> None:  # noqa: B008 - how FastAPI is told
            check_token(tokens, _sent(given), operator=False)

        async def operator_token(given: HTTPAuthorizationCredentials | None = Depends(_bearer)) -> None:  # noqa: B008 - how FastAPI is told
            check_token(tokens, _sent(given), operator=True)

        guards, turn = (any_token, operator_token), asyncio.Lock()

        class GuardedRoute(APIRoute):
            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                handle = super().get_route_handler()
                known = {parameter.alias for parameter in self.dependant.query_params}
                mine = [guard for guard in guards for each in self.dependencies if each.dependency is guard]

                async def guarded(request: Request) -> Response:
                    for guard in mine:
                        await guard(await _bearer(request))
                    if request.scope["query_string"]:
                        check_query(request, known)
                    return await handle(JsonRequest(request, turn))

                return guarded

        return cls(any_token, operator_token, GuardedRoute)

    def readers(self, *statuses: int, also: dict[int | str, Any] | None = None) -> dict[str, Any]:
        """How a route is declared that any token may call. ``statuses``: of its errors, besides those that every such
        route can have: of the token, the parameters and the store. ``also``: its other answers, by status."""
        responses = {**(also or {}), **documented(401, 422, 503, *statuses)}
        return {"dependencies": [Depends(self.any)], "responses": responses}

    def operators(self, *statuses: int, also: dict[int | str, Any] | None = None) -> dict[str, Any]:
        """The same for a route that requires an operator's token."""
        return {**self.readers(403, *statuses, also=also), "dependencies": [Depends(self.operator)]}


def check_token(tokens: Tokens, given: bytes | None, *, operator: bool) -> None:
    """Raise ``Unauthorized`` or ``Forbidden`` unless the bearer token ``given`` may do what an operator may, or what a
    worker may. Without tokens everybody may do everything."""
    worker_tokens, operator_tokens = tokens.known
    if not (worker_tokens or operator_tokens):
        return
    if given is None:
        raise Unauthorized("this coordinator requires a token. Send Authorization: Bearer TOKEN")
    is_operator = _is_among(given, operator_tokens)
    is_worker = _is_among(given, worker_tokens)
    if not (is_operator or is_worker):
        raise Unauthorized("the token is unknown")
    if operator and not is_operator:
        raise Forbidden(
            "a worker's token may only read, move cursors and report images. Use an operator's token"
        )


def bearer_token(authorization: bytes | None) -> bytes | None:
    """The token of an ``Authorization`` header; None where it has none."""
    scheme, _, token = (authorization or b"").partition(b" ")
    return (token.strip() or None) if scheme.lower() == b"bearer" else None


def _sent(given: HTTPAuthorizationCredentials | None) -> bytes | None:
    return None if given is None else given.credentials.encode("latin-1")  # as Starlette has decoded it


def check_query(request: Request, known: Set[str]) -> None:
    """Refuse unknown parameters: a misspelt one would be ignored otherwise."""
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is not None:
        names = f"It takes {', '.join(sorted(known))}" if known else "It takes none"
        raise Invalid(unknown[:80] or "query", "is not a query parameter of this call", names)


def _is_among(given: bytes, known: frozenset[bytes]) -> bool:
    """Compares with every token, each in constant time, so that the time it takes reveals nothing."""
    found = False
    for token in known:
        found |= hmac.compare_digest(given, token)
    return found
