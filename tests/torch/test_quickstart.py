"""docs/tutorial/quickstart.md as a newcomer follows it: scan, serve, a first batch, torchrun, a kill, and on."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketline import Operator
from tests.shell import ROOT, Document, Shell
from tests.torch.processes import kill, lines_until

torch = pytest.importorskip("torch", reason="see make test-torch")
pytest.importorskip("skimage")
pytest.importorskip("PIL.Image")
pytest.importorskip("playwright.sync_api")

from playwright.sync_api import expect  # noqa: E402

from tests.dashboard.browser import Browser, Watch  # noqa: E402

GUIDE = Document(ROOT / "docs" / "tutorial" / "quickstart.md")
TOLD = re.compile(r"epoch (\d+), rank (\d+): \(\d+, 3, \d+, \d+\) (\([^()]*\))")
"""Epoch, rank and ids of a step that is taken into training; ranks may write into each other's lines."""


@pytest.fixture
def shell(tmp_path: Path, photographs: Path) -> Iterator[Shell]:
    photographs.rename(tmp_path / "photos")
    shell = Shell(tmp_path)
    try:
        yield shell
    finally:
        shell.end()


@pytest.fixture
def watch(shell: Shell) -> Iterator[Watch]:
    with Browser() as browser:
        watch = Watch(browser.context(), shell.url)
        yield watch
        watch.close()
    assert watch.faults == []


def torchrun(shell: Shell, num_ranks: int) -> subprocess.Popen[str]:
    return shell.start(GUIDE.block("bash", f"--nproc-per-node {num_ranks}"), subprocess.PIPE)


def test_ten_lines_to_a_batch_then_torchrun_killed_and_resumed_on_three(shell: Shell, watch: Watch) -> None:
    install, *commands = GUIDE.block("bash", "bucketline scan").splitlines()
    assert install == "pip install 'bucketline[service,scan]'"  # as this environment was made
    shell.run("\n".join(commands))
    first_batch = GUIDE.block("python", "next_batch(rank=0)")
    assert len([install, *commands, *filter(None, first_batch.splitlines())]) == 10
    (shell.folder / "first.py").write_text(
        shell.with_ports(first_batch) + "    print({image.size for image in images})\n"
    )
    (sizes,) = shell.run("python first.py")
    assert re.fullmatch(r"\{\(\d+, \d+\)\}", sizes), "the images of a batch have one size"

    (shell.folder / "train.py").write_text(shell.with_ports(GUIDE.block("python", "DistributedDataParallel")))
    photos = {photo.name for photo in (shell.folder / "photos").iterdir()}
    watch.open("#/")
    row = watch.page.get_by_role("row", name=re.compile("^first "))
    expect(row).to_be_visible()
    job = torchrun(shell, 2)
    said = lines_until(job, lambda line: "epoch 1, rank 0" in line)
    # the epochs are so short that the bar is seen at their starts alone
    expect(row.get_by_role("progressbar")).to_be_visible()
    expect(row.locator("th, td").nth(3)).not_to_have_text("0")
    said += kill(job)
    at = torch.load(shell.folder / "checkpoint.pt")["data"]
    with Operator(shell.url) as operator:
        stats = operator.stats("first")

    job = torchrun(shell, 3)
    epochs = range(at["epoch"] + 2)
    # a rank that is in an epoch has waited for the others' last step of the previous one
    said_after = lines_until(job, lambda line: f"epoch {len(epochs)}, " in line)
    row.get_by_role("link", name="first").click()
    ranks = watch.page.get_by_role("region", name="Ranks, slowest first")
    expect(ranks.get_by_role("row")).to_have_count(1 + 3)
    kill(job)

    num_kept = at["epoch"] * stats["num_steps"] + at["step"]
    before = [
        told for rank in "01" for told in [told for told in TOLD.findall(said) if told[1] == rank][:num_kept]
    ]
    after = TOLD.findall(said_after)
    assert {rank for _, rank, _ in after} == {"0", "1", "2"}
    for epoch in epochs:
        trained = [ids for told, _, ids in before + after if told == str(epoch)]
        seen = Counter(id for ids in trained for id in ast.literal_eval(ids))
        assert set(seen.values()) == {1}, "no image twice"
        assert seen.keys() <= photos
        # what does not fill a unit of two ranks, or of three, and a last step of three
        assert len(photos) - len(seen) < 2 * 2 + 3 * 2, epoch
