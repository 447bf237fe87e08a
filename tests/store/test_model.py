"""Any sequence of calls gets the answers that a small model of the port gives: on every store."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from bucketline_service.errors import NotFound
from bucketline_service.store import (
    LEASE_STRIDE,
    Begun,
    Commit,
    CommitRequest,
    Cursor,
    Generation,
    GenerationId,
    Outcome,
    RankRecord,
    open_store,
)

BOUNDED = settings(
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@dataclass
class Model:
    """One run as the port's docstrings have it, in the fewest words."""

    generation: Generation | None = None
    sessions: dict[str, int] = field(default_factory=dict)
    records: dict[int, RankRecord] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)  # the last of each rank, over all generations

    @property
    def present(self) -> Generation:
        if self.generation is None:
            raise NotFound("no run")
        return self.generation

    def create(self, first: Generation) -> tuple[Generation, bool]:
        made = self.generation is None
        if made:
            self._start(first)
        return self.present, made

    def delete(self) -> bool:
        was_there = self.generation is not None
        self.__init__()  # type: ignore[misc]
        return was_there

    def session(self, name: str) -> tuple[GenerationId, int | None]:
        return self.present.id, self.sessions.get(name)

    def begin(self, new: Generation, follows: GenerationId, slowest: Cursor | None) -> Begun:
        stands = min(self.cursor(rank) for rank in range(self.present.world_size))
        if follows != self.present.id or new.session in self.sessions or slowest not in (None, stands):
            return Begun(False, self.present)
        self._start(new)
        return Begun(True, new)

    def lease(
        self, rank: int, holder: str, generation: GenerationId, proposed: int, now_s: float
    ) -> RankRecord | None:
        if generation != self.present.id:
            return None
        held = self.records.get(rank)
        if held is None or held.holder != holder:
            larger = self.tokens[rank] + LEASE_STRIDE if rank in self.tokens else 0
            lease = max(proposed, larger) if larger < 2**53 else proposed
            at = self.cursor(rank)
            self._store(RankRecord(rank, at, lease, holder, now_s, at, now_s))
        else:
            self._see(held, now_s)
        return self.records[rank]

    def commit(self, request: CommitRequest) -> Commit:
        return Commit(self._commit(request), self.cursor(request.rank), self.present)

    def _commit(self, request: CommitRequest) -> Outcome:
        rank, lease, cursor, now_s = request.rank, request.lease, request.cursor, request.now_s
        if request.generation != self.present.id:
            return Outcome.STALE
        held = self.records.get(rank)
        if lease % LEASE_STRIDE != rank or lease < self.tokens.get(rank, 0):
            return Outcome.FENCED
        if lease > self.tokens.get(rank, -1):
            if not request.trusted:
                return Outcome.FENCED
            if request.not_before is not None and self.cursor(rank) < request.not_before:
                return Outcome.AHEAD
            at = max(cursor or Cursor(0, 0), self.cursor(rank))
            self._store(RankRecord(rank, at, lease, "", now_s, at, now_s))
            return Outcome.ADOPTED
        if held is None:
            return Outcome.FENCED
        if request.not_before is not None and held.cursor < request.not_before:
            return Outcome.AHEAD
        if cursor is not None and cursor > held.cursor:
            self._store(replace(held, cursor=cursor, last_seen_s=now_s))
        else:
            self._see(held, now_s)
        return Outcome.OK

    def ranks(self) -> tuple[Generation, list[RankRecord]]:
        return self.present, [self.records[rank] for rank in sorted(self.records)]

    def cursor(self, rank: int) -> Cursor:
        return self.records[rank].cursor if rank in self.records else self.present.origin

    def _start(self, new: Generation) -> None:
        self.generation = new
        self.records = {}
        if new.session is not None:
            self.sessions[new.session] = new.number

    def _store(self, record: RankRecord) -> None:
        self.records[record.rank] = record
        self.tokens[record.rank] = record.lease

    def _see(self, held: RankRecord, now_s: float) -> None:
        if now_s >= held.last_seen_s + 10:
            self._store(replace(held, last_seen_s=now_s))


# Small domains, so that the calls meet.
RANKS = st.integers(0, 2)
TICKS = st.integers(1, 6) | st.integers(2**39 - 3, 2**39 - 1)  # the largest leave no room for a larger one
TOKENS = st.builds(lambda tick, rank: tick * LEASE_STRIDE + rank, st.just(0) | TICKS, RANKS)
CURSORS = st.builds(Cursor, st.integers(0, 1), st.integers(0, 3))
HOLDERS = st.sampled_from(["a", "b c"])
SESSIONS = st.sampled_from(["", "s", "t u"])
NUMBERS = st.integers(-1, 1)  # beside the present generation's
TIMES = st.integers(0, 25).map(float)
BIRTHS = st.sampled_from(["", "", "", "b", "c", "17"])  # "": the present one's


class StoreAgainstModel(RuleBasedStateMachine):
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = open_store(self.url, timeout_s=30.0)
        self.run = uuid.uuid4().hex
        self.model = Model()
        self.create(Generation(1, None, 2, Cursor(0, 0), 0, "b"))

    def teardown(self) -> None:
        self.loop.run_until_complete(self.store.delete_run(self.run))
        self.loop.run_until_complete(self.store.close())
        self.loop.close()

    def answer(self, verb: str, *arguments: Any) -> Any:
        try:
            return self.loop.run_until_complete(getattr(self.store, verb)(self.run, *arguments))
        except NotFound:
            return NotFound

    def compare(self, verb: str, *arguments: Any) -> None:
        try:
            expected = getattr(self.model, verb)(*arguments)
        except NotFound:
            expected = NotFound
        assert self.answer(verb, *arguments) == expected

    def id(self, birth: str, beside: int) -> GenerationId:
        present = self.model.generation.id if self.model.generation else GenerationId("b", 0)
        return GenerationId(birth or present.birth, present.number + beside)

    def create(self, first: Generation) -> None:
        record, made = self.answer("create_run", b"", first)
        assert (record.generation, made) == self.model.create(first)

    @rule(world_size=st.integers(1, 3), session=st.none() | SESSIONS, origin=CURSORS, birth=BIRTHS)
    def create_run(self, world_size: int, session: str | None, origin: Cursor, birth: str) -> None:
        self.create(Generation(1, session, world_size, origin, 0, birth))

    @rule(sure=st.integers(0, 4))
    def delete_run(self, sure: int) -> None:
        if sure == 0:
            assert self.answer("delete_run") == self.model.delete()

    @rule(birth=BIRTHS)
    def put_anew(self, birth: str) -> None:
        """Deleted and created: all but the birth is as it was when the run began."""
        first = Generation(1, None, 2, Cursor(0, 0), 0, birth)
        assert self.answer("delete_run") == self.model.delete()
        self.create(first)

    @rule(session=SESSIONS)
    def session(self, session: str) -> None:
        self.compare("session", session)

    @rule(
        beside=st.sampled_from([0, 0, 0, 1, -1]),
        session=st.none() | SESSIONS,
        world_size=st.integers(1, 3),
        origin=CURSORS,
        slowest=st.none() | CURSORS,
        birth=BIRTHS,
        new_birth=BIRTHS,
    )
    def begin(
        self,
        beside: int,
        session: str | None,
        world_size: int,
        origin: Cursor,
        slowest: Cursor | None,
        birth: str,
        new_birth: str,
    ) -> None:
        follows = self.id(birth, beside)
        lockstep = origin.step or None
        new = Generation(follows.number + 1, session, world_size, origin, 3, new_birth, lockstep)
        self.compare("begin", new, follows, slowest)

    @rule(
        rank=RANKS,
        holder=HOLDERS,
        beside=st.sampled_from([0, 0, 0, 1]),
        tick=TICKS,
        now_s=TIMES,
        birth=BIRTHS,
    )
    def lease(self, rank: int, holder: str, beside: int, tick: int, now_s: float, birth: str) -> None:
        self.compare("lease", rank, holder, self.id(birth, beside), tick * LEASE_STRIDE + rank, now_s)

    @rule(
        rank=RANKS,
        lease=st.none() | TOKENS,
        beside=st.sampled_from([0, 0, 0, 0, -1]),
        cursor=st.none() | CURSORS,
        not_before=st.none() | CURSORS,
        trusted=st.booleans(),
        now_s=TIMES,
        birth=BIRTHS,
    )
    def commit(
        self,
        rank: int,
        lease: int | None,
        beside: int,
        cursor: Cursor | None,
        not_before: Cursor | None,
        trusted: bool,
        now_s: float,
        birth: str,
    ) -> None:
        if lease is None:  # the one that was given last
            lease = self.model.tokens.get(rank, rank)
        request = CommitRequest(rank, lease, self.id(birth, beside), cursor, not_before, trusted, now_s)
        self.compare("commit", request)

    @invariant()
    def ranks_agree(self) -> None:
        self.compare("ranks")


@pytest.mark.parametrize("num_examples", [8, pytest.param(100, marks=pytest.mark.exhaustive)])
def test_a_store_answers_as_the_model_does(url: str, num_examples: int) -> None:
    machine = type("Machine", (StoreAgainstModel,), {"url": url})
    run_state_machine_as_test(machine, settings=settings(BOUNDED, max_examples=num_examples))
