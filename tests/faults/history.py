"""The history checker: from the log of a job alone (``record.py`` has its format), whether anything was lost or served
twice. ``check(read(folder))``.

What counts. A generation deals each epoch's stream, so a rank's step *is* a position of the stream. The workers of one
rank in one generation follow each other; each counts from its first batch to the first batch of the next, and what it
has trained past that is *taken back*: it was not committed, and is handed out again. Of a generation counts what lies
before the point from which any later one was resumed; the rest is *rolled back* with its model. What is left of all
generations is the effective history. A step is *committed* when the coordinator has confirmed a cursor past it (to the
worker, ``acked``, or in answer to a query, ``observed``), or when a checkpoint that holds it was resumed from.

What is proven, each with its own kind of violation:

    plan             every batch handed out is the plan's, by id, at its place
    order            a worker gets consecutive steps, each once, and trains each before it asks for the next
    gap              no position before the last that counts is without a worker who trained it
    doubled          none counts twice
    mixed_generations   a step counts for one generation, and for all of its ranks
    mixed_shapes     a step has one shape, but where the session, or the plan of a later epoch, says otherwise
    images           over a finished epoch each image comes once, or is one that the plan leaves out
    lost_commit      no worker, session or answer begins before a committed cursor
    zombie_commit    no worker moves a cursor once another one holds its rank
    phantom_commit   no cursor is past what was trained
    backwards        cursors and generations never fall back, unless the store was ``restored``
    start            a generation begins exactly where the checkpoint stands that it was resumed from
    checkpoint       a state dict says what its worker has trained, and is the same on all ranks
    fence            a worker that was replaced is fenced, and no other one is
    unavailable      no deadline passed but within a fault that lasts longer
    exception        nothing else ever reached a training loop
    final            at the end the coordinator's cursors stand where the workers ended
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tests.faults import effective_history, handover
from tests.faults.effective_history import Effective
from tests.faults.record import (
    Event,
    History,
    Log,
    Place,
    Stint,
    history_of,
    place_of,
    read,
)
from tests.faults.violation import Violation

__all__ = ["Log", "Report", "Violation", "check", "read"]


@dataclass(frozen=True)
class Report:
    """``num_again``: trained, but taken or rolled back before it was committed."""

    violations: list[Violation]
    num_committed: int
    num_again: int
    num_generations: int
    num_epochs: int

    def count(self, *kinds: str) -> int:
        return sum(violation.kind in kinds for violation in self.violations)


def check(events: Iterable[Event]) -> Report:
    history = history_of(events)
    violations = [found for rule in RULES for found in rule(history)]
    counted = Effective(history)
    violations += counted.violations()
    num_trained = sum(len(stint.trained) for chain in history.stints.values() for stint in chain)
    return Report(
        violations,
        len(counted.owners),
        num_trained - len(counted.owners),
        len(history.generations),
        len(counted.finished_epochs),
    )


def plan(history: History) -> Iterator[Violation]:
    for event in history.of("handed"):
        place, generation = place_of(event), history.generations.get(event["generation"])
        if generation is None or event["rank"] >= generation.world_size:
            yield Violation("plan", _at(event), "there is no such rank")
            continue
        position = generation.position(event["rank"], place)
        batches = history.plans[place[0]]["batches"] if place[0] in history.plans else []
        if not 0 <= position < len(batches):
            yield Violation("plan", _at(event), f"the plan has no position {position}")
        elif (got := [event[name] for name in ("bucket", "width", "height", "ids")]) != batches[position]:
            yield Violation("plan", _at(event), f"{got} is not the plan's {batches[position]}")


def observations(history: History) -> Iterator[Violation]:
    """What the coordinator told of its cursors, against what the workers did and what it told before."""
    last: dict[tuple[int, int], Place] = {}
    generation = 0
    for event in history.of("observed", "final", "restored"):
        if event["what"] == "restored":
            last, generation = {}, 0
            continue
        if event["generation"] < generation:
            yield Violation("backwards", _at(event), f"after generation {generation}")
        generation = max(generation, event["generation"])
        deal = history.generations.get(event["generation"])
        if deal is None:
            yield Violation("backwards", _at(event), "a generation that no worker knows")
            continue
        key, place = (event["generation"], event["rank"]), deal.normal(place_of(event))
        if place < last.get(key, deal.origin):
            yield Violation("backwards", _at(event), f"it was at {last.get(key, deal.origin)}")
        last[key] = place
        chain = history.stints.get(key, [])
        own = [stint for stint in chain if stint.holder == event["holder"]] or chain
        done = max((handover.end_at(deal, stint, event["t"]) for stint in own), default=deal.origin)
        if place > done:
            yield Violation("phantom_commit", _at(event), f"{event['holder']} has trained up to {done}")
        if (acked := _acked_before(history, chain, event)) and acked > place:
            yield Violation("lost_commit", _at(event), f"the coordinator had confirmed {acked}")


def _acked_before(history: History, chain: list[Stint], event: Event) -> Place | None:
    """The furthest cursor that was confirmed before the question was asked, since the store was last put back."""
    asked_at = event.get("asked_at", float("-inf"))
    since = max((each["t"] for each in history.of("restored") if each["t"] < event["t"]), default=0.0)
    return max((place for stint in chain for place, t in stint.acked if since < t < asked_at), default=None)


def fences(history: History) -> Iterator[Violation]:
    """Who is fenced was replaced, and who outlives its generation is fenced. ``handover`` has the same of a rank."""
    newest = max(history.generations, default=0)
    last = {(event["generation"], event["rank"]): event["holder"] for event in history.of("started")}
    for event in history.of("fenced"):
        if event["generation"] == newest and last.get((newest, event["rank"])) == event["holder"]:
            yield Violation("fence", _at(event), "nobody has taken its place")
    begun = {}
    for event in history.of("session"):
        begun.setdefault(event["generation"], event["t"])
    for event in history.of("ended"):
        later = [number for number, t in begun.items() if number > event["generation"] and t < event["t"]]
        if later:
            yield Violation("fence", _at(event), f"generation {later[0]} has begun, and it was never told")


def errors(history: History) -> Iterator[Violation]:
    healed = {event["id"]: event["t"] for event in history.of("healed")}
    faults = [
        (event["t"], healed.get(event["id"], float("inf")))
        for event in history.of("fault")
        if event["outlasts_deadline"]
    ]
    for event in history.of("exception", "unavailable"):
        if event["what"] == "exception":
            yield Violation("exception", _at(event), f"{event['type']}: {event['message']}")
        elif not any(begin <= event["t"] and event["t"] - event["waited_s"] <= end for begin, end in faults):
            yield Violation(
                "unavailable", _at(event), f"after {event['waited_s']:.1f} s, without such a fault"
            )


def final(history: History) -> Iterator[Violation]:
    ends = {event["rank"]: event for event in history.of("final")}
    if not ends:
        return
    newest = history.generations[max(history.generations)]
    for rank in range(newest.world_size):
        chain = history.stints.get((newest.number, rank), [])
        place = handover.end_at(newest, chain[-1]) if chain else newest.origin
        where = f"generation {newest.number} rank {rank}"
        if rank not in ends:
            yield Violation("final", where, "the coordinator told nothing of it")
        elif newest.normal(place_of(ends[rank])) != place:
            yield Violation("final", where, f"cursor {place_of(ends[rank])}, trained up to {place}")


def _at(event: Event) -> str:
    names = [name for name in ("generation", "rank", "holder", "epoch", "step") if name in event]
    return " ".join(f"{name} {event[name]}" for name in names) + f" ({event['what']})"


RULES: tuple[Callable[[History], Iterator[Violation]], ...] = (
    plan,
    handover.order,
    handover.handovers,
    handover.checkpoints,
    effective_history.starts,
    observations,
    fences,
    errors,
    final,
)
