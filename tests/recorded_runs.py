"""Runs from before run specs had ``steps``: what their scripts put, what the store kept, and what they were served.

``golden/same_shape.json`` was recorded over HTTP from the coordinator of commit cdc147a, whose every plan is what
``steps: "same_shape"`` means. It must not be recorded again: a coordinator that differs from it would serve other
batches to jobs that are in the middle of their training. Each run has

- ``spec``: the body of its ``PUT``, and ``document``: what the store kept, byte for byte if dumped with sorted keys;
- ``streams``: by world size and epoch, how many batches the ranks receive from the start of the epoch, and the SHA-256
  of all of them in the order of the stream (``digest``). One rank receives every batch of the run's own lockstep; a
  world size that does not divide it has its own lockstep;
- ``first``: by epoch, the first two batches of the spec's own ranks, with the fields of ``Batch``, for the reader;
- ``stats``: the answer of ``GET …/stats`` for epoch 0, without quantiles and buckets;
- ``resumed``, for some: a state dict from the middle of epoch 0, the session that resumed it on another number of
  ranks, and the batches of the rest of that epoch and of the next one;
- ``plan``, for some: the files of the plan on disk, ``plan.json`` as text and ``order.bin`` in base 64.

Run ``size-by-first`` is from an older coordinator, which did not choose among buckets of one aspect: its document is
that of ``size-by-size`` with the fingerprint that ``plans/fingerprint.py`` computes for the old rule.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from bucketline_service.store import Cursor, Store
from bucketline_service.store.port import Generation
from tests.checked import Api
from tests.server import COCO, Replica

RUNS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "golden/same_shape.json").read_text())
"""By name."""


def _numbers(seed: int) -> Iterator[int]:
    """Integers in [1, 2**31 - 1), by the generator of Park and Miller: no library can change them."""
    while True:
        seed = seed * 48_271 % (2**31 - 1)
        yield seed


def _map(seed: int, num: int, id: str = "{}", **columns: list[float]) -> str:
    """``num`` images with sides of 200 to 2,199 pixels; further columns take their values at random."""
    numbers = _numbers(seed)
    rows = [",".join(["id", "width", "height", *columns])]
    for row in range(num):
        sides = [200 + number % 2000 for number in islice(numbers, 2)]
        drawn = [values[next(numbers) % len(values)] for values in columns.values()]
        rows.append(",".join([id.format(row * 3 + 1), *map(str, sides + drawn)]))
    return "\n".join(rows) + "\n"


def _listed(sizes: Iterable[tuple[int, int]]) -> str:
    rows = "".join(f"{row},{width},{height}\n" for row, (width, height) in enumerate(sizes))
    return f"id,width,height\n{rows}"


MAPS: dict[str, str] = {
    "shapes": _map(1, 500),
    "photos": "".join(COCO.read_text().splitlines(keepends=True)[:601]),
    "named": _map(2, 160, "img-{}"),
    "repeats": _map(3, 200, num_repeats=[1, 2, 3, 0]),
    "shares": _map(4, 200, num_repeats=[1, 0.5, 2.25, 0]),
    "clips": _map(5, 300, num_frames=[1, 1, 8, 9, 20, 33, 60]),
    "squares": _listed(
        ((512, 512), (1024, 1024), (700, 700), (1536, 1024), (2000, 1500))[i % 5] for i in range(150)
    ),
    "few": _listed(((512, 512), (512, 512), (1024, 512), (512, 1024), (512, 512))[i % 5] for i in range(30)),
    "wanted": "id,width,height\n" + "".join(f"{i * 9 + 1},1,1\n" for i in range(160)),
}
"""As CSV. ``wanted`` has the ids of every third image of ``shapes``."""


class Batch(NamedTuple):
    """What a batch says about its images and its shape. ``repeats``: the places of images that are repeats."""

    bucket: int
    width: int
    height: int
    num_frames: int | None
    ids: list[int | str]
    maps: list[str] | None
    repeats: list[int]

    @classmethod
    def of_wire(cls, batch: dict[str, Any]) -> Batch:
        repeats = [place for place, is_repeat in enumerate(batch.get("repeats", [])) if is_repeat]
        about = (batch["bucket"], batch["width"], batch["height"], batch.get("num_frames"))
        return cls(*about, batch["ids"], batch.get("maps"), repeats)


def digest(batches: Iterable[Batch]) -> str:
    """SHA-256 of the batches in their order, each as a line of JSON."""
    return hashlib.sha256("".join(f"{json.dumps(batch)}\n" for batch in batches).encode()).hexdigest()


def document(run: str) -> bytes:
    """What the store kept."""
    return json.dumps(RUNS[run]["document"], sort_keys=True).encode()


def spec_of(run: str) -> dict[str, Any]:
    """What the script puts."""
    found: dict[str, Any] = RUNS[run]["spec"]
    return found


def restore(
    replica: Replica, run: str, name: str | None = None, generation: Generation | None = None
) -> None:
    """Write the run's document into the store, under ``name`` or its own, with its first or the given generation."""
    store: Store = replica.coordinator.store
    first = Generation(1, None, spec_of(run)["world_size"], Cursor(0, 0), 0, birth="before")
    _, created = replica.start(store.create_run(name or run, document(run), generation or first)).result()
    assert created


def dealt(
    api: Api, run: str, num_ranks: int, epoch: int, *, step: int = 0, num_steps: int, **more: int
) -> list[Batch]:
    """The batches of ``num_ranks`` ranks from ``step`` of the epoch to its end, in the order of the stream, as ``GET
    …/batches`` answers. It asks for one step more, so that an epoch with more steps than expected is noticed."""
    asked = {"epoch": epoch, "step": step, "count": num_steps + 1, **more}
    of_ranks = []
    for rank in range(num_ranks):
        answer = api.get(f"/v1/runs/{run}/batches", rank=rank, **asked)["batches"]
        of_ranks.append([Batch.of_wire(batch) for batch in answer if batch["epoch"] == epoch])
    return in_stream_order(of_ranks)


def in_stream_order(of_ranks: list[list[Batch]]) -> list[Batch]:
    """From the batches of each rank, step by step."""
    return [batch for of_step in zip(*of_ranks, strict=True) for batch in of_step]
