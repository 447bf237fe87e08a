"""A job under a few kinds of fault, and in ``make test-all`` under all of them; ``make chaos`` runs 1,000 faults.

``python -m tests.faults.run --seed SEED --faults NUM --keep FOLDER`` runs a schedule that has failed again, and keeps
its logs.
"""

import pytest

from tests.faults.run import Tally, run_job
from tests.faults.schedule import KINDS, schedule
from tests.faults.world import World

SEED = 20
TYPICAL = [
    *("coordinator_killed_in_request", "redis_killed", "worker_killed"),
    *("job_restarted_over_a_zombie", "client_lose", "store_lose"),
]


def test_a_job_under_typical_faults(tmp_path):
    tally = Tally()
    with World(tmp_path, 2) as world:
        tally.add(run_job(world, tmp_path / "job", schedule(SEED, len(TYPICAL), TYPICAL), "job", 2))
    assert tally.violations == []
    assert tally.kinds == dict.fromkeys(TYPICAL, 1)
    assert len(tally.recovery_s) == tally.kinds.total()
    assert tally.num_committed > 0


@pytest.mark.exhaustive
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
