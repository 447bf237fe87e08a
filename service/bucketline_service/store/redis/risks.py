"""Whether a Redis may lose what it has acknowledged: by evicting keys, or as it writes nothing to a disk.

Asked of INFO, which managed services answer where they refuse CONFIG. What cannot be asked is not told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisError

EVICTS = "allkeys-"
"""How the policies begin that take keys without a life time, as all of ours are; the ``volatile-`` ones never do."""


WAIT_S = 0.5
"""How long servers have to answer."""


class _Server(Protocol):
    def execute_command(self, *command: Any) -> Awaitable[Any]: ...


@dataclass(frozen=True)
class Risks:
    """``told``: what operators should hear of. ``evicts``: why nothing may be kept there, where keys can go at any
    moment."""

    told: list[str]
    evicts: str | None = None


async def find_risks(client: _Server) -> Risks | None:
    """Of the server that takes the writes, or of all such nodes of a cluster. Those that do not answer soon are left
    out; None where none does."""
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
    told = list(dict.fromkeys(risk for risks in answers for risk in risks.told))
    return Risks(told, next((risks.evicts for risks in answers if risks.evicts), None))


async def _of(server: ClusterNode | _Server) -> Risks:
    memory = await _info(server, "memory")
    policy, limit = str(memory.get("maxmemory_policy", "")), memory.get("maxmemory", 0)
    told, evicts = [], None
    if policy.startswith(EVICTS):
        remedy = "Set maxmemory-policy noeviction (redis-cli CONFIG SET maxmemory-policy noeviction, and in its file)"
        if limit:
            evicts = (
                f"Redis evicts keys when it has {limit:,} bytes (maxmemory-policy {policy}), and runs, leases and "
                f"cursors would go without a word. {remedy}"
            )
        else:
            told.append(f"Redis would evict keys if it had a maxmemory (maxmemory-policy {policy}). {remedy}")
    persistence = await _info(server, "persistence")
    if not persistence.get("aof_enabled", 1) and not await _makes_snapshots(server):
        told.append(
            "Redis writes nothing to a disk: a restart forgets all runs, leases and cursors. Set appendonly yes "
            "(redis-cli CONFIG SET appendonly yes, and in its file)"
        )
    return Risks(told, evicts)


async def _info(server: ClusterNode | _Server, section: str) -> dict[str, Any]:
    answer = await server.execute_command("INFO", section)
    return answer if isinstance(answer, dict) else {}


async def _makes_snapshots(server: ClusterNode | _Server) -> bool:
    """True as well where it does not say."""
    try:
        answer = await server.execute_command("CONFIG GET", "save")
    except RedisError:
        return True
    return not isinstance(answer, dict) or any(answer.values())
