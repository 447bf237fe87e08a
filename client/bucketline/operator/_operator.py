"""The operator's calls: maps and runs put, looked at and deleted. For scripts and the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

from .. import _wire
from .._checks import includes, seconds
from .._errors import CoordinatorUnavailable, PlanFailed, UsageError
from .._transport.tls import Verify
from .._transport.transport import Transport
from .._transport.urls import Urls, check_urls
from .._types import Batch, Json
from ._map_files import SUFFIXES, Paths, chunks, counted, format_of, parts_of, tar

T = TypeVar("T")

CONTENT_TYPES = {
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "json": "application/x-ndjson",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
    "npz": "application/x-npz",
    "pickle": "application/x-pickle",
    "tar": "application/x-tar",
}
LEDGER_FORMATS = ("csv", "parquet")
POLL_S = 0.2


class Operator:
    """What an operator does with a coordinator. ``token`` is ``BUCKETLINE_TOKEN`` unless given. ``url`` may be several
    replicas, and ``verify`` a CA: both as ``BucketClient`` takes them, but the first of several is asked first.

    Answers are the coordinator's documents as they are. Every call is repeated until ``timeout_s`` is over,
    and raises ``CoordinatorUnavailable`` then. Not to be shared with a forked child.
    """

    def __init__(
        self,
        url: Urls,
        token: str | None = None,
        *,
        timeout_s: float = 60.0,
        verify: Verify | None = None,
    ) -> None:
        self._timeout_s = seconds("timeout_s", timeout_s)
        urls = check_urls(url)
        # one that takes connections and says nothing must leave time to ask the others
        attempt_s = min(30.0, self._timeout_s / len(urls))
        self._transport = Transport(urls, token, request_timeout_s=attempt_s, verify=verify)

    # --- maps -----------------------------------------------------------------------------------------------

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
        """Upload a resolution map: a file (streamed), bytes, or ``{"uri": …}`` for one that the coordinator
        can read. A map may also be a folder of files of one format, as Spark writes them, a pattern
        (``"out/*.parquet"``) or a list of files. Of folders, hidden files and those with ``_`` in front are left out.

        ``format`` is a key of ``CONTENT_TYPES``; unless given it follows from the file's suffix. ``columns`` names the
        columns of ``id``, ``width`` and ``height``, and of ``orientation``, ``num_repeats`` and ``num_frames`` where
        there are such, if the coordinator does not find them by itself; an empty name leaves one of these three out.
        ``skip_missing_sizes`` leaves out rows without a width or a height; the answer's ``num_skipped`` says how many.
        ``progress`` is called with how many bytes are sent, from 0 on again where the upload is repeated.
        """
        target = _wire.path("maps", name)
        names = tuple((f"{what}_column", column) for what, column in (columns or {}).items())
        if skip_missing_sizes:
            names += (("skip_missing_sizes", "true"),)
        if isinstance(source, Mapping):
            return self._ask(_wire.Request("PUT", target, body=dict(source), params=names))
        if isinstance(source, bytes):
            data = source
            content_type = content_type or _content_type(None, format)
            return self._ask(_wire.upload(target, names, lambda: data, content_type))
        parts = parts_of(source)
        if len(parts) == 1:
            file = parts[0].path
            content_type = content_type or _content_type(file, format)
            file.stat()  # a missing file is the caller's mistake: tell it before anything is sent
            return self._ask(
                _wire.upload(target, names, lambda: counted(chunks(file), progress), content_type)
            )
        for part in parts:
            _content_type(part.path, format)
            part.path.stat()
        told = "jsonl" if format == "json" else format
        return self._ask(
            _wire.upload(target, names, lambda: counted(tar(parts, told), progress), CONTENT_TYPES["tar"])
        )

    def maps(self) -> list[Json]:
        return self._get_list(_wire.path("maps"), "maps")

    def map(self, name: str) -> Json:
        return self._get(_wire.path("maps", name))

    def delete_map(self, name: str) -> None:
        self._ask(_wire.Request("DELETE", _wire.path("maps", name)))

    # --- runs -----------------------------------------------------------------------------------------------

    def put_run(
        self,
        name: str,
        spec: Mapping[str, Any],
        *,
        wait: bool = True,
        timeout_s: float = 3600.0,
        progress: Callable[[Json], None] | None = None,
    ) -> Json:
        """Create the run, or find that it is there with the same spec. ``wait`` until its plan is ready, up
        to ``timeout_s``; ``PlanFailed`` where it can not be planned. ``progress`` is called with each document of
        the run that is still planned."""
        timeout_s = seconds("timeout_s", timeout_s, may_be_zero=True)
        started_s = time.monotonic()
        document = self._ask(_wire.Request("PUT", _wire.run_path(name), body=dict(spec)))
        while wait and document.get("status") == "planning":
            if time.monotonic() - started_s > timeout_s:
                raise self._transport.unavailable(f"when {name} is planned", None, 0, timeout_s)
            if progress is not None:
                progress(document)
            time.sleep(POLL_S)
            document = self.run(name)
        if wait and document.get("status") == "failed":
            raise PlanFailed(f"run {name!r}: {document.get('detail') or 'planning failed'}")
        return document

    def runs(self) -> list[Json]:
        return self._get_list(_wire.path("runs"), "runs")

    def run(self, name: str) -> Json:
        return self._get(_wire.run_path(name))

    def stats(self, run: str) -> Json:
        return self._get(_wire.run_path(run, "stats"))

    def ranks(self, run: str) -> list[Json]:
        return self._get_list(_wire.run_path(run, "ranks"), "ranks")

    def image(self, run: str, id: int | str, *, epoch: int | None = None, map: str | None = None) -> Json:
        """Why this image is where it is, and when it comes in ``epoch`` (the current one unless given). ``map``: of
        several the one that the image is of, where more than one has its id."""
        return self._get(_wire.run_path(run, "images", id), epoch=epoch, map=map)

    def batches(
        self,
        run: str,
        epoch: int,
        step: int,
        rank: int,
        count: int = 1,
        *,
        world_size: int | None = None,
        include: Sequence[str] = (),
    ) -> list[Batch]:
        """The plan itself from one step on, moving nothing. ``include``: as of ``BucketClient``."""
        what = _wire.run_path(run, "batches")
        place = {"epoch": epoch, "step": step, "rank": rank}
        besides = ",".join(includes(include)) or None
        given = {**place, "count": count, "world_size": world_size, "include": besides}
        return self._read(what, _wire.batches_from, **given)

    def ledger(
        self,
        run: str,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        from_epoch: int | None = None,
        to_epoch: int | None = None,
        world_size: int | None = None,
        format: str | None = None,
        timeout_s: float = 600.0,
    ) -> int:
        """Which images the epochs ``from_epoch`` … ``to_epoch``, inclusive, leave out, repeat or never serve, streamed
        to a file: how many bytes that are. The present epoch unless given, and ``to_epoch`` is ``from_epoch`` unless
        given.

        ``format`` is ``csv`` or ``parquet``; unless given it follows from the file's suffix. A file is there when it is
        whole, and is asked for anew where the answer breaks off; to a binary stream it is written as it comes, and
        ``CoordinatorUnavailable`` says that it broke off. ``timeout_s`` is also how long the coordinator may be silent.
        """
        timeout_s = seconds("timeout_s", timeout_s)
        stream, path = (None, Path(target)) if isinstance(target, (str, os.PathLike)) else (target, None)
        if format is None:
            format = SUFFIXES.get(path.suffix.lower()) if path else "csv"
        if format not in LEDGER_FORMATS:
            raise UsageError(f"format: one of {', '.join(LEDGER_FORMATS)}, not {format!r}")
        given = {"from": from_epoch, "to": to_epoch, "world_size": world_size, "format": format}
        params = tuple((name, str(value)) for name, value in given.items() if value is not None)
        what = _wire.run_path(run, "ledger")
        request = _wire.download(what, params, CONTENT_TYPES[format], timeout_s)
        if stream is not None:
            return self._download(request, timeout_s, stream)
        assert path is not None
        part = path.with_name(f"{path.name}.part")
        try:
            with part.open("wb") as file:
                num_bytes = self._download(request, timeout_s, file, may_rewind=True)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return num_bytes

    def _download(
        self, request: _wire.Request, timeout_s: float, target: BinaryIO, *, may_rewind: bool = False
    ) -> int:
        num_bytes = 0

        def read(chunks: Iterator[bytes]) -> None:
            nonlocal num_bytes
            if num_bytes and not may_rewind:
                raise CoordinatorUnavailable(
                    f"{request}: the answer broke off after {num_bytes:,} bytes, which are written: "
                    "ask again, or have it written to a file"
                )
            if num_bytes:
                target.seek(0)
                target.truncate()
                num_bytes = 0
            for chunk in chunks:
                target.write(chunk)
                num_bytes += len(chunk)

        self._transport.call(request, max(timeout_s, self._timeout_s), _wire.document, read)
        return num_bytes

    def delete_run(self, name: str, *, force: bool = False) -> None:
        """``Conflict`` where any of its ranks was heard of in the last minute, unless ``force``."""
        params = (("force", "true"),) if force else ()
        self._ask(_wire.Request("DELETE", _wire.run_path(name), params=params))

    # --- previews -------------------------------------------------------------------------------------------

    def preview(
        self, map: str, specs: Sequence[Mapping[str, Any]], *, timeout_s: float = 600.0
    ) -> list[Json]:
        """What each of up to 16 run specs (their ``map`` left out) would cost on a map: ``{"spec", "stats"}``, or
        ``{"spec", "problem"}`` where it can not be met. Nothing is kept."""
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
        """The same of specs by name, for people: ``previews`` in their order, and ``comparison`` with the ``rows`` of a
        table and the ``figure`` of a chart. Each preview that can be met has a ``figure`` too. Figures are plotly's:
        ``plotly.graph_objects.Figure(figure)``, for a ``light`` or a ``dark`` ground; ``narrow`` for a phone."""
        body = {"map": map, "specs": [dict(spec) for spec in specs.values()], "names": list(specs)}
        params = (("figure", theme), ("narrow", str(narrow).lower()))
        return self._preview(body, params, timeout_s, _wire.document)

    def _preview(
        self, body: Json, params: tuple[tuple[str, str], ...], timeout_s: float, reader: Callable[[Json], T]
    ) -> T:
        timeout_s = seconds("timeout_s", timeout_s)
        request = _wire.Request("POST", _wire.path("previews"), body=body, params=params, timeout_s=timeout_s)
        return self._transport.call(request, max(timeout_s, self._timeout_s), reader)

    # --- the coordinator ------------------------------------------------------------------------------------

    def events(
        self, run: str | None = None, *, limit: int | None = None, after: int | None = None
    ) -> list[Json]:
        """What has happened of late, newest first, of one run or of all: 100 unless ``limit`` says otherwise, up to
        1,000. ``after`` the ``id`` of the newest that is known, only what is new."""
        return self._read(_wire.path("events"), _wire.list_from("events"), run=run, limit=limit, after=after)

    def status(self) -> Json:
        """Whether the coordinator can serve: its ``version``, ``status``, and ``map_root`` where it has one.
        ``CoordinatorUnavailable`` where it can not, or where its store can not be reached."""
        return {**self._get("/healthz"), **self._get("/readyz")}

    @property
    def url(self) -> str:
        """The replica that is asked at present, without a name and password in its address."""
        return self._transport.url

    # --- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Operator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _get_list(self, path: str, name: str) -> list[Json]:
        return self._read(path, _wire.list_from(name))

    def _get(self, path: str, **params: int | str | None) -> Json:
        return self._read(path, _wire.document, **params)

    def _read(self, path: str, reader: Callable[[Json], T], **params: int | str | None) -> T:
        given = tuple((name, str(value)) for name, value in params.items() if value is not None)
        return self._transport.call(_wire.Request("GET", path, params=given), self._timeout_s, reader)

    def _ask(self, request: _wire.Request) -> Json:
        return self._transport.call(request, self._timeout_s, _wire.document)


def _content_type(path: Path | None, format: str | None) -> str:
    """``path``: of a file, None for bytes."""
    if format is None:
        if path is None:
            raise UsageError(f"format: of bytes, one of {', '.join(CONTENT_TYPES)} is needed")
        format = format_of(path)
        if format is None:
            known = ", ".join(CONTENT_TYPES)
            raise UsageError(
                f"{path}: its name does not say its format: name it {', '.join(SUFFIXES)}, with .gz after it where "
                f"that is packed text, or pass format=NAME, one of {known}"
            )
    if format not in CONTENT_TYPES:
        raise UsageError(f"format: one of {', '.join(CONTENT_TYPES)}, not {format!r}")
    return CONTENT_TYPES[format]
