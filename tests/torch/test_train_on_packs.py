"""The loop of docs/how-to/train-on-packs.md, as it is printed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from bucketline import BucketClient, Operator
from tests.server import COCO
from tests.shell import ROOT, Document

torch = pytest.importorskip("torch", reason="see make test-torch")

GUIDE = Document(ROOT / "docs" / "how-to" / "train-on-packs.md")
MAX_TOKENS, NUM_STEPS = 16_384, 158


def train(
    url: str, checkpoint: Any, monkeypatch: pytest.MonkeyPatch, session: str
) -> tuple[list[Any], list[Any]]:
    """As rank 0 of 2: what each step was trained on, the tokens of each image, and what was saved."""
    trained: list[Any] = []
    saved: list[Any] = []
    monkeypatch.setenv("BUCKETLINE_SESSION", session)

    def load_tokens(id: int, size: tuple[int, int]) -> Any:
        width, height = size
        return torch.full((width // 16 * (height // 16), 1), id)

    def train_step(tokens: Any, cu_seqlens: Any, max_seqlen: int) -> None:
        sizes = cu_seqlens.diff()
        assert len(tokens) == cu_seqlens[-1] <= MAX_TOKENS
        assert max_seqlen == sizes.max()
        trained.append(list(zip(tokens[cu_seqlens[:-1].long(), 0].tolist(), sizes.tolist(), strict=True)))

    names = {
        "checkpoint": checkpoint,
        "load_tokens": load_tokens,
        "model": None,
        "rank": 0,
        "save": lambda state: saved.append(copy.deepcopy(state)),
        "train_step": train_step,
        "world_size": 2,
    }
    exec(GUIDE.block("python", "client.packs(rank)").replace("http://127.0.0.1:7700", url), names)
    return trained, saved


def test_the_loop_trains_an_epoch_and_resumes_from_its_checkpoint(
    url: str, start: Callable[..., BucketClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"world_size": 2, "ladder": "native", "pack": {"max_tokens": MAX_TOKENS}}
    with Operator(url) as operator:
        operator.put_map("all", COCO)
        operator.put_run("native", {"map": "all", **spec})
    first, saved = train(url, None, monkeypatch, "packs-first")
    ids = [id for pack in first for id, _ in pack]
    assert len(first) == NUM_STEPS
    assert len(set(ids)) == len(ids) > 2400
    assert [entry["data"]["step"] for entry in saved] == [50, 100, 150]
    rest, _ = train(url, saved[1], monkeypatch, "packs-second")
    assert rest == first[100:]
