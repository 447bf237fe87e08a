import pytest

from bucketline import UsageError
from bucketline._identity import make_holder, session_name

TORCHRUN = {"TORCHELASTIC_RUN_ID": "job", "TORCHELASTIC_RESTART_COUNT": "2", "WORLD_SIZE": "8"}
SLURM = {"SLURM_JOB_ID": "4711", "SLURM_RESTART_COUNT": "1"}


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"BUCKETLINE_SESSION": "mine", **TORCHRUN}, "mine"),
        (TORCHRUN | SLURM, "job.2.w8"),
        ({"TORCHELASTIC_RUN_ID": "job"}, "job.0.w8"),
        (SLURM, "4711.1.w8"),
        ({"SLURM_JOB_ID": "4711"}, "4711.0.w8"),
        ({"TORCHELASTIC_RUN_ID": "none", **SLURM}, "4711.1.w8"),
    ],
)
def test_session_is_named_after_the_launcher(environ, name):
    assert session_name(8, environ) == name


def test_a_change_of_nodes_is_another_session():
    """torchrun does not count a restart for it."""
    assert session_name(8, TORCHRUN) != session_name(6, TORCHRUN)


def test_a_lone_process_gets_a_name_of_its_own():
    assert session_name(1, {}) != session_name(1, {})


@pytest.mark.parametrize("environ", [{}, {"TORCHELASTIC_RUN_ID": "none"}])
def test_several_processes_without_a_common_name_are_refused(environ):
    """Of the ranks, or of the processes of a model-parallel job that share one."""
    for world_size, processes in ((8, {"WORLD_SIZE": "8"}), (8, {}), (1, {"WORLD_SIZE": "8"})):
        with pytest.raises(UsageError) as caught:
            session_name(world_size, {**processes, **environ})
        for remedy in ("session=", "BUCKETLINE_SESSION", "--rdzv-id", "--standalone", "Slurm"):
            assert remedy in str(caught.value)


def test_holders_differ():
    assert make_holder() != make_holder()
