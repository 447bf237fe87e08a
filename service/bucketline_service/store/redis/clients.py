"""From a URL to a client: of one Redis server, of the master that sentinels name, or of a cluster.

redis-py connects, finds the master and the nodes, follows MOVED and ASK, and repeats a command whose connection was
lost. Repeating is safe here: every command that writes sets an absolute value behind a compare, adds to or removes from
a set, or deletes. Nothing increments.
"""

from __future__ import annotations

import asyncio
import copy
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
from bucketline_service.store.redis.replicas import take_option, wait_behind_writes
from bucketline_service.store.store_kinds import StoreKind

MAX_CONNECTIONS = 64
"""Connections to each server. Further commands wait for a free one."""

NUM_RETRIES = 2
RETRY_BASE_S, RETRY_CAP_S = 0.01, 0.1
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds, seconds, probes: a peer that vanished is detected within a minute."""

GONE_FOR_S = 0.5
"""How long a cluster's node that refused a connection is not tried again."""

SENTINEL_PORT, CLUSTER_PORT = 26379, 6379


class Client(Protocol):
    """What a store needs from redis-py's clients. They answer in bytes."""

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
        "protocol": 2,  # nothing here needs 3, whose HELLO some proxies refuse
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        # for connections that a restart or a failover has closed; after a timeout there is no time left to retry
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
    # does not connect, but refuses an unknown option
    pool.make_connection()  # type: ignore[no-untyped-call]
    return Redis.from_pool(pool)


class Sentinels(Sentinel):
    """The sentinels of one service. Each search for the master has its own list of them: redis-py reorders one list for
    all, and where searches overlap a sentinel is lost from it for good."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        search = copy.copy(self)
        search.sentinels = [*self.sentinels]
        address: tuple[str, int] = await super(Sentinels, search).discover_master(service_name)
        self.sentinels = search.sentinels  # the one that answered comes first
        return address


class SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the present master; commands wait for a free one."""


class SentinelClient(Redis):
    """The present master. Closing it also closes the connections to the sentinels, which redis-py leaves open."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        assert isinstance(self.connection_pool, SentinelPool)
        for sentinel in self.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _sentinel(url: str, timeout_s: float) -> Redis:
    addresses, path, given = _parse(url, SENTINEL_PORT)
    service, *database = path.split("/")
    if not service or len(database) > 1:
        raise ValueError("its path must be /service or /service/db")
    if database and not re.fullmatch("[0-9]+", database[0]):
        raise ValueError("its database must be an integer")
    if database:
        given["db"] = int(database[0])
    # sentinels are tried in turn for each connection: those that do not answer must leave time for one that does, and
    # for the master
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
    options = _options(timeout_s) | _keepalive() | {"max_connections": MAX_CONNECTIONS, "timeout": timeout_s}
    sentinel = Sentinels(addresses, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
    client: SentinelClient = sentinel.master_for(
        unquote(service),
        redis_class=SentinelClient,
        connection_pool_class=SentinelPool,
        **{**options, **given},
    )
    client.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # as above
    return client


class ClusterClient(RedisCluster):
    """redis-py's cluster client, changed so that a node that is down delays only its own runs.

    redis-py refuses a command if all connections to its node are in use; here it waits, per node. A command that finds
    its node down makes redis-py read the whole slot map, which costs tens of milliseconds of CPU; commands to that node
    within ``GONE_FOR_S`` get the same error without doing so.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(max_connections=2 * MAX_CONNECTIONS, **options)  # listings do not pass the gates
        self._gates: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(MAX_CONNECTIONS)
        )
        self._gone: dict[str, tuple[float, str]] = {}  # node -> until when, in the loop's time, and the error

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
            # ASK names a node that has no slots yet while a cluster grows: redis-py only knows nodes with slots, and
            # fails on another
            host, _, number = node_name.rpartition(":")
            node = ClusterNode(host, int(number), PRIMARY, **self.connection_kwargs)
            self.nodes_manager.set_nodes(self.nodes_manager.nodes_cache, {node.name: node})
        return node

    async def aclose(self) -> None:
        await super().aclose()
        # after a lost connection the above closes nothing: redis-py believes that it has yet to connect
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")


def _cluster(url: str, timeout_s: float) -> RedisCluster:
    addresses, path, given = _parse(url, CLUSTER_PORT)
    if path not in ("", "0"):
        raise ValueError("a cluster only has database 0")
    options = {
        **_options(timeout_s),
        **_keepalive(),
        # redis-py looks for the new owner of a node's slots only after a timeout that ends before the verb's deadline
        "socket_timeout": timeout_s / 2,
        "socket_connect_timeout": timeout_s / 4,
    }
    nodes = [ClusterNode(host, port) for host, port in addresses]
    return ClusterClient(startup_nodes=nodes, **{**options, **given})


def _parse(url: str, default_port: int) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """The addresses, the path without its slashes, and the options from user, password and query. No message quotes
    what may be part of a password."""
    scheme, _, rest = url.partition("://")
    parts = re.fullmatch(r"([^/?#]*)([^?#]*)(\?[^#]*)?", rest)
    if parts is None:
        raise ValueError("it must have no fragment; write %23 for a # in a password")
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
        raise ValueError(
            "each port must be an integer up to 65535, and IPv6 addresses must be in brackets"
        ) from None
    if not split.hostname:
        raise ValueError("each host must be given")
    return split.hostname, port
