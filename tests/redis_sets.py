"""Several servers that belong together: a master with a replica and three sentinels, and a cluster of three nodes."""

from __future__ import annotations

import random
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import Any

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from tests import waiting
from tests.redis_server import (
    NUM_ATTEMPTS,
    PORTS,
    RedisServer,
    ServerMissingError,
)

SERVICE = "main"
NUM_SENTINELS = NUM_NODES = 3
FOR_EVER_MS = 3_600_000

HASTE = ("INFO-PERIOD", 100, "PUBLISH-PERIOD", 100, "ASK-PERIOD", 100, "TILT-PERIOD", 1000)
"""Milliseconds for a sentinel, which by itself takes seconds over each; TILT is what it falls into where the machine is
too busy for it to trust its clock."""
REST = ("INFO-PERIOD", 10_000, "PUBLISH-PERIOD", 2000, "ASK-PERIOD", 1000)
"""As they are by themselves, for a set that replaces nobody: in all the minutes that tests take, haste would cost more
than most of them."""


until = partial(waiting.until, passing=redis.ConnectionError)
"""A server that does not answer yet is asked again."""


def ask(server: RedisServer, *command: object) -> Any:
    """What this very server answers."""
    with closing(redis.Redis(port=server.port, decode_responses=True)) as client:
        return client.execute_command(*command)


def _require_7(server: RedisServer) -> None:
    """Valkey counts on from there, and says 7 as well."""
    version = ask(server, "INFO", "server")["redis_version"]
    if int(str(version).partition(".")[0]) < 7:
        raise ServerMissingError(
            f"{server.binary} is version {version}: sets of servers are tested from 7 on"
        )


def slot_of(key: str) -> int:
    return int(key_slot(key.encode()))


def node_number(key: str) -> int:
    """Of a cluster's node that has the key."""
    return slot_of(key) * NUM_NODES // REDIS_CLUSTER_HASH_SLOTS


def free_ports(num: int) -> list[int]:
    """Ports that nothing listens on now."""
    free = []
    for port in random.sample(PORTS, NUM_ATTEMPTS):
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            free.append(port)
        if len(free) == num:
            break
    return free


class SentinelProcess(RedisServer):
    """Its configuration is a file, which it writes itself from then on."""

    IS_READY = "Sentinel ID is"

    def __init__(self, port: int, lines: list[str]) -> None:
        super().__init__()
        self.port = port
        self._file = self.directory / "sentinel.conf"
        about = [f"port {port}", "bind 127.0.0.1", f'dir "{self.directory}"', *lines]
        self._file.write_text("\n".join(about) + "\n")

    def _arguments(self, port: int) -> list[str]:
        return [str(self._file), "--sentinel"]


class SentinelSet:
    """A master, its replica and three sentinels, who give a silent master ``down_after_ms`` before they replace it."""

    def __init__(self, down_after_ms: int = FOR_EVER_MS) -> None:
        self._down_after_ms = down_after_ms
        self._stack = ExitStack()
        self.sentinels: list[SentinelProcess] = []

    @property
    def url(self) -> str:
        addresses = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{addresses}/{SERVICE}/0"

    def __enter__(self) -> SentinelSet:
        with ExitStack() as stack:
            self.master = stack.enter_context(RedisServer({"repl-diskless-sync-delay": 0}))
            self.replica = stack.enter_context(RedisServer({"repl-diskless-sync-delay": 0}))
            _require_7(self.master)
            ask(self.replica, "REPLICAOF", "127.0.0.1", self.master.port)
            until("the replica has copied its master", lambda: self.is_linked)
            self.sentinels = [stack.enter_context(sentinel) for sentinel in self._make_sentinels()]
            for sentinel in self.sentinels:
                ask(sentinel, "SENTINEL", "DEBUG", *HASTE)
            until("the sentinels know each other", self._is_whole)
            if self._down_after_ms == FOR_EVER_MS:
                for sentinel in self.sentinels:
                    ask(sentinel, "SENTINEL", "DEBUG", *REST)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def is_linked(self) -> bool:
        return ask(self.replica, "INFO", "replication")["master_link_status"] == "up"

    @property
    def is_level(self) -> bool:
        """The replica has all that its master has acknowledged."""
        offsets = {
            ask(server, "INFO", "replication")["master_repl_offset"] for server in (self.master, self.replica)
        }
        return self.is_linked and len(offsets) == 1

    @property
    def is_promoted(self) -> bool:
        """Every sentinel says that the replica is the master."""
        address = {"ip": "127.0.0.1", "port": self.replica.port}
        return (
            all({name: state[name] for name in address} == address for state in self._states())
            and ask(self.replica, "ROLE")[0] == "master"
        )

    def state(self, number: int) -> dict[str, Any]:
        """What a sentinel knows of the master."""
        with closing(redis.Redis(port=self.sentinels[number].port, decode_responses=True)) as client:
            return dict(client.sentinel_master(SERVICE))

    def _states(self) -> list[dict[str, Any]]:
        return [self.state(number) for number in range(NUM_SENTINELS)]

    def _make_sentinels(self) -> list[SentinelProcess]:
        # They are given each other and the replica, because discovering them takes seconds.
        ids = [secrets.token_hex(20) for _ in range(NUM_SENTINELS)]
        ports = free_ports(NUM_SENTINELS)
        of = f"sentinel {{}} {SERVICE}".format
        shared = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.master.port} {NUM_SENTINELS // 2 + 1}",
            f"{of('down-after-milliseconds')} {self._down_after_ms}",
            f"{of('failover-timeout')} 2000",
            f"{of('known-replica')} 127.0.0.1 {self.replica.port}",
        ]
        return [
            SentinelProcess(
                port,
                [
                    f"sentinel myid {own}",
                    *shared,
                    *(
                        f"{of('known-sentinel')} 127.0.0.1 {other_port} {other}"
                        for other, other_port in zip(ids, ports, strict=True)
                        if other != own
                    ),
                ],
            )
            for own, port in zip(ids, ports, strict=True)
        ]

    def _is_whole(self) -> bool:
        return all(
            state["flags"] == "master"
            and (int(state["num-slaves"]), int(state["num-other-sentinels"])) == (1, NUM_SENTINELS - 1)
            for state in self._states()
        )


class ClusterSet:
    """Three nodes, each with a third of the slots and no replica. ``options`` are those of each node."""

    def __init__(self, **options: object) -> None:
        options = {
            "cluster_node_timeout": FOR_EVER_MS,
            "repl_diskless_sync_delay": 0,
            "shutdown_timeout": 0,
            **options,
        }
        self._options = {name.replace("_", "-"): value for name, value in options.items()}
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def __enter__(self) -> ClusterSet:
        with RedisServer() as server:
            _require_7(server)
        with ExitStack() as stack:
            self.nodes = [stack.enter_context(self._node(port)) for port in free_ports(NUM_NODES)]
            bounds = [REDIS_CLUSTER_HASH_SLOTS * number // NUM_NODES for number in range(NUM_NODES + 1)]
            for number, node in enumerate(self.nodes):
                ask(node, "CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
                ask(node, "CLUSTER SET-CONFIG-EPOCH", number + 1)
                ask(self.nodes[0], "CLUSTER MEET", "127.0.0.1", node.port, node.options["cluster-port"])
            until("the nodes have met", self.is_whole)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def info(self, node: RedisServer) -> dict[str, str]:
        return dict(ask(node, "CLUSTER INFO"))

    def is_whole(self) -> bool:
        """Every node serves, and knows the others by all their slots."""
        return all(
            info["cluster_state"] == "ok"
            and info["cluster_known_nodes"] == info["cluster_size"] == str(NUM_NODES)
            and info["cluster_slots_ok"] == str(REDIS_CLUSTER_HASH_SLOTS)
            for info in map(self.info, self.nodes)
        )

    def node_of(self, key: str) -> RedisServer:
        return self.nodes[node_number(key)]

    def owner(self, node: RedisServer, slot: int) -> int | None:
        """The port of the node that has the slot, as ``node`` sees it."""
        for first, last, (_, port, *_), *_ in ask(node, "CLUSTER SLOTS"):
            if first <= slot <= last:
                return int(port)
        return None

    @contextmanager
    def new_node(self) -> Iterator[RedisServer]:
        """A fourth node, without slots."""
        (port,) = free_ports(1)
        with self._node(port) as node:
            ask(
                node,
                "CLUSTER",
                "MEET",
                "127.0.0.1",
                self.nodes[0].port,
                self.nodes[0].options["cluster-port"],
            )
            until(
                "all know the new node",
                lambda: all(
                    (info["cluster_known_nodes"], info["cluster_state"]) == (str(NUM_NODES + 1), "ok")
                    for info in map(self.info, (node, *self.nodes))
                ),
            )
            yield node

    @contextmanager
    def replica_of(self, node: RedisServer) -> Iterator[RedisServer]:
        """A further node, which copies one of the others and takes its place when it dies."""
        with self.new_node() as replica:
            ask(replica, "CLUSTER", "REPLICATE", ask(node, "CLUSTER", "MYID"))
            until(
                "it has copied its master",
                lambda: ask(replica, "INFO", "replication")["master_link_status"] == "up",
            )
            yield replica

    def _node(self, port: int) -> RedisServer:
        (bus,) = free_ports(1)
        node = RedisServer({"cluster-enabled": "yes", "cluster-port": bus, **self._options})
        node.port = port
        return node
