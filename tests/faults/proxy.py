"""A TCP proxy that misbehaves on command, between clients and a coordinator or between coordinators and Redis.

It knows where a request and where an answer ends (HTTP with a Content-Length, RESP), so that it can let a request take
effect and spoil its answer alone. One request of a connection is under way at a time, as both clients do it.

There is no library for this: PyPI has clients for proxies that are not in Python, and proxies that only forward.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

Read = Callable[[asyncio.StreamReader], Awaitable[bytes]]

LOSE, TRUNCATE, DOUBLE, DELAY, LATE, KILL = "lose", "truncate", "double", "delay", "late", "kill"
"""What is done to one request: its answer is dropped, or cut in half; it is sent twice, on two connections; its answer
comes later; it is itself passed on later, and its answer dropped; something is killed when it has been passed on."""

BUFFER_BYTES = 1 << 22
LONG_S = 120.0


async def read_http(reader: asyncio.StreamReader) -> bytes:
    """One request or one answer, as it came."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = [line.partition(b":") for line in head.lower().split(b"\r\n")[1:]]
    num_bytes = next((int(value) for name, _, value in fields if name == b"content-length"), 0)
    return head + await reader.readexactly(num_bytes)


async def read_resp(reader: asyncio.StreamReader) -> bytes:
    """One value of Redis' protocol (RESP 2): commands are arrays, answers anything."""
    line = await reader.readuntil(b"\r\n")
    if line[:1] == b"$" and (num_bytes := int(line[1:])) >= 0:
        return line + await reader.readexactly(num_bytes + 2)
    if line[:1] == b"*":
        return line + b"".join([await read_resp(reader) for _ in range(int(line[1:]))])
    return line


@dataclass
class Order:
    """What to do to the next request. ``hook`` is called for KILL."""

    action: str
    delay_s: float = 0.0
    hook: Callable[[], None] | None = None


class Proxy:
    """Listens on ``port`` in a separate thread, which ``start`` and ``close`` begin and end."""

    def __init__(self, port: int, read: Read, target: tuple[str, int]) -> None:
        self.port = port
        self.num_done = 0
        """Orders that were carried out."""
        self._read = read
        self._target = target
        self._orders: deque[Order] = deque()
        self._silent = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def num_connections(self) -> int:
        return len(self._tasks)

    # --- commands, from the driver's thread -----------------------------------------------------------------

    def start(self) -> Proxy:
        self._thread.start()
        self._wait(self._listen())
        return self

    def order(self, orders: list[Order]) -> None:
        """One order for each of the next requests."""
        self._loop.call_soon_threadsafe(self._orders.extend, orders)

    def cut(self) -> None:
        """Break every connection."""
        self._wait(self._cut())

    def refuse(self) -> None:
        """Break every connection, and refuse new ones until ``heal``."""
        self._wait(self._refuse())

    def silence(self) -> None:
        """Accept connections and requests, but forward and answer nothing until ``heal``, which breaks them."""
        self._silent = True

    def heal(self) -> None:
        self._wait(self._heal())

    def close(self) -> None:
        self._wait(self._refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(LONG_S)

    # --- in the loop ----------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=BUFFER_BYTES)

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _refuse(self) -> None:
        self._orders.clear()
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _heal(self) -> None:
        self._orders.clear()
        if self._silent:
            self._silent = False
            await self._cut()
        if self._server is None:
            await self._listen()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            # who hangs up, on either side, ends the connection on both
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                async with self._upstream() as upstream:
                    while await self._pass_on(reader, writer, upstream):
                        pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def _upstream(self) -> Any:
        reader, writer = await asyncio.open_connection(*self._target, limit=BUFFER_BYTES)
        self._writers.add(writer)
        try:
            yield reader, writer
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> bool:
        """One request and its answer. Whether the connection continues."""
        request = await self._read(reader)
        if self._silent:
            await asyncio.sleep(LONG_S)  # until heal
        order = self._orders.popleft() if self._orders else None
        if order is not None and order.action == LATE:
            # the sender need not wait: it gets no answer, and the request arrives anyway
            asyncio.get_running_loop().create_task(self._send_late(request, order.delay_s))
            return False
        upstream[1].write(request)
        if order is not None and order.action == KILL:
            assert order.hook is not None
            order.hook()
        answer = await self._read(upstream[0])
        if order is not None:
            return await self._spoil(order, writer, request, answer)
        writer.write(answer)
        return True

    async def _spoil(self, order: Order, writer: asyncio.StreamWriter, request: bytes, answer: bytes) -> bool:
        if order.action == DOUBLE:
            async with self._upstream() as (second, sender):
                sender.write(request)
                answer = await self._read(second)
        if order.action == DELAY:
            await asyncio.sleep(order.delay_s)
        if order.action == TRUNCATE:
            writer.write(answer[: len(answer) // 2])
            await writer.drain()
            writer.write_eof()
        if order.action in (DOUBLE, DELAY):
            writer.write(answer)
        self.num_done += 1
        return order.action in (DOUBLE, DELAY)

    async def _send_late(self, request: bytes, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        with contextlib.suppress(OSError, EOFError):
            async with self._upstream() as (reader, writer):
                writer.write(request)
                await self._read(reader)
        self.num_done += 1
