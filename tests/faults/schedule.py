"""A schedule of faults: a pure function of its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

PROCESS_KINDS = {
    "coordinator_killed": 4,
    "coordinator_killed_in_request": 4,
    "all_coordinators_killed": 3,
    "redis_killed": 6,
    "redis_restored": 4,
    "redis_stopped": 3,
    "redis_slow": 5,
    "worker_killed": 5,
    "worker_stopped": 5,
    "job_restarted": 3,
    "job_restarted_over_a_zombie": 3,
    "store_outlasts_deadline": 1,
    "coordinators_outlast_deadline": 1,
}
MESSAGE_KINDS = ["lose", "truncate", "double", "delay", "late"]
WIRE_KINDS = dict.fromkeys([*MESSAGE_KINDS, "cut", "refuse", "silence"], 6)
KINDS = {
    **PROCESS_KINDS,
    **{f"{side}_{kind}": weight for side in ("client", "store") for kind, weight in WIRE_KINDS.items()},
}
"""By name, how often: those that end processes take longest. ``client_`` is between clients and coordinators,
``store_`` between coordinators and Redis."""


@dataclass(frozen=True)
class Fault:
    """``hold_s`` is how long it lasts where nothing else says so. The draws are taken modulo what there is."""

    number: int
    kind: str
    rank: int
    replica: int
    num_messages: int
    hold_s: float
    gap: int
    """Acknowledgements of every rank before it begins."""
    world_size: int
    age: int
    """How many checkpoints back a restart goes."""
    from_cursor: bool
    along: str | None = None
    """A kind of spoilt messages that comes with a fault of a process: what follows it is then told badly."""

    @property
    def name(self) -> str:
        return f"{self.number}-{self.kind}"


def schedule(seed: int, num_faults: int, kinds: list[str] | None = None) -> list[Fault]:
    """Each kind once in the first ones, and then by weight."""
    draw = random.Random(seed)
    names = list(KINDS) if kinds is None else kinds
    order = draw.sample(names, len(names))
    weights = [KINDS[name] for name in names]
    order += draw.choices(names, weights, k=max(0, num_faults - len(order)))
    return [_fault(draw, number, kind) for number, kind in enumerate(order[:num_faults])]


def _fault(draw: random.Random, number: int, kind: str) -> Fault:
    along = (
        f"{draw.choice(['client', 'store'])}_{draw.choice(MESSAGE_KINDS)}" if draw.random() < 0.4 else None
    )
    return Fault(
        number, kind, rank=draw.randrange(12), replica=draw.randrange(12), num_messages=draw.randint(1, 4),
        hold_s=draw.uniform(0.0, 0.4), gap=draw.choice([0, 0, 1]), world_size=draw.choice([2, 3, 4]),
        age=draw.choice([0, 0, 0, 1, 3]), from_cursor=draw.random() < 0.25,
        along=along if kind in PROCESS_KINDS else None,
    )  # fmt: skip
