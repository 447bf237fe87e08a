"""A load on one core: connections that each drive some ranks, raw HTTP/1.1 so that the load costs less than the server.

Closed loop: a connection asks for its next rank's batches when the answer before has come. Each request acknowledges
all that the rank got before, as a worker does.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast

import orjson

CHECKED_EVERY = 50
"""Of so many answers one is read in full."""


@dataclass
class Rank:
    number: int
    lease: int
    generation: int
    epoch: int = -1  # of the last step that came; -1: none yet
    step: int = 0
    cursor: tuple[int, int] = (0, 0)
    due_s: float = 0.0  # not asked for before


async def leases(port: int, token: str, world_size: int, num_connections: int = 64) -> list[Rank]:
    """Every rank's lease, each with its own holder."""
    ranks: list[Rank] = []

    async def take(numbers: range) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(loop), "127.0.0.1", port)
        for number in numbers:
            status, body = await connection.ask(
                _post(token, f"ranks/{number}/lease", f'{{"holder":"load-{number}"}}')
            )
            assert status == 200, body
            told = orjson.loads(body)
            ranks.append(Rank(number, told["lease"], told["generation"]))
        connection.close()

    await asyncio.gather(
        *(take(range(first, world_size, num_connections)) for first in range(num_connections))
    )
    return sorted(ranks, key=lambda rank: rank.number)


def _post(token: str, path: str, body: str) -> bytes:
    return (
        f"POST /v1/runs/bench/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


@dataclass
class Load:
    """``count``: batches a request; ``every_s``: how often each rank asks, 0 for as fast as it is answered."""

    port: int
    token: str
    ranks: list[Rank]
    count: int
    seconds: float
    every_s: float = 0.0
    taken_s: list[float] = field(default_factory=list)
    num_errors: int = 0
    first_error: str = ""
    began_s: float = 0.0

    @property
    def num_requests(self) -> int:
        return len(self.taken_s)

    async def run(self, num_connections: int) -> float:
        """Seconds that it took."""
        begin = self.began_s = time.perf_counter()
        for rank in self.ranks:  # each at its own time, as ranks that began together drift apart
            rank.due_s = begin + self.every_s * rank.number / len(self.ranks)
        shares = [self.ranks[i::num_connections] for i in range(num_connections)]
        await asyncio.gather(*(self._connection(share) for share in shares if share))
        return time.perf_counter() - begin

    async def _connection(self, ranks: list[Rank]) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(loop), "127.0.0.1", self.port)
        end = self.began_s + self.seconds
        num = 0
        try:
            while True:
                for rank in ranks:
                    wait_s = rank.due_s - time.perf_counter()
                    if wait_s > 0:
                        await asyncio.sleep(wait_s)
                    if time.perf_counter() >= end:
                        return
                    rank.due_s = max(rank.due_s + self.every_s, time.perf_counter() - self.every_s)
                    begin = time.perf_counter()
                    status, body = await connection.ask(self._request(rank))
                    self.taken_s.append(time.perf_counter() - begin)
                    num += 1
                    self._take(rank, status, body, num % CHECKED_EVERY == 0)
        finally:
            connection.close()

    def _request(self, rank: Rank) -> bytes:
        ack = f',"ack":{{"epoch":{rank.epoch},"step":{rank.step}}}' if rank.epoch >= 0 else ""
        body = f'{{"lease":{rank.lease},"generation":{rank.generation},"count":{self.count}{ack}}}'
        return _post(self.token, f"ranks/{rank.number}/next", body)

    def _take(self, rank: Rank, status: int, body: bytes, is_checked: bool) -> None:
        if status != 200:
            self.num_errors += 1
            self.first_error = self.first_error or f"{status} {body!r}"
            return
        if body.startswith(b"x"):  # the floor's
            return
        # without reading the whole
        after = body.rfind(b'"cursor"')
        cursor = orjson.loads(b"{" + body[after:])["cursor"]
        last = body.rfind(b'{"epoch":', 0, after)
        step = body.index(b'"step":', last) + 7
        if rank.epoch >= 0:
            rank.cursor = (cursor["epoch"], cursor["step"])
            assert rank.cursor in ((rank.epoch, rank.step + 1), (rank.epoch + 1, 0)), (
                "the acknowledgement did not count"
            )
        rank.epoch = int(body[last + 9 : body.index(b",", last)])
        rank.step = int(body[step : body.index(b",", step)])
        if is_checked:
            told = orjson.loads(body)
            assert len(told["batches"]) == self.count
            assert {each["rank"] for each in told["batches"]} == {rank.number}
            assert told["batches"][-1] | {"epoch": rank.epoch, "step": rank.step} == told["batches"][-1]


class Connection(asyncio.Protocol):
    """One request at a time on a connection that is kept."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._data = bytearray()
        self._wanted = -1
        self._body_at = 0
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # which uvloop's does not inherit

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        self._answer = self._loop.create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._wanted < 0:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            at = self._data.index(b"content-length: ") + 16
            self._body_at = end + 4
            self._wanted = self._body_at + int(self._data[at : self._data.index(b"\r\n", at)])
        if len(self._data) >= self._wanted and self._answer is not None:
            status, body = int(self._data[9:12]), bytes(self._data[self._body_at : self._wanted])
            self._data.clear()
            self._wanted = -1
            self._answer.set_result((status, body))

    def close(self) -> None:
        self._transport.close()
