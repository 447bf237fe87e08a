"""Building a plan resumes after a kill, from what was on the disk and nothing else."""

from __future__ import annotations

import functools
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bucketline_service.planning import chunked_passes
from bucketline_service.planning.build_plan import prepare
from bucketline_service.planning.prepared_plan import Prepared
from bucketline_service.plans.build_checkpoint import BuildCheckpoint
from tests.planning.checkpoints import StopError, content, job, packed_job
from tests.plans import builder

CHUNK = 250
SPEC, IMAGES, VALID = job()
NUM_STEPS = 2 * (IMAGES.num_rows // CHUNK)
ROOT = Path(__file__).parents[2]


def each(values: Iterable[Any], *in_test: Any) -> list[Any]:
    """A few in ``make test``, all in ``make test-all``."""
    return [pytest.param(value, marks=[] if value in in_test else pytest.mark.exhaustive) for value in values]


@functools.cache
def undisturbed() -> Any:
    return content(prepare(SPEC, IMAGES, valid_rows=VALID))


@pytest.fixture(autouse=True)
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_passes, "CHUNK", CHUNK)


def build(folder: Path, tell: Callable[[float], None] = lambda share: None, **pace: Any) -> Prepared:
    checkpoint = BuildCheckpoint(folder, tell, **{"keep_every_s": 0, **pace})
    return prepare(SPEC, IMAGES, valid_rows=VALID, checkpoint=checkpoint)


def stop_after(num: int) -> Callable[[float], None]:
    """Hears of ``num`` chunks, and stops."""
    heard: list[float] = []

    def tell(share: float) -> None:
        heard.append(share)
        if len(heard) == num:
            raise StopError

    return tell


def stopped(folder: Path, num: int, **pace: Any) -> None:
    with pytest.raises(StopError):
        build(folder, stop_after(num), **pace)


def shares(folder: Path) -> list[float]:
    """What is still to be done."""
    heard: list[float] = []
    assert content(build(folder, heard.append)) == undisturbed()
    return heard


@pytest.mark.parametrize("num", each(range(1, NUM_STEPS + 1), 1, NUM_STEPS // 2 + 1, NUM_STEPS))
def test_it_goes_on_wherever_it_was_stopped(tmp_path: Path, num: int) -> None:
    stopped(tmp_path, num)
    assert len(shares(tmp_path)) == NUM_STEPS - num


@pytest.mark.parametrize("num", each(range(1, NUM_STEPS + 1), NUM_STEPS - 2))
def test_a_plan_of_packs_goes_on_wherever_it_was_stopped(tmp_path: Path, num: int) -> None:
    """With the tokens and areas of the images that it has seen."""
    plan, images = packed_job(IMAGES.num_rows)
    checkpoint = BuildCheckpoint(tmp_path, stop_after(num), keep_every_s=0)
    with pytest.raises(StopError):
        prepare(plan, images, checkpoint=checkpoint)
    heard: list[float] = []
    again = prepare(plan, images, checkpoint=BuildCheckpoint(tmp_path, heard.append, keep_every_s=0))
    assert len(heard) == NUM_STEPS - num
    whole = prepare(plan, images)
    assert content(again) == content(whole)
    assert sum(whole.summary["bucket_area_px"]) > 0


def test_it_keeps_as_often_as_it_is_to(tmp_path: Path) -> None:
    ticks: Iterator[float] = iter(range(0, 10_000, 7))
    stopped(tmp_path, 11, keep_every_s=20.0, clock=lambda: next(ticks))
    done = NUM_STEPS - len(shares(tmp_path))
    assert 0 < done < 11


def test_nothing_is_left_but_the_order(tmp_path: Path) -> None:
    checkpoint = BuildCheckpoint(tmp_path, lambda share: None, keep_every_s=0)
    prepared = prepare(SPEC, IMAGES, valid_rows=VALID, checkpoint=checkpoint)
    checkpoint.finish()
    assert [file.name for file in tmp_path.iterdir()] == ["order.bin"]
    assert np.fromfile(tmp_path / "order.bin", dtype=np.uint32).tobytes() == prepared.order.tobytes()


def cut(file: Path, num_bytes: int) -> None:
    """Not in place: a map of it may live on."""
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes((whole + bytes(max(num_bytes, 0)))[: len(whole) + num_bytes])


DAMAGES: list[Callable[[Path], Any]] = [
    lambda folder: (folder / "codes.bin").unlink(),
    lambda folder: cut(folder / "codes.bin", -1),
    lambda folder: cut(folder / "codes.bin", 1),
    lambda folder: (folder / "order.bin").unlink(),
    lambda folder: cut(folder / "order.bin", -4),
    lambda folder: (folder / "journal.npz").unlink(),
    lambda folder: (folder / "journal.npz").write_bytes(b""),
    lambda folder: (folder / "journal.npz").write_bytes(b"\x93NUMPY"),
    lambda folder: np.savez(folder / "journal.npz", chunk=np.array([CHUNK + 1])),
    lambda folder: np.savez(folder / "journal.npz", other=np.array([CHUNK])),
    lambda folder: np.savez(folder / "journal.npz", chunk=np.array([], dtype=np.int64)),
]


@pytest.mark.parametrize("damage", each(DAMAGES, *DAMAGES[::2]))
def test_a_journal_that_is_not_whole_is_not_believed(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    stopped(tmp_path, NUM_STEPS - 2)
    damage(tmp_path)
    again = shutil.copytree(tmp_path, tmp_path / "again")
    assert len(shares(again)) == NUM_STEPS
    shutil.rmtree(again)
    assert BuildCheckpoint(tmp_path, lambda share: None).load() == {}
    assert list(tmp_path.iterdir()) == []


def test_a_journal_of_other_chunks_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(tmp_path, 3)
    monkeypatch.setattr(chunked_passes, "CHUNK", CHUNK + 1)
    assert BuildCheckpoint(tmp_path, lambda share: None).load() == {}


@pytest.mark.parametrize("num", each([1, NUM_STEPS - 1], NUM_STEPS - 1))
def test_a_journal_that_was_cut_short_anywhere_is_not_believed(tmp_path: Path, num: int) -> None:
    stopped(tmp_path, num)
    kept = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    journal = kept.pop("journal.npz")
    lengths = range(len(journal))
    if len(journal) > 5_000:
        ends = [*range(100), *range(len(journal) - 100, len(journal))]
        lengths = sorted({*ends, *random.Random(1).sample(lengths, 100)})  # type: ignore[assignment]
    for length in lengths:
        for name, whole in kept.items():
            if not (tmp_path / name).exists():
                (tmp_path / name).write_bytes(whole)
        (tmp_path / "journal.npz").write_bytes(journal[:length])
        assert BuildCheckpoint(tmp_path, lambda share: None).load() == {}, length
    for name, whole in {**kept, "journal.npz": journal}.items():
        (tmp_path / name).write_bytes(whole)
    assert BuildCheckpoint(tmp_path, lambda share: None).load() != {}


def test_what_a_killed_process_has_built_another_goes_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "tests.plans.builder", str(tmp_path), "9"]
    killed = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert (killed.returncode, len(killed.stdout.splitlines())) == (-signal.SIGKILL, 9)
    monkeypatch.setattr(chunked_passes, "CHUNK", builder.CHUNK)
    digest = builder.build(tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == 2 * (IMAGES.num_rows // builder.CHUNK) - 9
    (undisturbed := tmp_path / "undisturbed").mkdir()
    assert digest == builder.build(undisturbed)
