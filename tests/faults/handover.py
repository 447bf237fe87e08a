"""Rules for one rank in one generation: what a worker does, and how the next one continues."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from tests.faults.record import (
    Event,
    Generation,
    History,
    Place,
    Stint,
    place_of,
)
from tests.faults.violation import Violation

NEVER = float("inf")


def end_at(generation: Generation, stint: Stint, t: float = NEVER) -> Place:
    """The first step that a worker had not trained at a time, as far as it went without a gap."""
    place = generation.normal(stint.begin)
    for trained, at in stint.trained:
        if at > t:
            break
        if trained == place:
            place = generation.after(place)
    return place


def order(history: History) -> Iterator[Violation]:
    for stint, generation in _each(history):
        expected = generation.normal(stint.begin)
        for event in stint.handed:
            place = place_of(event)
            if place != expected:
                what = "again or too early" if place < expected else "too late"
                yield Violation("order", str(stint), f"was handed step {place} {what}, {expected} was next")
            expected = generation.after(place)
        handed = [place_of(event) for event in stint.handed]
        trained = [place for place, _ in stint.trained]
        if trained != handed[: len(trained)]:
            wrong = next(
                (pair for pair in zip(trained, handed, strict=False) if pair[0] != pair[1]), trained[-1]
            )
            yield Violation("order", str(stint), f"trained what it was not handed: {wrong}")
        elif len(handed) - len(trained) > 1:
            yield Violation("order", str(stint), f"asked on, and had not trained step {handed[len(trained)]}")


def handovers(history: History) -> Iterator[Violation]:
    for (number, _), chain in history.stints.items():
        generation = history.generations[number]
        first = chain[0]
        if first.begin != generation.normal(generation.origin):
            yield Violation("gap", str(first), f"begins at {first.begin}, the session at {generation.origin}")
        for stint in chain:
            yield from _acks(generation, stint)
        for before, after in pairwise(chain):
            yield from _handover(generation, before, after)
        for i, stint in enumerate(chain[:-1]):
            yield from _superseded(stint, min(chain[i + 1 :], key=lambda later: later.begin))


def _acks(generation: Generation, stint: Stint) -> Iterator[Violation]:
    for (earlier, _), (later, _) in pairwise(stint.acked):
        if later < earlier:
            yield Violation("backwards", str(stint), f"acknowledged up to {later} after {earlier}")
    for place, t in stint.acked:
        if place > (done := end_at(generation, stint, t)):
            yield Violation("phantom_commit", str(stint), f"acknowledged up to {place}, trained up to {done}")


def _handover(generation: Generation, before: Stint, after: Stint) -> Iterator[Violation]:
    done = end_at(generation, before, after.since)
    if after.begin > done:
        yield Violation("gap", str(after), f"begins at {after.begin}, {before.holder} trained up to {done}")
    if after.begin < before.begin:
        yield Violation(
            "backwards", str(after), f"begins at {after.begin}, {before.holder} at {before.begin}"
        )
    if before.ended_at is not None and before.ended_at > after.since:
        yield Violation("fence", str(before), f"{after.holder} has taken over, and it was never told")


def _superseded(stint: Stint, later: Stint) -> Iterator[Violation]:
    for place, t in stint.acked:
        if place > later.begin:
            kind = "lost_commit" if t < later.since else "zombie_commit"
            yield Violation(
                kind, str(stint), f"acknowledged up to {place}, {later.holder} begins at {later.begin}"
            )
            return


def checkpoints(history: History) -> Iterator[Violation]:
    """A state is where its worker stood, and all ranks of a generation say the same of one step."""
    said: dict[tuple[int, Place], Event] = {}
    for event in history.of("saved"):
        generation = history.generations[event["generation"]]
        state = event["state"]
        where = f"generation {generation.number} rank {event['rank']} holder {event['holder']} (saved)"
        place = place_of(state)
        chain = history.stints.get((generation.number, event["rank"]), [])
        done = [end_at(generation, stint, event["t"]) for stint in chain if stint.holder == event["holder"]]
        if [generation.normal(place)] != done:
            yield Violation("checkpoint", where, f"says {place}, trained up to {done}")
        if (state["offset"], state["world_size"]) != (generation.position(0, place), generation.world_size):
            yield Violation("checkpoint", where, f"{state} is not where step {place} stands")
        first = said.setdefault((generation.number, place), event)
        if first["state"] != state:
            yield Violation("checkpoint", where, f"{state}, rank {first['rank']} says {first['state']}")


def _each(history: History) -> Iterator[tuple[Stint, Generation]]:
    for (number, _), chain in history.stints.items():
        for stint in chain:
            yield stint, history.generations[number]
