"""Random chains of world sizes and stops: over the starts that counted, every image of an epoch is served once, except
those declared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.store.port import Cursor, Generation
from tests.runs.elastic import Desk, Job

SMALL = {"map": "small", "world_size": 4, "batch_size": 2}
LARGE = {"map": "large", "world_size": 64, "batch_size": 1}
SAME_SHAPE = {**SMALL, "steps": "same_shape"}
PACKS = {"map": "small", "world_size": 4, "ladder": {"kind": "native"}, "pack": {"max_tokens": 4096}}
TAILS = ("spill", "pad", "drop", "catch_all")
LINES = {
    "balanced": [
        *({**SMALL, "tails": tails} for tails in ("shift", *TAILS, "short")),
        {**SMALL, "last_step": "fill"},
        {**SMALL, "lockstep": 6, "epochs": 3},
        {**SMALL, "lockstep": 1, "epochs": 1},
        {**SMALL, "tails": "short", "lockstep": 8},
        {**SMALL, "num_repeats": 1.5, "last_step": "fill", "epochs": 2},
        {**SMALL, "first": "largest"},
    ],
    "packs": [
        PACKS,
        {**PACKS, "lockstep": 6, "epochs": 3},
        {**PACKS, "lockstep": 1, "num_repeats": 1.5, "first": "largest"},
        {**PACKS, "pack": {"max_tokens": 2_000}, "num_repeats": 0.3, "epochs": 2},
    ],
    "same_shape": [
        *({**SAME_SHAPE, "tails": tails} for tails in TAILS),
        {**SAME_SHAPE, "tails": "pad", "lockstep": 6, "epochs": 3},
        {**SAME_SHAPE, "tails": "drop", "lockstep": 1, "epochs": 1},
        {**SAME_SHAPE, "tails": "spill", "gradient_accumulation_steps": 3},
        {**SAME_SHAPE, "tails": "catch_all", "lockstep": 12, "epochs": 2},
        {**SAME_SHAPE, "tails": "spill", "num_repeats": 1.5, "lockstep": 2},
    ],
}
LARGE_SAME_SHAPE = {**LARGE, "steps": "same_shape"}
LARGE_LINES = [
    {**LARGE, "batch_size": 2},
    {**LARGE, "tails": "short", "batch_size": 2},
    {**LARGE, "world_size": 4096},
    {**LARGE_SAME_SHAPE, "tails": "spill"},
    {**LARGE_SAME_SHAPE, "tails": "pad", "lockstep": 96},
    {**LARGE_SAME_SHAPE, "tails": "drop", "lockstep": 16, "epochs": 2},
    {**LARGE_SAME_SHAPE, "tails": "catch_all", "lockstep": 7},
    {**LARGE_SAME_SHAPE, "tails": "spill", "world_size": 4096},
]
NOVELAI = [{**SMALL, "planner": "novelai"}, {**SMALL, "planner": "novelai", "epochs": 2}]
WALKED_EPOCHS = 4

by_steps = pytest.mark.parametrize("small", [SMALL, SAME_SHAPE], ids=["balanced", "same_shape"])
by_tails = pytest.mark.parametrize(
    "tails",
    [
        *("spill", "drop"),
        *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("pad", "catch_all")),
    ],
)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("elastic"))
    desk.put_map("small", 150)
    desk.put_map("large", 9_001)
    yield desk
    desk.close()


def world_sizes(most: int) -> st.SearchStrategy[int]:
    often = st.sampled_from([size for size in (1, 2, 3, 4, 6, 8, 12, most // 2 + 1, most) if size <= most])
    return often | st.integers(1, most)


def live(job: Job, data: st.DataObject, num_starts: int) -> None:
    """A job with that many starts: each continues to a stop, and the next begins at one of the stops so far."""
    stops = []
    most = min(4096, job.planner.least_batches(1))
    for _ in range(num_starts):
        walk(job, data)
        stops.append((job.state(), job.tape))
        world_size = data.draw(world_sizes(most), label="world_size")
        how = data.draw(st.sampled_from(["state", "state", "older state", "cursor"]), label="resume")
        if how == "cursor":
            begin_at_the_cursor(job, world_size, data)
            continue
        state, tape = data.draw(st.sampled_from(stops), label="stop") if how == "older state" else stops[-1]
        job.start(world_size, state, tape)
        event(f"{how}, mixed steps: {job.session.mixed_steps > 0}")
    walk_on(job)


def walk(job: Job, data: st.DataObject) -> None:
    """To any step of this epoch or a later one; to the end of one, also without turning into the next."""
    for _ in range(data.draw(st.integers(0, 2), label="epochs")):
        if job.is_over or job.tape.epoch == WALKED_EPOCHS:
            return
        job.go(job.steps_left)
        job.turn()
    if job.is_over:
        return
    left = job.steps_left
    steps = st.sampled_from([0, min(1, left), max(left - 1, 0), left]) | st.integers(0, left)
    job.go(data.draw(steps, label="steps"))
    if not job.steps_left and data.draw(st.booleans(), label="turn"):
        job.turn()


def begin_at_the_cursor(job: Job, world_size: int, data: st.DataObject) -> None:
    """Of few ranks all acknowledge what they have done. Where not all have a lease, the slowest is at the origin."""
    tape = job.tape
    is_near = job.run.plan.sources.images.num_images <= 1024  # an ack may be so many steps ahead
    if is_near and job.world_size <= 6 and not job.is_over:
        job.stand(data.draw(st.integers(0, 3), label="ahead"))
        if not job.steps_left:
            job.turn()
        tape = job.tape
    else:
        tape = job.origin
    job.start(world_size, "cursor", tape)


def walk_on(job: Job) -> None:
    """To the epoch's end, and through the epoch after it: that one is as the ledger and the stats have it."""
    if not job.is_over:
        job.check_told()
        job.go(job.steps_left)
        job.turn()
    if not job.is_over:
        epoch = job.tape.epoch
        job.go(job.steps_left)
        job.turn()
        job.check_declared(epoch)
    job.check()


@pytest.mark.parametrize("steps", LINES)
@settings(deadline=None, max_examples=settings().max_examples // 2)
@given(data=st.data())
def test_a_chain_of_starts_serves_every_image_once_but_for_what_is_declared(desk, steps, data):
    spec = data.draw(st.sampled_from(LINES[steps]), label="spec")
    live(Job(desk, desk.run(**spec)), data, data.draw(st.integers(1, 6)))


@settings(deadline=None, max_examples=settings().max_examples // 5)
@given(st.sampled_from(LARGE_LINES), st.data())
def test_so_it_does_on_up_to_4096_ranks(desk, spec, data):
    live(Job(desk, desk.run(**spec)), data, data.draw(st.integers(1, 4)))


@settings(deadline=None, max_examples=settings().max_examples // 2)
@given(st.sampled_from(NOVELAI), st.data())
def test_novelai_changes_its_world_size_between_epochs_alone(desk, spec, data):
    job = Job(desk, desk.run(**spec))
    for _ in range(data.draw(st.integers(1, 3))):
        walk(job, data)
        state, tape, before = job.state(), job.tape, job.run.generation
        world_size = data.draw(world_sizes(job.planner.num_batches(0, 1)), label="world_size")
        is_within = tape.position > 0 and job.steps_left and not job.is_over
        if is_within and world_size != job.world_size:
            with pytest.raises(
                Invalid, match=f"Finish epoch {tape.epoch} with {job.world_size} ranks"
            ) as refused:
                desk.start(job.name, world_size, state)
            assert refused.value.field == "world_size"
            assert desk.open(job.name).generation == before
            world_size = job.world_size
        job.start(world_size, state, tape)
    walk_on(job)


@pytest.mark.exhaustive
def test_novelai_begins_on_4096_ranks(desk):
    job = Job(desk, desk.run(**LARGE, planner="novelai"))
    job.start(4096, job.state(), job.tape)
    walk_on(job)
    assert [len(np.concatenate(had)) for had in job.tape.had.values()] == [8192, 8192]


def test_a_world_size_that_divides_lockstep_is_told_of_a_start_within_a_step(desk):
    """3 ranks leave the stream at 9, within a unit of 12: then steps of 4 span units, though 4 divides 12. So does no
    step from 12 on."""
    job = Job(desk, desk.run(**SAME_SHAPE, lockstep=12))
    job.start(3, job.state(), job.tape)
    job.go(3)
    nine = job.state(), job.tape
    job.go(1)
    twelve = job.state(), job.tape
    job.start(4, *nine)
    assert job.session.mixed_steps == (job.planner.num_batches(0, 1) - 9) // 12
    job.start(4, *twelve)
    assert job.session.mixed_steps == 0
    walk_on(job)


@by_tails
def test_after_the_epoch_of_a_change_every_step_has_one_shape_again(desk, tails):
    """4 ranks, then 6, 3 and 6 within one epoch: its stream is planned for 4 throughout, and the states saved in it say
    so. Later epochs are planned for 6; back on 4, the plan's own lockstep returns."""
    job = Job(desk, desk.run(**SAME_SHAPE, tails=tails, lockstep=8))
    job.go(2)
    for world_size, num_steps in ((6, 1), (3, 3), (6, 2)):
        job.start(world_size, job.state(), job.tape)
        job.go(num_steps)
        assert job.state()["lockstep"] == 8
    assert job.session.mixed_steps > 0
    job.check_told()
    for epoch in (1, 2):
        job.go(job.steps_left)
        job.turn()
        assert (job.tape.epoch, job.tape.lockstep, job.state()["lockstep"]) == (epoch, 12, 12)
    job.go(1)
    job.start(4, job.state(), job.tape)
    assert job.tape.lockstep == 12
    walk_on(job)
    assert [ended[1:] for ended in job.tape.ended.values()] == [(6, 8), (6, 12), (4, 12), (4, 8)]
    assert job.run.lockstep(4) == 8


def test_after_the_epoch_of_a_change_steps_are_balanced_again(desk):
    """4 ranks, then 6 and 3: the stream that has begun stays planned for 4, and so may have steps that span units.
    Later ones have units of a step of the ranks that begin them, also of fewer than divide the plan's own."""
    job = Job(desk, desk.run(**SMALL))
    job.go(2)
    job.start(6, job.state(), job.tape)
    job.go(1)
    assert job.state()["lockstep"] == 4
    assert job.session.mixed_steps > 0
    for world_size in (6, 2):
        job.go(job.steps_left)
        job.turn()
        assert job.tape.lockstep == job.state()["lockstep"] == world_size
        job.start(2, job.state(), job.tape)
    walk_on(job)
    assert [ended[1:] for ended in job.tape.ended.values()] == [(6, 4), (2, 2), (2, 2), (2, 2)]


def test_boundaries_that_moved_for_other_units_leave_no_more_out(desk):
    """They moved for whole units of 4 batches. On 6 ranks what fills no unit of 6 spills, so that each epoch leaves out
    less than one, once each image that it serves, and the ledger says which."""
    name = desk.run(**SAME_SHAPE, tails="shift")
    run = desk.start(name, 6, "start").run
    assert run.lockstep(1) == 6
    planner = run.sharding.planner_of(1)
    num_batches = planner.num_batches(1, 6)
    assert num_batches % 6 == 0
    num_images = run.plan.sources.images.num_images
    served = np.bincount(planner.batches(1, np.arange(num_batches), 6).rows, minlength=num_images)
    assert served.max() == 1
    assert num_images - served.sum() < 6 * 2
    assert np.array_equal(served, desk.declared_now(name, 1))


@by_steps
def test_of_a_plan_with_mixed_steps_no_change_makes_another_lockstep(desk, small):
    job = Job(desk, desk.run(**small, tails="pad", lockstep=6))
    for world_size in (5, 6, 12):
        job.start(world_size, "start", type(job.tape)())
        assert job.run.lockstep(0) == job.run.lockstep(1) == 6


def test_where_no_epoch_has_a_unit_for_so_many_ranks_the_plans_own_stays(desk):
    """150 images in 12 buckets, ``drop``: no bucket holds 64 of them, though an epoch has more batches."""
    job = Job(desk, desk.run(**SAME_SHAPE, tails="drop"))
    job.start(32, job.state(), job.tape)
    assert job.run.lockstep(1) == 4
    assert job.session.mixed_steps > 0
    walk_on(job)


def test_a_state_from_before_there_was_another_lockstep_has_the_plans_own(desk):
    job = Job(desk, desk.run(**SAME_SHAPE))
    job.start(6, job.state(), job.tape)
    job.go(2)
    told = job.state()
    assert told["lockstep"] == 6
    older = {name: value for name, value in told.items() if name != "lockstep"}
    for state, lockstep, mixed in ((told, 6, False), (older, 4, True)):
        session = desk.start(job.name, 6, state)
        assert [session.run.lockstep(epoch) for epoch in (0, 1)] == [lockstep, 6]
        assert (session.mixed_steps > 0) == mixed


def test_a_start_from_before_there_was_another_lockstep_goes_on_as_it_began(desk):
    """As an older coordinator has left it: the batches of a job that is at work are not others after an upgrade."""
    name = desk.run(**SAME_SHAPE, seed=7)
    run = desk.open(name)
    older = Generation(2, "older", 6, Cursor(0, 5), 20, run.generation.birth)
    assert desk.wait(desk.coordinator.store.begin(name, older, run.generation.id, None)).begun
    run = desk.open(name)
    assert [run.lockstep(epoch) for epoch in (0, 1, 9)] == [4, 4, 4]
    assert run.sharding.planner_of(0) is run.sharding.planner_of(1) is run.plan.planner
    desk.acknowledge(name, [Cursor(0, 6)] * 6)
    session = desk.start(name, 6, "cursor")
    assert (session.cursor, session.run.generation.lockstep) == (Cursor(0, 7), 4)
    assert [session.run.lockstep(epoch) for epoch in (0, 1)] == [4, 6]


@by_steps
@pytest.mark.parametrize("lockstep", [151, 1 << 20])
def test_a_state_of_a_lockstep_that_no_epoch_can_have_is_refused(desk, small, lockstep):
    job = Job(desk, desk.run(**small))
    job.go(2)
    before = desk.open(job.name).generation
    with pytest.raises(Invalid, match=f"can have lockstep {lockstep}") as refused:
        desk.start(job.name, 6, {**job.state(), "lockstep": lockstep})
    assert refused.value.field == "resume.lockstep"
    assert desk.open(job.name).generation == before


@by_steps
@by_tails
def test_every_last_step_of_a_run_leads_to_its_end(desk, small, tails):
    """With ``epochs``: from behind the last step, and from before it on more ranks than there are batches left."""
    job = Job(desk, desk.run(**small, tails=tails, epochs=2))
    job.go(job.steps_left)
    job.turn()
    job.go(job.steps_left - 1)
    before = job.state(), job.tape
    job.go(1)
    behind = job.state(), job.tape
    job.turn()
    for state, tape in (behind, (job.state(), job.tape)):
        job.start(5, state, tape)
        assert job.is_over
        assert job.session.left_out_batches == 0
    job.start(5, *before)
    assert job.is_over
    assert job.session.left_out_batches == 4
    job.check()
    job.start(3, *before)
    walk_on(job)
    assert job.is_over
    assert job.tape.ended[1][:2] == (1, 3)


@by_steps
def test_a_world_size_beyond_the_epoch_is_refused_with_what_would_do(desk, small):
    job = Job(desk, desk.run(**small))
    most = job.planner.num_batches(0, 1)
    job.go(2)
    with pytest.raises(Invalid, match=f"must be 1 to {most}") as refused:
        desk.start(job.name, most + 1, job.state())
    assert refused.value.field == "world_size"
    job.start(most, job.state(), job.tape)  # what is left does not fill a step: the next epoch is one
    assert (job.tape.epoch, job.session.left_out_batches) == (1, most - 8)
    assert job.steps_left == 1
    walk_on(job)
