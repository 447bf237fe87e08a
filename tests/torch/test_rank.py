"""Which rank a process has in the environments of launchers: its own, or an error, but never another's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from bucketline import BucketClient, Operator, UsageError

from .loaders import ALLOWED

from bucketline.torch import BucketBatchSampler, BucketIterableDataset  # isort: skip - needs torch

pytestmark = ALLOWED

STEP = {"SLURM_JOB_ID": "5", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}
SHELL_STEP = "4294967290"
Start = Callable[..., BucketClient]
MAKERS = [BucketBatchSampler, BucketIterableDataset]


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    def put(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({**STEP, "SLURM_PROCID": "0"}, "SLURM_PROCID=0, SLURM_STEP_NUM_TASKS=4"),
        ({**STEP, "SLURM_PROCID": "3"}, "SLURM_PROCID=3, SLURM_STEP_NUM_TASKS=4"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "SLURM_PROCID=0, SLURM_NTASKS=4"),
        ({"SLURM_PROCID": "2"}, "SLURM_PROCID=2"),
        ({"SLURM_LOCALID": "1"}, "SLURM_LOCALID=1"),
        (
            {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
            "OMPI_COMM_WORLD_RANK=0, OMPI_COMM_WORLD_SIZE=2",
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "PMI_RANK=1, PMI_SIZE=2"),
        (
            {"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "2"},
            "MV2_COMM_WORLD_RANK=0, MV2_COMM_WORLD_SIZE=2",
        ),
        ({"FLUX_TASK_RANK": "0", "FLUX_JOB_SIZE": "4"}, "FLUX_TASK_RANK=0, FLUX_JOB_SIZE=4"),
        (
            {"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "6"},
            "JSM_NAMESPACE_RANK=1, JSM_NAMESPACE_SIZE=6",
        ),
        ({"PMIX_RANK": "1"}, "PMIX_RANK=1"),
        ({"PALS_RANKID": "1"}, "PALS_RANKID=1"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2"),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "WORLD_SIZE=2"),
        ({"WORLD_SIZE": "1", **STEP, "SLURM_PROCID": "1"}, "SLURM_PROCID=1"),
        ({"RANK": "1"}, "RANK=1"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1"),
    ],
)
def test_one_of_several_without_a_rank_is_refused(
    start: Start, environ: Callable[[dict[str, str]], None], make: type, variables: dict[str, str], said: str
) -> None:
    environ(variables)
    client = start(resumes=True)
    with pytest.raises(UsageError, match=f"^rank: {said}") as caught:
        _ = make(client).rank  # a sampler looks when it needs it, as frameworks say it late
    for remedy in ("torchrun", "torch.distributed", "rank=int(os.environ[", "rank=0, world_size=1"):
        assert remedy in str(caught.value)
    assert make(client, rank=1, world_size=2).rank == 1  # the remedy


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1)),
        ({**STEP, "SLURM_PROCID": "1", "RANK": "3", "WORLD_SIZE": "8"}, (3, 8)),  # torchrun under srun
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (0, 1)),  # srun -n1
        ({"SLURM_NTASKS": "4"}, (0, 1)),  # the shell of salloc, where it was called
        ({**STEP, "SLURM_PROCID": "0", "SLURM_STEP_ID": SHELL_STEP}, (0, 1)),  # or on the first node
        ({**STEP, "SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967291"}, (0, 1)),  # the batch script
        ({**STEP, "SLURM_PROCID": "0", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, (0, 1)),
        ({"LOCAL_RANK": "0", "RANK": "0"}, (0, 1)),
    ],
)
def test_one_process_alone_and_torchruns_are_not(
    start: Start,
    environ: Callable[[dict[str, str]], None],
    variables: dict[str, str],
    expected: tuple[int, int],
) -> None:
    environ(variables)
    dataset = BucketIterableDataset(start(resumes=True))
    assert (dataset.rank, dataset.world_size) == expected


TASK = """
import json, sys
from bucketline import BucketClient
from bucketline.torch import BucketBatchSampler
sampler = BucketBatchSampler(BucketClient(sys.argv[1], run="small"))
sampler.load_state_dict(json.loads(sys.argv[2]))
next(iter(sampler))
"""


def test_tasks_of_srun_that_resume_do_not_deal_the_run_to_one_rank(url: str, start: Start) -> None:
    start()  # on its two ranks
    with Operator(url) as operator:
        state = operator.run("small")["state"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("BUCKETLINE_")}
        for task in range(2):
            variables = {"SLURM_JOB_ID": "5", "SLURM_PROCID": str(task), "SLURM_NTASKS": "2"}
            done = subprocess.run(
                [sys.executable, "-c", TASK, url, json.dumps(state)],
                env={**clean, **variables},
                capture_output=True,
                text=True,
            )
            assert "UsageError: rank: SLURM_PROCID" in done.stderr
        assert operator.run("small")["state"] == state
