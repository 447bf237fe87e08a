"""``wait_replicas=N`` in a URL: a write is answered once N replicas have it, so that a failover does not lose it.

Redis' WAIT counts the replicas that have the last write of the connection that sends it, so it must follow the write on
the same connection. redis-py chooses a connection for each command. A pipeline keeps the two together on one server,
but on a cluster it sends a redirected command alone and does not look for the new master after a timeout. So the
connection itself appends WAIT to each write, in the same packet, and reads the two answers as one: whatever redis-py
does above it, retry or redirect, applies to both.

A write that too few replicas have in time remains on the master. It is not acknowledged; the caller repeats it, which
changes nothing more. Newer servers answer WAIT at once on a connection that has written nothing, so scripts write again
what a repeat finds already done (``touch``).
"""

from __future__ import annotations

import re
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from bucketline_service.store.redis.scripts import is_write

WAIT_SHARE = 0.4
"""WAIT's share of the store's timeout: less than a cluster's connections wait for an answer, which is half of it."""

OPTION = re.compile(r"(?<=[?&])wait_replicas=([^&]*)&?")


class NotReplicated(RedisError):  # noqa: N818 - named like the other errors here
    """The write is on the master, but too few replicas have acknowledged it."""


class _Packed(list[bytes]):
    """A write followed by WAIT."""


class WaitingConnection(AbstractConnection):
    """To be mixed into a connection class of redis-py."""

    num_replicas: int
    wait_ms: int
    _is_write = False

    def pack_command(self, *args: Any) -> list[bytes]:
        packed = super().pack_command(*args)
        if not is_write(args):
            return packed
        return _Packed([*packed, *super().pack_command("WAIT", self.num_replicas, self.wait_ms)])

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        await super().send_packed_command(command, check_health)
        # only now: connecting has sent other commands and read their answers
        self._is_write = isinstance(command, _Packed)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        is_write, self._is_write = self._is_write, False
        answer, refused = None, None
        try:
            answer = await super().read_response(*args, **options)
        except ResponseError as exc:
            if not is_write:
                raise
            refused = exc
        if not is_write:
            return answer
        num = await super().read_response()
        if refused is not None:
            raise refused
        if num < self.num_replicas:
            raise NotReplicated(f"{num} of {self.num_replicas} replicas have acknowledged the write in time")
        return answer


def take_option(url: str) -> tuple[str, int]:
    """The URL without ``wait_replicas``, and its value. Raises ``ValueError``."""
    values = OPTION.findall(url)
    if not values:
        return url, 0
    if len(values) > 1 or not re.fullmatch("[0-9]{1,4}", values[0]):
        raise ValueError("wait_replicas must be one integer >= 0")
    return OPTION.sub("", url).rstrip("?&"), int(values[0])


def wait_behind_writes(client: Redis | RedisCluster, num_replicas: int, timeout_s: float) -> None:
    """Apply to all connections that the client makes from now on."""

    def waiting(connection_class: type[Any]) -> type[Any]:
        wait_ms = max(1, round(timeout_s * WAIT_SHARE * 1000))  # 0 would wait forever
        about = {"num_replicas": num_replicas, "wait_ms": wait_ms}
        return type(f"Waiting{connection_class.__name__}", (WaitingConnection, connection_class), about)

    if isinstance(client, RedisCluster):
        options = client.connection_kwargs
        options["connection_class"] = waiting(options["connection_class"])
    else:
        pool = client.connection_pool
        pool.connection_class = waiting(pool.connection_class)
