"""The history checker finds faults: a valid history is broken in one place by each of these, and the place is
reported."""

import copy

import pytest

from tests.faults.history import check
from tests.faults.record import history_of, place_of
from tests.faults.run import run_job
from tests.faults.schedule import Fault
from tests.faults.world import World

pytestmark = pytest.mark.exhaustive

NUM_ACKS = 2
"""The fewest acknowledgements of every rank before each fault: so many times ``FLUSH_EVERY`` steps."""


def a_fault(number, kind, world_size=3):
    return Fault(
        number, kind, rank=1, replica=0, num_messages=1, hold_s=0.0, gap=NUM_ACKS, world_size=world_size,
        age=1, from_cursor=False,
    )  # fmt: skip


FAULTS = [
    a_fault(0, "worker_stopped"),
    a_fault(1, "job_restarted", world_size=2),
    a_fault(2, "worker_killed"),
    a_fault(3, "job_restarted_over_a_zombie", world_size=3),
]


@pytest.fixture(scope="module")
def true_history(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    with World(folder, 1) as world:
        return run_job(world, folder / "log", FAULTS, "run", 1)


@pytest.fixture
def events(true_history):
    return copy.deepcopy(true_history)


def test_a_true_history_has_nothing_to_tell(true_history):
    report = check(true_history)
    assert report.violations == []
    assert report.num_generations == len({event["generation"] for event in of(true_history, "session")})
    finished = of(true_history, "plan")[: report.num_epochs]
    assert finished
    assert 0 <= sum(len(event["batches"]) for event in finished) - report.num_committed < 4 * len(finished)


def test_what_a_store_forgot_may_fall_back(events):
    """Cursors that fall back are a defect, but where the store was put back before."""
    told = of(events, "observed", rank=0)[-1]
    forgotten = after(told, step=told["step"] - 1, asked_at=told["t"])
    assert check([*events, forgotten]).count("backwards", "lost_commit") > 0
    assert (
        check([*events, after(told, what="restored"), after(forgotten)]).count("backwards", "lost_commit")
        == 0
    )


# --- where to break it ------------------------------------------------------------------------------------------


def of(events, *what, **fields):
    """The events of these kinds with these fields."""
    return [
        event
        for event in events
        if event["what"] in what and all(event.get(name) == value for name, value in fields.items())
    ]


def replaced(events):
    """A worker whose rank another one took, and that one."""
    chains = history_of(events).stints.values()
    return next((chain[0], chain[1]) for chain in chains if len(chain) > 1)


def restarts(events):
    """The sessions that were begun from a checkpoint, by generation, as everybody was told of them."""
    sessions = [event for event in of(events, "session") if isinstance(event["resume"], dict)]
    return {n: of(sessions, "session", generation=n) for n in sorted({e["generation"] for e in sessions})}


def before(event, seconds=1e-6):
    return {**copy.deepcopy(event), "t": event["t"] - seconds}


def after(event, seconds=1e-6, **fields):
    return {**copy.deepcopy(event), "t": event["t"] + seconds, **fields}


def at(event):
    return f"epoch {event['epoch']} step {event['step']}"


# --- each breaks the events, and returns what the checker must tell --------------------------------------------------


def other_ids(events):
    batch = of(events, "handed")[40]
    batch["ids"][0] += 1
    return "plan", at(batch)


def other_rank(events):
    batch = of(events, "handed")[41]
    batch["rank"] = 99
    return "plan", at(batch)


def skipped(events):
    batch = of(events, "handed", generation=2, rank=1)[9]
    for event in of(
        events, "handed", "trained", holder=batch["holder"], epoch=batch["epoch"], step=batch["step"]
    ):
        events.remove(event)
    return "order", "too late"


def handed_again(events):
    batch = of(events, "handed", generation=2, rank=1)[9]
    trained = of(events, "trained", holder=batch["holder"])[9]
    events += [after(trained, 1e-6, **{**batch, "t": trained["t"] + 1e-6}), after(trained, 2e-6)]
    return "order", "again or too early"


def untrained(events):
    batch = of(events, "trained", generation=2, rank=1)[9]
    events.remove(batch)
    return "order", "trained what it was not handed"


def asked_on(events):
    worker = of(events, "handed", generation=2)[-1]["holder"]
    for event in of(events, "trained", holder=worker)[-2:]:
        events.remove(event)
    return "order", "asked on"


def late_start(events):
    first = of(events, "handed", generation=2, rank=0)[0]
    for event in of(events, "handed", "trained", holder=first["holder"])[:2]:
        events.remove(event)
    return "gap", "rank 0"


def hole_between_workers(events):
    """A follower begins one step after the last that the worker before it had trained."""
    old, new = replaced(events)
    for event in of(events, "handed", "trained", holder=old.holder):
        if place_of(event) >= new.begin:
            events.remove(event)
    for event in of(events, "handed", "trained", holder=new.holder)[:2]:
        events.remove(event)
    return "gap", f"holder {new.holder}: begins at"


def rank_behind_the_checkpoint(events):
    _, (session, *_) = min(restarts(events).items())
    generation = session["generation"] - 1
    resume = (session["resume"]["epoch"], session["resume"]["step"])
    for event in of(events, "handed", "trained", generation=generation, rank=1):
        if place_of(event) >= (resume[0], resume[1] - 1):
            events.remove(event)
    return "gap", "rank 1 ends at"


def epoch_left_unfinished(events):
    """A generation continues with the next epoch, although more than a step was left of the previous one."""
    number, sessions = min(restarts(events).items())
    epoch = sessions[0]["resume"]["epoch"]
    for session in sessions:
        session["origin"], session["offset"] = [epoch + 1, 0], 0
    for event in of(events, "handed", "trained", "acked", generation=number, epoch=epoch):
        events.remove(event)
    return "gap", f"epoch {epoch} position {sessions[0]['resume']['offset']}"


def position_that_nobody_trained(events):
    """No worker knows better: the session itself began too far on."""
    _, sessions = min(restarts(events).items())
    resume = sessions[0]["resume"]
    for session in sessions:
        session["offset"] += session["world_size"]
    skipped = resume["offset"]
    return "gap", f"epoch {resume['epoch']} position {skipped}"


def step_that_counts_twice(events):
    _, sessions = min(restarts(events).items())
    old = history_of(events).generations[sessions[0]["generation"] - 1]
    for session in sessions:
        session["resume"]["offset"] += old.world_size
        session["resume"]["step"] += 1
    return "doubled", f"epoch {sessions[0]['resume']['epoch']} position"


def begun_within_a_step(events):
    _, sessions = min(restarts(events).items())
    for session in sessions:
        session["resume"]["offset"] -= 1
    return "mixed_generations", f"generation {sessions[0]['generation'] - 1}: a later one begins within step"


def step_of_two_generations(events):
    """Positions are as they were, but the new generation counts its steps from one before."""
    number, sessions = min(restarts(events).items())
    epoch, first = sessions[0]["origin"]
    for session in sessions:
        session["origin"] = [epoch, first - 1]
    for event in of(events, "handed", "trained", "acked", generation=number, epoch=epoch):
        event["step"] -= 1
    return "mixed_generations", f"trained by generations [{number - 1}, {number}]"


def two_shapes(events):
    batch = of(events, "handed", generation=2, rank=0)[3]
    plan = of(events, "plan", epoch=batch["epoch"])[0]["batches"]
    for each in of(events, "handed"):
        if each["ids"] == batch["ids"] and each is not batch and each["epoch"] == batch["epoch"]:
            each["width"] += 64
    next(each for each in plan if each[3] == batch["ids"])[1] += 64
    batch["width"] += 64
    for session in of(events, "session", generation=2):
        session["mixed_steps"] = 0
    return "mixed_shapes", "steps, declared 0"


def image_twice(events):
    batch = of(events, "handed", generation=2, rank=0)[3]
    plan = of(events, "plan", epoch=0)[0]["batches"]
    gone, again = batch["ids"][0], next(each for each in plan if each[3] != batch["ids"])[3][0]
    for ids in [each["ids"] for each in of(events, "handed", epoch=0)] + [each[3] for each in plan]:
        if gone in ids:
            ids[:] = [again if image == gone else image for image in ids]
    return "images", f"epoch 0 image {min(gone, again)}"


def committed_and_handed_out_again(events):
    """The follower begins with a step that the worker before it had acknowledged."""
    old, new = replaced(events)
    for event in of(events, "acked", holder=old.holder):
        if event["t"] > new.since:
            events.remove(event)
    acked, _ = [ack for ack in old.acked if ack[1] < new.since][-1]
    batch = [event for event in old.handed if place_of(event) < acked][-1]
    first = new.handed[0]
    events.append({**batch, "t": first["t"] - 2e-6, "holder": new.holder})
    events.append({**of(events, "trained")[0], **{n: batch[n] for n in ("epoch", "step", "rank", "generation")},
                   "t": first["t"] - 1e-6, "holder": new.holder})  # fmt: skip
    return "lost_commit", f"holder {old.holder}"


def zombie_that_counts(events):
    """A worker moves the cursor past the step with which its follower has begun."""
    old, new = replaced(events)
    cursor = new.begin[0], new.begin[1] + 1
    worker = {"holder": old.holder, "rank": old.rank, "generation": old.generation}
    if not any(place == new.begin for place, _ in old.trained):
        events.append({**new.handed[0], "t": new.since + 1e-6, "holder": old.holder})
        events.append(
            {"what": "trained", "t": new.since + 2e-6, **worker, "epoch": new.begin[0], "step": new.begin[1]}
        )
    late = max(event["t"] for event in of(events, "trained", holder=old.holder))
    events.append(
        {"what": "acked", "t": max(late, new.since) + 3e-6, **worker, "epoch": cursor[0], "step": cursor[1]}
    )
    return "zombie_commit", f"holder {old.holder}"


def session_before_the_cursors(events):
    """A generation that says it began at the cursors, and began at the checkpoint before them."""
    number, sessions = max(restarts(events).items())
    for session in sessions:
        session["resume"] = "cursor"
    begin = history_of(events).generations[number].origin
    for event in of(events, "acked", generation=number - 1):
        assert place_of(event)
    for rank in range(history_of(events).generations[number - 1].world_size):
        last = of(events, "acked", generation=number - 1, rank=rank)[-1]
        last["epoch"], last["step"] = max(place_of(last), (begin[0], begin[1] + 1))
    return "lost_commit", f"generation {number}"


def cursor_past_the_work(events):
    told = of(events, "observed", rank=0)[0]
    told["step"] += 40
    return "phantom_commit", at(told)


def ack_past_the_work(events):
    ack = of(events, "acked", generation=2, rank=0)[0]
    ack["step"] += 40
    return "phantom_commit", "generation 2 rank 0"


def cursor_that_falls_back(events):
    told = of(events, "observed", "final", rank=0, generation=of(events, "final")[0]["generation"])
    told[-1]["epoch"], told[-1]["step"] = told[-2]["epoch"], told[-2]["step"] - 1
    return "backwards", at(told[-1])


def ack_that_falls_back(events):
    acks = of(events, "acked", generation=2, rank=0)
    acks[1]["epoch"], acks[1]["step"] = 0, 1
    return "backwards", "generation 2 rank 0"


def cursor_behind_an_ack(events):
    """The coordinator forgets what it had confirmed, and never had told anyone else."""
    told = of(events, "final", rank=0)[0]
    told["step"] = 1
    told["epoch"] -= 1
    for event in of(events, "observed", rank=0, generation=told["generation"]):
        events.remove(event)
    return "lost_commit", at(told)


def generation_that_falls_back(events):
    older = min(of(events, "observed"), key=lambda event: event["generation"])
    events.append(after(of(events, "final")[-1], **{**older, "t": of(events, "final")[-1]["t"] + 1e-6}))
    return "backwards", f"generation {older['generation']}"


def resumed_from_nothing(events):
    number, sessions = min(restarts(events).items())
    for event in of(events, "saved"):
        if event["state"] == sessions[0]["resume"]:
            events.remove(event)
    return "start", f"generation {number}"


def begun_elsewhere(events):
    number, sessions = min(restarts(events).items())
    for session in sessions:
        session["origin"] = [session["origin"][0], session["origin"][1] + 1]
    return "start", f"generation {number}: begins at"


def told_otherwise(events):
    number, sessions = min(restarts(events).items())
    sessions[-1]["offset"] += 1
    return "start", f"generation {number}"


def start_that_is_none(events):
    for session in of(events, "session", generation=2):
        session["origin"] = [0, 1]
    return "start", "generation 2"


def checkpoint_ahead(events):
    saved = of(events, "saved")[3]
    saved["state"]["step"] += 1
    return "checkpoint", f"holder {saved['holder']}"


def checkpoint_with_another_offset(events):
    saved = of(events, "saved")[3]
    saved["state"]["offset"] += 1
    return "checkpoint", f"holder {saved['holder']}"


def ranks_that_save_different_plans(events):
    first = of(events, "saved", generation=2, rank=1)[0]
    first["state"]["fingerprint"] = "another"
    return "checkpoint", "rank"


def zombie_never_told(events):
    old, _ = replaced([event for event in events if event.get("holder") in {e["holder"] for e in of(events, "fenced")}
                       or event["what"] not in ("handed", "trained", "acked")] + followers(events))  # fmt: skip
    of(events, "fenced", holder=old.holder)[0]["what"] = "ended"
    return "fence", f"holder {old.holder}"


def followers(events):
    """The work of those who took the place of a fenced worker."""
    history = history_of(events)
    told = {event["holder"] for event in of(events, "fenced")}
    later = {
        c[i + 1].holder for c in history.stints.values() for i, s in enumerate(c[:-1]) if s.holder in told
    }
    return [event for event in of(events, "handed", "trained", "acked") if event["holder"] in later]


def zombie_of_an_older_start_never_told(events):
    newest = of(events, "final")[0]["generation"]
    started = {e["generation"]: e["t"] for e in reversed(of(events, "session"))}
    zombie = next(
        event
        for event in of(events, "fenced")
        if any(n > event["generation"] and t < event["t"] for n, t in started.items())
    )
    zombie["what"] = "ended"
    assert zombie["generation"] < newest
    return "fence", f"holder {zombie['holder']}"


def fenced_for_nothing(events):
    ended = of(events, "ended")[0]
    ended["what"] = "fenced"
    return "fence", f"holder {ended['holder']}"


def deadline_for_nothing(events):
    worker = of(events, "trained")[30]
    events.append(after(worker, what="unavailable", waited_s=0.1))
    return "unavailable", f"holder {worker['holder']}"


def exception(events):
    worker = of(events, "trained")[30]
    events.append(after(worker, what="exception", type="KeyError", message="batches"))
    return "exception", f"holder {worker['holder']}"


def rank_that_ends_behind(events):
    told = of(events, "final", rank=1)[0]
    told["step"] += 1
    return "final", f"generation {told['generation']} rank 1"


def rank_without_an_end(events):
    told = of(events, "final", rank=1)[0]
    events.remove(told)
    return "final", f"generation {told['generation']} rank 1"


def job_that_ends_early(events):
    of(events, "run")[0]["epochs"] = 1_000
    return "gap", "its run has 1000 epochs"


BREAKS = [
    other_ids, other_rank, skipped, handed_again, untrained, asked_on, late_start, hole_between_workers,
    rank_behind_the_checkpoint, epoch_left_unfinished, position_that_nobody_trained, step_that_counts_twice,
    begun_within_a_step, step_of_two_generations, two_shapes, image_twice, committed_and_handed_out_again,
    zombie_that_counts, session_before_the_cursors, cursor_past_the_work, ack_past_the_work, cursor_that_falls_back,
    ack_that_falls_back, cursor_behind_an_ack, generation_that_falls_back, resumed_from_nothing, begun_elsewhere,
    told_otherwise, start_that_is_none, checkpoint_ahead, checkpoint_with_another_offset,
    ranks_that_save_different_plans, zombie_never_told, zombie_of_an_older_start_never_told, fenced_for_nothing,
    deadline_for_nothing, exception, rank_that_ends_behind, rank_without_an_end, job_that_ends_early,
]  # fmt: skip


@pytest.mark.parametrize("break_", BREAKS, ids=lambda break_: break_.__name__)
def test_a_broken_history_is_told_where(events, break_):
    kind, where = break_(events)
    told = [str(violation) for violation in check(events).violations]
    assert [line for line in told if line.startswith(f"{kind}: ") and where in line], told[:10]
