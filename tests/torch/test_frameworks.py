"""Accelerate and Lightning, two ranks under torchrun: neither deals our batches out anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bucketline import BucketClient, Operator, UsageError
from tests.client.coordinators import ROOT, put_run

from .loaders import Sampled

pytest.importorskip("accelerate")
pytest.importorskip("lightning")

Line = tuple[int, int, int, int, list[int]]


def torchrun(job: str, *arguments: str, num_ranks: int = 2) -> tuple[int, list[Line], str]:
    """Exit status, the lines that the ranks printed in order of (rank, epoch, step), and what they complained of."""
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


def test_a_loader_that_accelerate_would_deal_out_anew_is_refused(start: Callable[..., BucketClient]) -> None:
    """Of [0, 1, 2, 3 ...] each process would get every other batch of its own share."""
    from accelerate.data_loader import BatchSamplerShard, prepare_data_loader

    loader = Sampled(start()).loader
    for even_batches in (True, False):
        with pytest.raises(UsageError, match=r"accelerator\.prepare"):
            prepare_data_loader(loader, num_processes=2, process_index=0, even_batches=even_batches)
    assert list(BatchSamplerShard([[0], [1], [2], [3]], 2, 0, even_batches=False)) == [[0], [2]]


def test_lightning_resumes_in_the_midst_of_an_epoch(url: str, tmp_path: Path) -> None:
    put_run(url, "lightning", batch_size=256)
    served = []
    for max_steps in ("4", "12"):
        status, lines, errors = torchrun(
            "with_lightning", url, "lightning", str(tmp_path / "last.ckpt"), max_steps
        )
        assert status == 0, errors
        served += lines
    with Operator(url) as operator:
        assert operator.ranks("lightning")[0]["step"] == 3  # of the second epoch
    every = [line for line in plan_of_two(url) if (line[1], line[2]) < (1, 3)]
    assert sorted(served) == every


def plan_of_two(url: str) -> list[Line]:
    """Of the run as it was put: a session that has begun in an epoch's midst does not tell what was before it."""
    put_run(url, "lightning-plan", batch_size=256)
    return sorted(plan(url, "lightning-plan", 2))


def test_lightning_says_that_it_may_not_inject_its_sampler(url: str, tmp_path: Path) -> None:
    put_run(url, "resharded", batch_size=256)
    status, _, errors = torchrun(
        "with_lightning", url, "resharded", str(tmp_path / "none.ckpt"), "2", "resharded"
    )
    assert status != 0
    assert "use_distributed_sampler=False" in errors
