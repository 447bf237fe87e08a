"""From a URL to a client: one Redis server, the master that sentinels name, or a cluster.

Connecting is redis-py's own: it finds the master and the nodes, follows MOVED and ASK, and repeats a command
whose connection was lost. That is safe here: every command that writes is an absolute value behind a compare, or puts
into or takes out of a set, or deletes. Done twice it leaves what doing it once leaves, and its second answer is the
one that a caller gets who asks twice. Nothing increments.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.cluster import PRIMARY
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException

from bucketline_service.errors import Invalid
from bucketline_service.store.kinds import StoreKind
from bucketline_service.store.redis.replicas import take_option, wait_behind_writes

MAX_CONNECTIONS = 64
"""To each server. Further commands wait for one that is free."""

NUM_RETRIES = 2
RETRY_BASE_S, RETRY_CAP_S = 0.01, 0.1
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds, seconds, probes: a peer that vanished without a word is known within a minute."""

GONE_FOR_S = 0.5
"""How long a cluster's node that refused a connection is not asked again."""

SENTINEL_PORT, CLUSTER_PORT = 26379, 6379


class Client(Protocol):
    """What a store needs of redis-py's clients. They answer in bytes."""

    def execute_command(self, *command: Any) -> Awaitable[Any]: ...

    def pipeline(self, transaction: bool = ...) -> Any: ...

    async def aclose(self) -> None: ...


def open_client(url: str, kind: StoreKind, *, timeout_s: float) -> tuple[Client, int]:
    """A client for ``url``, and the URL's ``wait_replicas``. Connects with the first command.

    Raises ``Invalid`` if the URL is malformed or has an option that redis-py does not know.
    """
    connects: dict[str, Callable[[str, float], Redis | RedisCluster]] = {
        "redis": _server,
        "unix": _server,
        "sentinel": _sentinel,
        "cluster": _cluster,
    }
    try:
        url, wait_replicas = take_option(url)
        client = connects[kind.name](url, timeout_s)
    except (ValueError, TypeError, RedisClusterException) as exc:
        raise Invalid("store", f"must be a URL of Redis: {exc}", f"Use {kind.examples[0]}") from exc
    if wait_replicas:
        wait_behind_writes(client, wait_replicas, timeout_s)
    return client, wait_replicas


def _options(timeout_s: float) -> dict[str, Any]:
    return {
        "protocol": 2,  # nothing here needs 3, whose greeting some proxies refuse and passwords muddle
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        # See the top for why repeating is safe. It is for connections that a restart or a failover has closed;
        # after a time-out there is no time left to try again.
        "retry": Retry(ExponentialBackoff(RETRY_CAP_S, RETRY_BASE_S), NUM_RETRIES, (RedisConnectionError,)),
    }


def _keepalive() -> dict[str, Any]:
    options = {getattr(socket, name): value for name, value in KEEPALIVE.items() if hasattr(socket, name)}
    return {"socket_keepalive": True, "socket_keepalive_options": options}


def _server(url: str, timeout_s: float) -> Redis:
    options = {**_options(timeout_s), "max_connections": MAX_CONNECTIONS, "timeout": timeout_s}
    if not url.startswith("unix:"):
        options |= _keepalive()
    pool = BlockingConnectionPool.from_url(url, **options)
    # connects to nothing, but refuses an option that it does not know
    pool.make_connection()  # type: ignore[no-untyped-call]
    return Redis.from_pool(pool)


class SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the master of the moment; who finds none free waits for one."""


class SentinelClient(Redis):
    """The master of the moment. Closing it closes the connections to the sentinels too, which redis-py leaves open."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        assert isinstance(self.connection_pool, SentinelPool)
        for sentinel in self.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _sentinel(url: str, timeout_s: float) -> Redis:
    addresses, path, given = _parse(url, SENTINEL_PORT)
    service, *database = path.split("/")
    if not service or len(database) > 1:
        raise ValueError("the path should be /service or /service/db")
    if database and not re.fullmatch("[0-9]+", database[0]):
        raise ValueError("the database is no number")
    if database:
        given["db"] = int(database[0])
    # Sentinels are asked one after the other, each time a connection is made: those that do not answer must leave time
    # for one that does, and for the master.
    share_s = timeout_s / (len(addresses) + 1)
    sentinel_options = {
        **{name: value for name, value in given.items() if name.startswith("ssl")},
        "username": given.pop("sentinel_username", None),
        "password": given.pop("sentinel_password", None),
        "protocol": 2,
        "socket_timeout": share_s,
        "socket_connect_timeout": share_s,
        "retry": Retry(NoBackoff(), 0),
    }
    options = {
        **_options(timeout_s),
        **_keepalive(),
        "max_connections": MAX_CONNECTIONS,
        "timeout": timeout_s,
    }
    sentinel = Sentinel(addresses, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
    client: SentinelClient = sentinel.master_for(
        unquote(service),
        redis_class=SentinelClient,
        connection_pool_class=SentinelPool,
        **{**options, **given},
    )
    client.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # as above
    return client


class ClusterClient(RedisCluster):
    """A cluster's client of redis-py, in which a node that is gone holds up its own runs alone.

    redis-py refuses a command where all connections to its node are taken: here it waits, for each node by itself. And
    a command that finds its node gone makes redis-py ask for the whole map of slots, which costs tens of milliseconds
    of CPU: the commands that come to that node within ``GONE_FOR_S`` get the same error without asking.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(max_connections=2 * MAX_CONNECTIONS, **options)  # listings go past the gates
        self._gates: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(MAX_CONNECTIONS)
        )
        self._gone: dict[str, tuple[float, str]] = {}  # node -> until when (the loop's time), and its error

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        await self.initialize()
        key = args[3] if args[0] in ("EVAL", "EVALSHA") else args[1]
        name = self.nodes_manager.get_node_from_slot(self.keyslot(key)).name
        now_s = asyncio.get_running_loop().time
        async with self._gates[name]:
            gone_until_s, error = self._gone.get(name, (0.0, ""))
            if now_s() < gone_until_s:
                raise RedisConnectionError(error)
            try:
                return await super().execute_command(*args, **options)
            except RedisConnectionError as exc:
                self._gone[name] = now_s() + GONE_FOR_S, str(exc)
                raise

    def get_node(
        self, host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> ClusterNode | None:
        node = super().get_node(host, port, node_name)
        if node is None and node_name is not None:
            # ASK names a node that has no slots yet, as when a cluster grows: redis-py knows only those that have, and
            # breaks down on another.
            host, _, number = node_name.rpartition(":")
            node = ClusterNode(host, int(number), PRIMARY, **self.connection_kwargs)
            self.nodes_manager.set_nodes(self.nodes_manager.nodes_cache, {node.name: node})
        return node

    async def aclose(self) -> None:
        await super().aclose()
        # After a lost connection that closes nothing: redis-py takes itself for one that has yet to connect.
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")


def _cluster(url: str, timeout_s: float) -> RedisCluster:
    addresses, path, given = _parse(url, CLUSTER_PORT)
    if path not in ("", "0"):
        raise ValueError("a cluster has database 0 alone")
    options = {
        **_options(timeout_s),
        **_keepalive(),
        # Only a time-out that is seen before the verb's own deadline makes redis-py ask who has the node's slots now.
        "socket_timeout": timeout_s / 2,
        "socket_connect_timeout": timeout_s / 4,
    }
    nodes = [ClusterNode(host, port) for host, port in addresses]
    return ClusterClient(startup_nodes=nodes, **{**options, **given})


def _parse(url: str, default_port: int) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """Addresses, the path without slashes around it, and what user, password and query say. No message quotes
    anything that could be a part of a password."""
    scheme, _, rest = url.partition("://")
    parts = re.fullmatch(r"([^/?#]*)([^?#]*)(\?[^#]*)?", rest)
    if parts is None:
        raise ValueError("what comes after # has no meaning; write %23 for one in a password")
    authority, path, query = parts.groups("")
    user, at, hosts = authority.rpartition("@")
    given: dict[str, Any] = dict(parse_url(f"redis://{user}{at}host{query}"))
    del given["host"]
    if scheme.startswith("rediss+"):
        given["ssl"] = True
    return [_address(each, default_port) for each in hosts.split(",")], path.strip("/"), given


def _address(host: str, default_port: int) -> tuple[str, int]:
    try:
        split = urlsplit(f"//{host}")
        port = default_port if split.port is None else split.port
    except ValueError:
        raise ValueError("a port is no number up to 65535, or an IPv6 address has no brackets") from None
    if not split.hostname:
        raise ValueError("a host is missing")
    return split.hostname, port
