"""Resolution maps: put, look at, delete."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .. import _wire
from .._types import Json
from ._connection import Connection
from ._map_files import CONTENT_TYPES, Paths, chunks, content_type_of, counted, parts_of, tar


class MapCalls(Connection):
    def put_map(
        self,
        name: str,
        source: Paths | bytes | Mapping[str, Any],
        *,
        format: str | None = None,
        content_type: str | None = None,
        columns: Mapping[str, str] | None = None,
        skip_missing_sizes: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Json:
        """Upload a resolution map.

        ```python
        about = operator.put_map("photos", "photos.parquet")
        print(about["num_images"])
        ```

        Args:
            name: the map's name.
            source: a file (streamed), a folder of files of one format as Spark writes them, a pattern
                (`"out/*.parquet"`), a list of these, the bytes of a file, or `{"uri": ...}` for a map that the
                coordinator can read. Hidden files in folders, and those that start with `_`, are left out.
            format: `csv`, `tsv`, `jsonl`, `parquet`, `arrow`, `npz`, `pickle` or `tar`; unless given it follows from
                the file's suffix.
            content_type: the media type to send, instead of that of `format`.
            columns: the names of the columns `id`, `width` and `height`, and of `orientation`, `num_repeats` and
                `num_frames` if there are any, where the coordinator does not find them itself. An empty name leaves
                one of the last three out.
            skip_missing_sizes: leave out rows without a width or a height; `num_skipped` in the answer counts them.
            progress: called with the number of bytes sent so far, from 0 again if the upload is repeated.

        Returns:
            The coordinator's document about the map.

        Raises:
            UsageError: if no file is found, or its format is unknown.
            Invalid: if the map cannot be read; `field` names the column or row.
            Conflict: if another map has this name.
        """
        target = _wire.path("maps", name)
        params = tuple((f"{what}_column", column) for what, column in (columns or {}).items())
        if skip_missing_sizes:
            params += (("skip_missing_sizes", "true"),)
        if isinstance(source, Mapping):
            return self._ask(_wire.Request("PUT", target, body=dict(source), params=params))
        if isinstance(source, bytes):
            data = source
            content_type = content_type or content_type_of(None, format)
            return self._ask(_wire.upload(target, params, lambda: data, content_type))
        parts = parts_of(source)
        # a missing or unknown file is the caller's mistake: report it before anything is sent
        if len(parts) > 1:
            for part in parts:
                content_type_of(part.path, format)
            content_type = CONTENT_TYPES["tar"]
        content_type = content_type or content_type_of(parts[0].path, format)
        for part in parts:
            part.path.stat()

        def content() -> Iterator[bytes]:
            sent = chunks(parts[0].path) if len(parts) == 1 else tar(parts, format)
            return counted(sent, progress)

        return self._ask(_wire.upload(target, params, content, content_type))

    def maps(self) -> list[Json]:
        """The documents of all maps."""
        return self._get_list(_wire.path("maps"), "maps")

    def map(self, name: str) -> Json:
        """The document of one map: its `digest`, `num_images` and so on."""
        return self._get(_wire.path("maps", name))

    def delete_map(self, name: str) -> None:
        """Delete a map; `Conflict` if a run uses it."""
        self._ask(_wire.Request("DELETE", _wire.path("maps", name)))
