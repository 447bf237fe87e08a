"""What plans would cost, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from .. import _wire
from .._checks import seconds
from .._types import Json
from ._connection import Connection

T = TypeVar("T")


class PreviewCalls(Connection):
    def preview(
        self, map: str, specs: Sequence[Mapping[str, Any]], *, timeout_s: float = 600.0
    ) -> list[Json]:
        """What each of several run specs would cost on a map. Nothing is stored.

        ```python
        for found in operator.preview("photos", [{"world_size": 8, "batch_size": size} for size in (16, 32)]):
            print(found.get("stats") or found["problem"])
        ```

        Args:
            map: the map's name.
            specs: up to 16 run specs, without their `map`.
            timeout_s: the limit of the whole call, in seconds.

        Returns:
            For each spec `{"spec", "stats", "warnings"}`, or `{"spec", "problem"}` if it cannot be met.
        """
        body = {"map": map, "specs": [dict(spec) for spec in specs]}
        return self._preview(body, (), timeout_s, _wire.list_from("previews"))

    def compare(
        self,
        map: str,
        specs: Mapping[str, Mapping[str, Any]],
        *,
        theme: str = "light",
        narrow: bool = False,
        timeout_s: float = 600.0,
    ) -> Json:
        """As `preview`, for specs by name, with a table and charts for people.

        ```python
        found = operator.compare("photos", {"small": small, "large": large})
        plotly.graph_objects.Figure(found["comparison"]["figure"]).show()
        ```

        Args:
            map: the map's name.
            specs: up to 16 run specs by name, without their `map`.
            theme: of the charts, `"light"` or `"dark"`.
            narrow: charts for a phone.
            timeout_s: the limit of the whole call, in seconds.

        Returns:
            `previews` in the order of `specs`, with a `figure` for each that can be met, and `comparison` with the
            `rows` of a table and the `figure` of a chart. Figures are plotly's.
        """
        body = {"map": map, "specs": [dict(spec) for spec in specs.values()], "names": list(specs)}
        params = (("figure", theme), ("narrow", str(narrow).lower()))
        return self._preview(body, params, timeout_s, _wire.document)

    def _preview(
        self, body: Json, params: tuple[tuple[str, str], ...], timeout_s: float, reader: Callable[[Json], T]
    ) -> T:
        timeout_s = seconds("timeout_s", timeout_s)
        request = _wire.Request("POST", _wire.path("previews"), body=body, params=params, timeout_s=timeout_s)
        return self._transport.call(request, max(timeout_s, self._timeout_s), reader)
