"""The part of a history that counts, over all ranks and generations, and its rules."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tests.faults.handover import end_at
from tests.faults.record import (
    Event,
    Generation,
    History,
    Place,
    Stint,
    generation_of,
    place_of,
)
from tests.faults.violation import Violation

Owner = tuple[Generation, Stint, Event]
"""Who trained a position: the generation, the worker and the batch as it was handed out."""


class Effective:
    """``owners``: by epoch and position, whose training counts. ``twice``, ``split``: what stood in the way."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.owners: dict[tuple[int, int], Owner] = {}
        self._found: list[Violation] = []
        self.last: Place = (0, 0)
        for generation in history.generations.values():
            self._add(generation)
        self.by_epoch: defaultdict[int, dict[int, Owner]] = defaultdict(dict)
        for (epoch, position), owner in self.owners.items():
            self.by_epoch[epoch][position] = owner
        self.finished_epochs = range(self.last[0])

    def _add(self, generation: Generation) -> None:
        later = [g.resumed_at for g in self._history.generations.values() if g.number > generation.number]
        chains = [self._history.stints.get((generation.number, r), []) for r in range(generation.world_size)]
        ends = [end_at(generation, chain[-1]) if chain else generation.origin for chain in chains]
        limit = min(ends)
        if later:
            limit, rest = generation.steps_before(*min(later))
            if rest:
                self._say("mixed_generations", generation, f"a later one begins within step {limit}")
            for rank, end in enumerate(ends):
                if end < limit:
                    self._say("gap", generation, f"rank {rank} ends at {end}, a later one begins at {limit}")
        else:
            self.last = generation.normal(limit)
        for chain in chains:
            for stint, following in zip(chain, [*chain, None][1:], strict=True):
                end = min(limit, following.begin) if following else limit
                self._count(generation, stint, end)

    def _count(self, generation: Generation, stint: Stint, end: Place) -> None:
        trained = {place for place, _ in stint.trained}
        for event in stint.handed:
            place = place_of(event)
            if place >= end or place not in trained:
                continue
            key = place[0], generation.position(stint.rank, place)
            if key in self.owners:
                before = self.owners[key][1]
                self._say(
                    "doubled", generation, f"{stint} and {before} both trained {_name(key)}, step {place}"
                )
            self.owners[key] = generation, stint, event

    def _say(self, kind: str, generation: Generation, detail: str) -> None:
        self._found.append(Violation(kind, f"generation {generation.number}", detail))

    # --- rules ----------------------------------------------------------------------------------------------

    def violations(self) -> Iterator[Violation]:
        yield from self._found
        yield from self._coverage()
        yield from self._steps()
        yield from self._images()
        epochs = self._history.run["epochs"]
        if epochs is not None and any(self._history.of("final")) and self.last != (epochs, 0):
            yield Violation(
                "gap", f"step {self.last}", f"the job has ended here, its run has {epochs} epochs"
            )

    def _coverage(self) -> Iterator[Violation]:
        for epoch in range(self.last[0] + (self.last[1] > 0)):
            dealt = self.by_epoch[epoch]
            top = max(dealt, default=-1) + 1
            missing = [position for position in range(top) if position not in dealt]
            if missing:
                yield Violation(
                    "gap", _name((epoch, missing[0])), f"and {len(missing) - 1} more: nobody trained it"
                )
            if epoch not in self.finished_epochs:
                continue
            left = len(self._history.plans[epoch]["batches"]) - top
            if left >= self._may_leave(epoch):
                yield Violation(
                    "gap", _name((epoch, top)), f"the last {left} of the epoch: nobody trained them"
                )

    def _may_leave(self, epoch: int) -> int:
        """An epoch leaves out less than a step of those who dealt its end, or of those who were to begin there."""
        dealt = self.by_epoch[epoch]
        sizes = [dealt[max(dealt)][0].world_size] if dealt else [1]
        starters = [g for g in self._history.generations.values() if g.resumed_at[0] == epoch < g.origin[0]]
        return max(sizes + [generation.world_size for generation in starters])

    def _steps(self) -> Iterator[Violation]:
        steps: defaultdict[Place, list[Owner]] = defaultdict(list)
        for owner in self.owners.values():
            steps[place_of(owner[2])].append(owner)
        mixed: Counter[tuple[int, int]] = Counter()
        for place, owners in sorted(steps.items(), key=lambda item: item[0]):
            generations = {owner[0].number: owner[0] for owner in owners}
            ranks = sorted(owner[1].rank for owner in owners)
            size = owners[0][0].world_size
            if len(generations) > 1:
                yield Violation(
                    "mixed_generations", f"step {place}", f"trained by generations {sorted(generations)}"
                )
            elif ranks != list(range(size)):
                yield Violation("gap", f"step {place}", f"of {size} ranks only {ranks} trained it")
            if len({(owner[2]["width"], owner[2]["height"]) for owner in owners}) > 1:
                mixed[owners[0][0].number, place[0]] += 1
        for (number, epoch), num in mixed.items():
            generation = self._history.generations[number]
            if num > self._may_mix(generation, epoch):
                where = f"generation {number} epoch {epoch}"
                yield Violation(
                    "mixed_shapes", where, f"{num} steps, declared {self._may_mix(generation, epoch)}"
                )

    def _may_mix(self, generation: Generation, epoch: int) -> float:
        if epoch == generation.origin[0]:
            return generation.mixed_steps
        if self._history.run["lockstep"] % generation.world_size:
            return float("inf")
        batches = self._history.plans[epoch]["batches"]
        steps = [
            batches[first : first + generation.world_size]
            for first in range(0, len(batches), generation.world_size)
        ]
        return sum(len({tuple(batch[1:3]) for batch in step}) > 1 for step in steps)

    def _images(self) -> Iterator[Violation]:
        asked = Counter(self._history.run["image_ids"])
        for epoch in self.finished_epochs:
            plan, dealt = self._history.plans[epoch], self.by_epoch[epoch]
            served = Counter(image for owner in dealt.values() for image in owner[2]["ids"])
            top = max(dealt, default=-1) + 1
            left_out = Counter(plan["left_out"])
            for _, _, _, ids in plan["batches"][top:]:
                left_out.update(ids)
            told = served + left_out
            if told != asked:
                odd = sorted((asked - told) + (told - asked))
                counts = f"served {served[odd[0]]}, left out {left_out[odd[0]]}"
                yield Violation(
                    "images", f"epoch {epoch} image {odd[0]}", f"{counts}; and {len(odd) - 1} more"
                )


def _name(key: tuple[int, int]) -> str:
    return f"epoch {key[0]} position {key[1]}"


def starts(history: History) -> Iterator[Violation]:
    """A generation is what every process was told of it, and begins where its resume says."""
    first: dict[int, Event] = {}
    for event in history.of("session"):
        told = first.setdefault(event["generation"], event)
        num_batches = next(iter(history.generations.values())).num_batches
        if generation_of(event, num_batches) != generation_of(told, num_batches):
            yield Violation(
                "start", f"generation {event['generation']}", f"{event} is not what others heard: {told}"
            )
    for before, after in pairwise(history.generations.values()):
        if after.number <= before.number:
            yield Violation("backwards", f"generation {after.number}", f"after generation {before.number}")
    for generation in history.generations.values():
        yield from _start(history, generation)


def _start(history: History, generation: Generation) -> Iterator[Violation]:
    where, resume = f"generation {generation.number}", generation.resume
    begins = (*generation.origin, generation.offset)
    if resume == "start" and begins != (0, 0, 0):
        yield Violation("start", where, f"begins at {begins}, not at the start")
    if resume == "cursor":
        yield from _from_cursor(history, generation)
    if not isinstance(resume, dict):
        return
    if not any(event["state"] == resume for event in history.of("saved")):
        yield Violation("start", where, f"was resumed from {resume}, which no worker saved")
    if begins == (resume["epoch"], resume["step"], resume["offset"]):
        return
    left = generation.num_batches.get(resume["epoch"], 0) - resume["offset"]
    if not (begins == (resume["epoch"] + 1, 0, 0) and left < generation.world_size):
        yield Violation("start", where, f"begins at {begins}, and was resumed from {resume}")


def _from_cursor(history: History, generation: Generation) -> Iterator[Violation]:
    """The slowest rank's cursor: no rank had committed all of what comes before another one's."""
    earlier = [g for g in history.generations.values() if g.number < generation.number]
    if not earlier:
        return
    before = earlier[-1]
    place, _ = before.steps_before(*generation.resumed_at)
    committed = []
    for rank in range(before.world_size):
        chain = history.stints.get((before.number, rank), [])
        committed.append(max((each for stint in chain for each, _ in stint.acked), default=before.origin))
    if place < min(committed):
        where = f"generation {generation.number}"
        yield Violation("lost_commit", where, f"begins at {place}, all ranks had committed {min(committed)}")
