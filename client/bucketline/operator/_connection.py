"""The connection under an operator's calls, and what an operator asks of the coordinator itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, TypeVar

from .. import _wire
from .._transport.transport import Transport
from .._types import Json

T = TypeVar("T")


class Connection:
    """Requests that are repeated until ``_timeout_s`` has passed. ``Operator`` sets both attributes."""

    _transport: Transport
    _timeout_s: float

    def events(
        self, run: str | None = None, *, limit: int | None = None, after: int | None = None
    ) -> list[Json]:
        """What has happened recently, newest first.

        ```python
        for event in operator.events("sdxl-base", limit=20):
            print(event)
        ```

        Args:
            run: the events of this run; unless given, of all.
            limit: how many, up to 1,000; 100 unless given.
            after: only events newer than the one with this `id`.
        """
        return self._read(_wire.path("events"), _wire.list_from("events"), run=run, limit=limit, after=after)

    def status(self) -> Json:
        """Whether the coordinator can serve: its `version`, `status`, and `map_root` if it has one.

        ```python
        print(operator.status()["version"])
        ```

        Raises:
            CoordinatorUnavailable: if it cannot serve, or cannot reach its store.
        """
        return {**self._get("/healthz"), **self._get("/readyz")}

    @property
    def url(self) -> str:
        """The replica that is currently asked, without a name and password in its address."""
        return self._transport.url

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get_list(self, path: str, name: str) -> list[Json]:
        return self._read(path, _wire.list_from(name))

    def _get(self, path: str, **params: int | str | None) -> Json:
        return self._read(path, _wire.document, **params)

    def _read(self, path: str, reader: Callable[[Json], T], **params: int | str | None) -> T:
        request = _wire.Request("GET", path, params=given_params(params))
        return self._transport.call(request, self._timeout_s, reader)

    def _ask(self, request: _wire.Request) -> Json:
        return self._transport.call(request, self._timeout_s, _wire.document)


def given_params(params: dict[str, int | str | None]) -> tuple[tuple[str, str], ...]:
    """Query parameters, without those that are None."""
    return tuple((name, str(value)) for name, value in params.items() if value is not None)
