"""A short slice of the schedule of faults; ``make chaos`` runs a long one. What fails here is run again, and its logs
kept, by ``python -m tests.faults.run --seed SEED --faults NUM --keep FOLDER``."""

from tests.faults.run import Tally, run_job
from tests.faults.schedule import KINDS, schedule
from tests.faults.world import World

SEED = 20


def test_jobs_under_every_kind_of_fault(tmp_path):
    """A job that knows two coordinators, and is restarted on other numbers of ranks; and one that knows one."""
    tally = Tally()
    with World(tmp_path, 2) as world:
        tally.add(run_job(world, tmp_path / "two", schedule(SEED, len(KINDS)), "two", 2))
        tally.add(run_job(world, tmp_path / "one", schedule(SEED, 1, ["coordinator_killed"]), "one", 1))
    assert tally.violations == []
    assert tally.kinds == {**dict.fromkeys(KINDS, 1), "coordinator_killed": 2}
    assert len(tally.recovery_s) == tally.kinds.total()
    assert tally.num_epochs > 2
    assert tally.num_committed > 0


def test_a_schedule_is_a_function_of_its_seed():
    assert schedule(7, 300) == schedule(7, 300)
    assert schedule(7, 300)[:100] != schedule(8, 300)[:100]
    assert {fault.kind for fault in schedule(7, len(KINDS))} == set(KINDS)
