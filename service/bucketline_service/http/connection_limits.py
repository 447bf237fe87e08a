"""Limits what one connection may cost before any token is checked: uvicorn's protocol with limits on the head of a
request, on pipelined requests, and on how long it waits for the client. (The app limits the size of bodies.)"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bucketline_service.http.browser_headers import DATA

MAX_HEAD_BYTES = 1 << 16
"""The most bytes of a request's line and headers, or of the trailers after a chunked body. The parser has no limit of
its own."""

MAX_WAITING = 32
"""The most pipelined requests that wait on a connection. Each costs far more than its few bytes, and common clients do
not pipeline."""

RESERVED_FILES = 256
"""Open files that are reserved for the store, maps, plans and the listening socket."""


_HEADERS = "".join(f"{name}: {value}\r\n" for name, value in DATA.items()).lower().encode()


class BoundedProtocol(HttpToolsProtocol):
    """``timeout_s``: how long a whole head may take, how long a client may pause while it sends a body or reads a
    response, and how long it may keep sending a body that has been refused."""

    def __init__(self, *arguments: Any, timeout_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timeout_s = timeout_s
        self._num_unheard_bytes = 0
        self._num_unsent_bytes = 0
        self._read_s = 0.0
        self._is_in_body = False
        self._since_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        self._since_s = self.loop.time()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._since_s is None or (self._is_in_body and not self._is_answered):
            self._since_s = self.loop.time()
        self._num_unheard_bytes += len(data)
        super().data_received(data)
        if self._num_unheard_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            detail = f"the headers of a request must be at most {MAX_HEAD_BYTES:,} bytes"
            self._refuse(b"431 Request Header Fields Too Large", 431, "too_large", detail)

    def on_headers_complete(self) -> None:
        self._num_unheard_bytes, self._is_in_body, self._since_s = 0, True, self.loop.time()
        super().on_headers_complete()
        if len(self.pipeline) > MAX_WAITING:
            self.pipeline.clear()
            raise ValueError("too many requests at a time")  # which makes the parser close the connection

    def on_body(self, body: bytes) -> None:
        self._num_unheard_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_unheard_bytes, self._is_in_body, self._since_s = 0, False, None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(b"400 Bad Request", 400, "invalid", msg)

    @property
    def _is_answered(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete

    def _refuse(self, line: bytes, status: int, code: str, detail: str) -> None:
        about = {"type": f"urn:bucketline:problem:{code}", "title": line[4:].decode(), "status": status}
        body = json.dumps({**about, "detail": detail, "code": code}).encode()
        head = b"HTTP/1.1 %b\r\ncontent-type: application/problem+json\r\n%bcontent-length: %d\r\n"
        self.transport.write(head % (line, _HEADERS, len(body)) + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def resume_writing(self) -> None:
        self._num_unsent_bytes = 0  # what the next check finds is new
        super().resume_writing()

    def _watch(self) -> None:
        """Check the connection now, and again whenever it may have timed out, until it is lost."""
        now_s = self.loop.time()
        unsent = self.transport.get_write_buffer_size()
        # if the app may still write, the buffer may be as full as before although the client has read
        is_stuck = unsent >= self._num_unsent_bytes > 0 and (self.flow.write_paused or self._is_answered)
        if not is_stuck:
            self._num_unsent_bytes, self._read_s = unsent, now_s
        begins = [self._read_s] if is_stuck else []
        # otherwise the client waits for the server
        if self._since_s is not None and not self.flow.read_paused:
            begins.append(self._since_s)
        left_s = min(begins, default=now_s) + self._timeout_s - now_s
        if left_s <= 0:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(left_s, self._watch)


def protocol(timeout_s: float) -> Any:
    """For uvicorn's option ``http``."""
    return partial(BoundedProtocol, timeout_s=timeout_s)


def most_connections(wanted: int) -> int:
    """How many of ``wanted`` connections the limit of open files allows, after raising it as far as possible."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - RESERVED_FILES))
