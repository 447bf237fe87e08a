"""Accelerate and Lightning on two ranks under torchrun: neither distributes the batches again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bucketline import BucketClient, Operator, UsageError
from tests.client.coordinators import ROOT, put_run

from .loaders import Sampled

pytest.importorskip("accelerate")
pytest.importorskip("lightning")

Line = tuple[int, int, int, int, list[int]]


def torchrun(job: str, *arguments: str, num_ranks: int = 2) -> tuple[int, list[Line], str]:
    """Exit status, the lines that the ranks printed in order of (rank, epoch, step), and their warnings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BUCKETLINE_")}
    done = subprocess.run(
        [
            *[sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"],
            *["-m", f"tests.torch.jobs.{job}", *arguments],
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**clean, "OMP_NUM_THREADS": "1"},
    )
    lines = [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]
    return done.returncode, sorted(lines), done.stderr


def plan(url: str, run: str, num_epochs: int = 1) -> list[Line]:
    with Operator(url) as operator:
        num_steps = operator.run(run)["num_steps"]
        batches = [b for rank in (0, 1) for b in operator.batches(run, 0, 0, rank, num_steps * num_epochs)]
    return [(b.rank, b.epoch, b.step, b.width, b.ids) for b in batches]


def test_accelerate_with_the_loader_left_alone(url: str) -> None:
    put_run(url, "accelerated", batch_size=256)
    status, lines, errors = torchrun("with_accelerate", url, "accelerated")
    assert status == 0, errors
    assert lines == plan(url, "accelerated")


def test_a_loader_that_accelerate_would_distribute_again_is_refused(
    start: Callable[..., BucketClient],
) -> None:
    """Of its own batches 0, 1, 2, 3 … each process would get only every other one."""
    from accelerate.data_loader import BatchSamplerShard, prepare_data_loader

    loader = Sampled(start()).loader
    for even_batches in (True, False):
        with pytest.raises(UsageError, match=r"accelerator\.prepare"):
            prepare_data_loader(loader, num_processes=2, process_index=0, even_batches=even_batches)
    assert list(BatchSamplerShard([[0], [1], [2], [3]], 2, 0, even_batches=False)) == [[0], [2]]


@pytest.fixture(scope="module")
def fitted(url: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Three epochs on two ranks: a checkpoint after each step, and what was trained on."""
    put_run(url, "lightning", batch_size=256, lockstep=1)
    folder = tmp_path_factory.mktemp("checkpoints")
    status, lines, errors = torchrun("with_lightning", url, "lightning", str(folder), "3")
    assert status == 0, errors
    assert [line[:5] for line in lines] == sorted(plan(url, "lightning", 3))
    return folder, lines


@pytest.mark.parametrize(
    ("at", "num_ranks"),
    [(4, 2), (5, 3), (5, 1), (8, 4)],
    ids=["as many ranks", "more", "fewer", "more than batches are left"],
)
def test_lightning_resumes_on_any_number_of_ranks(
    url: str, fitted: tuple[Path, list[Any]], at: int, num_ranks: int
) -> None:
    """Each image of an epoch comes once, and Lightning's epochs are the run's."""
    folder, whole = fitted
    with Operator(url) as operator:
        num_batches = operator.stats("lightning")["num_batches"]
    job = "with_lightning", url, "lightning", str(folder / f"on {num_ranks}"), "3"
    status, rest, errors = torchrun(*job, str(folder / f"step={at}.ckpt"), num_ranks=num_ranks)
    assert status == 0, errors
    trained = [line for line in whole if (line[1], line[2]) < (0, at)] + rest
    assert {lightnings - epoch for _, epoch, _, _, _, lightnings in trained} == {0}
    for of_epoch in range(3):
        batches = [ids for _, epoch, _, _, ids, _ in trained if epoch == of_epoch]
        ids = [id for batch in batches for id in batch]
        assert len(ids) == len(set(ids))
        assert num_batches - len(batches) < max(2, num_ranks)
    if num_ranks == 2:
        assert sorted(trained) == whole


def test_lightning_says_that_it_may_not_inject_its_sampler(url: str, tmp_path: Path) -> None:
    put_run(url, "resharded", batch_size=256)
    status, _, errors = torchrun("with_lightning", url, "resharded", str(tmp_path), "1", "", "resharded")
    assert status != 0
    assert "use_distributed_sampler=False" in errors
