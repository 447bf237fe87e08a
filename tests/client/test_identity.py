import pytest

from bucketline import UsageError
from bucketline._identity import launched, make_holder, session_name

TORCHRUN = {"TORCHELASTIC_RUN_ID": "job", "TORCHELASTIC_RESTART_COUNT": "2", "WORLD_SIZE": "8"}
SLURM = {"SLURM_JOB_ID": "4711", "SLURM_RESTART_COUNT": "1"}
BATCH, INTERACTIVE = {"SLURM_STEP_ID": "4294967291"}, {"SLURM_STEP_ID": "4294967290"}
TASK = {**SLURM, "SLURM_STEP_ID": "3", "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "8"}


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"BUCKETLINE_SESSION": "mine", **TORCHRUN}, "mine"),
        (TORCHRUN | SLURM, "job.2.w8"),
        (TORCHRUN | TASK, "job.2.w8"),
        ({"TORCHELASTIC_RUN_ID": "job"}, "job.0.w8"),
        (SLURM, "4711.1.w8"),
        ({"SLURM_JOB_ID": "4711"}, "4711.0.w8"),
        ({"TORCHELASTIC_RUN_ID": "none", **SLURM}, "4711.1.w8"),
        ({"TORCHELASTIC_RUN_ID": "none", **TASK}, "4711.1.3.w8"),
        (TASK, "4711.1.3.w8"),
        ({**TASK, "SLURM_PROCID": "0", "PMI_RANK": "0", "PMI_SIZE": "4"}, "4711.1.3.w8"),
        (SLURM | BATCH, "4711.1.w8"),
        (SLURM | INTERACTIVE, "4711.1.w8"),
        # of one mpirun, on its own node and on another
        ({**SLURM, "OMPI_COMM_WORLD_SIZE": "8"}, "4711.1.w8"),
        ({**TASK, "OMPI_COMM_WORLD_SIZE": "8"}, "4711.1.w8"),
    ],
)
def test_session_is_named_after_the_launcher(environ, name):
    assert session_name(8, environ) == name


def test_a_change_of_nodes_is_another_session():
    """torchrun does not count a restart for it."""
    assert session_name(8, TORCHRUN) != session_name(6, TORCHRUN)


@pytest.mark.parametrize("world_size", [1, 4])
def test_every_srun_of_an_allocation_is_a_start_of_its_own_and_one_for_all_of_its_tasks(world_size):
    def names(step, restarts):
        environ = {**TASK, "SLURM_STEP_ID": step, "SLURM_RESTART_COUNT": restarts}
        return {session_name(world_size, {**environ, "SLURM_PROCID": task}) for task in "0123"}

    starts = [names(step, restarts) for step in ("0", "1") for restarts in ("0", "1")]
    assert [len(each) for each in starts] == [1, 1, 1, 1]
    assert len(set.union(*starts)) == 4


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {**TASK, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"},  # srun -n1
        SLURM,
        {**SLURM, "SLURM_NTASKS": "8"},  # a shell of salloc
        {**SLURM, **INTERACTIVE, "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
        {**SLURM, **BATCH, "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
        {**TASK, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},  # mpirun -n1 inside
        {**TASK, "RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_a_lone_process_gets_a_name_of_its_own(environ):
    """A second start in one shell or batch script begins as well."""
    assert not launched(environ).is_of_several
    assert session_name(1, environ) != session_name(1, environ)


@pytest.mark.parametrize("environ", [{}, {"TORCHELASTIC_RUN_ID": "none"}])
def test_several_processes_without_a_common_name_are_refused(environ):
    """Of the ranks, or of the processes of a model-parallel job that share one."""
    for world_size, processes in (
        (8, {"WORLD_SIZE": "8"}),
        (8, {}),
        (1, {"WORLD_SIZE": "8"}),
        (1, {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "8"}),
        (1, {"PMIX_RANK": "1"}),
    ):
        with pytest.raises(UsageError) as caught:
            session_name(world_size, {**processes, **environ})
        for remedy in ("session=", "BUCKETLINE_SESSION", "--rdzv-id", "--standalone", "Slurm"):
            assert remedy in str(caught.value)


def test_a_start_under_a_name_that_was_used_gets_a_warning_that_it_continues(run, connect, caplog):
    ranks = [connect(session="again") for _ in range(2)]
    for rank, client in enumerate(ranks):  # the second one when the first is under way already
        client.start_session(2, "start")
        client.next_batch(rank), client.next_batch(rank)
        client.flush()
    assert not caplog.records
    late = connect(session="again")
    late.start_session(2, "start")
    assert late.next_batch(1).step == 1
    [told] = caplog.records
    assert told.levelname == "WARNING"
    assert "session 'again' was started before" in told.message
    assert "rank 1 resumes at epoch 0 step 1" in told.message
    assert "BUCKETLINE_SESSION" in told.message
    connect(session="again").start_session(2, "cursor")
    assert caplog.records == [told]


def test_holders_differ():
    assert make_holder() != make_holder()
