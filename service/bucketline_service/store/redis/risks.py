"""Whether a Redis may lose what it has acknowledged: by evicting keys, or because it writes nothing to a disk.

It is read from INFO, which managed services allow even where they refuse CONFIG. What cannot be read is not reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisError

EVICTS = "allkeys-"
"""The prefix of policies that evict keys without an expiry, as all of ours are; ``volatile-`` policies never do."""

WAIT_S = 0.5
"""How long to wait for the servers' answers."""


class _Server(Protocol):
    def execute_command(self, *command: Any) -> Awaitable[Any]: ...


@dataclass(frozen=True)
class Risks:
    """``reported``: what operators should know. ``evicts``: why the server must not be used, if keys can disappear at
    any moment."""

    reported: list[str]
    evicts: str | None = None


async def find_risks(client: _Server) -> Risks | None:
    """The risks of the server that accepts writes, or of all such nodes of a cluster. Nodes that do not answer in time
    are left out; None if none answers."""
    if isinstance(client, RedisCluster):
        await client.initialize()
        servers: Sequence[ClusterNode | _Server] = client.get_primaries()
    else:
        servers = [client]
    asked = [asyncio.ensure_future(_of(server)) for server in servers]
    try:
        await asyncio.wait(asked, timeout=WAIT_S)
        answers = [each.result() for each in asked if each.done() and each.exception() is None]
    finally:
        for each in asked:
            each.cancel()
    if not answers:
        return None
    reported = list(dict.fromkeys(risk for risks in answers for risk in risks.reported))
    return Risks(reported, next((risks.evicts for risks in answers if risks.evicts), None))


async def _of(server: ClusterNode | _Server) -> Risks:
    memory = await _info(server, "memory")
    policy, limit = str(memory.get("maxmemory_policy", "")), memory.get("maxmemory", 0)
    reported, evicts = [], None
    if policy.startswith(EVICTS):
        remedy = "Set maxmemory-policy noeviction (redis-cli CONFIG SET maxmemory-policy noeviction, and in its file)"
        if limit:
            evicts = (
                f"Redis evicts keys when it has {limit:,} bytes (maxmemory-policy {policy}), and runs, leases and "
                f"cursors would disappear without notice. {remedy}"
            )
        else:
            reported.append(
                f"Redis would evict keys if it had a maxmemory (maxmemory-policy {policy}). {remedy}"
            )
    persistence = await _info(server, "persistence")
    if not persistence.get("aof_enabled", 1) and not await _makes_snapshots(server):
        reported.append(
            "Redis writes nothing to a disk: a restart forgets all runs, leases and cursors. Set appendonly yes "
            "(redis-cli CONFIG SET appendonly yes, and in its file)"
        )
    return Risks(reported, evicts)


async def _info(server: ClusterNode | _Server, section: str) -> dict[str, Any]:
    answer = await server.execute_command("INFO", section)
    return answer if isinstance(answer, dict) else {}


async def _makes_snapshots(server: ClusterNode | _Server) -> bool:
    """True also if the server does not say."""
    try:
        answer = await server.execute_command("CONFIG GET", "save")
    except RedisError:
        return True
    return not isinstance(answer, dict) or any(answer.values())
