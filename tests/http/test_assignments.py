"""The assignments as they are sent: every batch serves an image as the table says, whatever the plan."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.checked import Api

PutRun = Callable[..., dict[str, Any]]
Row = dict[str, Any]


def assignments(api: Api, run: str = "run") -> list[Row]:
    """Its rows, which both formats agree on."""
    rows: list[Row] = pq.read_table(io.BytesIO(ask(api, run, "parquet"))).to_pylist()
    told = list(csv.DictReader(io.StringIO(ask(api, run, "csv").decode(), newline="")))
    assert [{name: str(value) for name, value in row.items()} for row in rows] == told
    return rows


def ask(api: Api, run: str, format: str) -> bytes:
    response = api.ask("GET", f"/v1/runs/{run}/assignments", 200, params={"format": format})
    assert response.headers["content-disposition"] == f'attachment; filename="{run}-assignments.{format}"'
    return response.content


def served(api: Api, run: str, epoch: int) -> list[Row]:
    """Every coming of an image in an epoch on one rank, with what the batches say of its geometry."""
    params = {"epoch": epoch, "step": 0, "rank": 0, "count": 1024, "world_size": 1, "include": "crop"}
    found = []
    for batch in api.get(f"/v1/runs/{run}/batches", **params)["batches"]:
        if batch["epoch"] != epoch:
            continue
        num = len(batch["ids"])
        frames = batch.get("num_frames")
        sizes = batch.get("sizes") or [(batch["width"], batch["height"])] * num
        for i in range(num):
            row = {"map": batch["maps"][i]} if "maps" in batch else {}
            row |= {"id": batch["ids"][i]} | ({} if "sizes" in batch else {"bucket": batch["bucket"]})
            row |= dict(zip(("width", "height"), sizes[i], strict=True))
            row |= dict(zip(("resize_width", "resize_height"), batch["resize_sizes"][i], strict=True))
            row |= dict(zip(("crop_left", "crop_top"), batch["crop_left_tops"][i], strict=True))
            row |= {} if frames is None else {"num_frames": frames[i] if "sizes" in batch else frames}
            found.append(row)
    return found


def text_map(num: int, seed: int, frames: bool = False) -> str:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(200, 1400, (num, 2)).tolist()
    lines = [
        f"{i},{w},{h}" + (f",{draw.integers(1, 40)}" if frames else "") for i, (w, h) in enumerate(sizes)
    ]
    return f"id,width,height{',num_frames' if frames else ''}\n" + "\n".join(lines) + "\n"


PACK = {"batch_size": None, "ladder": {"kind": "native", "max_pixels": 200_000}, "pack": {"max_tokens": 4096}}


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"tails": "pad", "ladder": {"kind": "tiers", "resolution": [256, 512]}},
        {"steps": "same_shape", "tails": "drop"},
        {"frame_buckets": [1, 9, 17]},
        PACK,
        {**PACK, "pack": {"max_tokens": 8192, "frame_stride": 8}, "frame_buckets": [1, 9, 17]},
        {"assign": {"max_crop_loss": 0.1}, "num_repeats": 2},
    ],
    ids=str,
)
def test_batches_serve_images_as_it_says(api: Api, plan: dict[str, Any]) -> None:
    api.put_csv("m", text_map(300, 1, frames="frame_buckets" in plan), 201)
    spec = {"map": "m", "world_size": 2, "batch_size": 4, **plan}
    api.put("/v1/runs/run", {name: value for name, value in spec.items() if value is not None}, 201)
    rows = assignments(api)
    of = {row["id"]: row for row in rows}
    stats = api.get("/v1/runs/run/stats")
    assert len(of) == len(rows) == stats["num_assigned"]
    assert list(of) == sorted(of)
    for epoch in (0, 3):
        comings = served(api, "run", epoch)
        assert len(comings) > 0.6 * stats["num_samples"]
        for row in comings:
            assert row.items() <= of[row["id"]].items()
    if "pack" in plan:
        lengths = {each["bucket"]: each["length"] for each in stats["packs"]["lengths"]}
        assert all(row["length"] == lengths[row["bucket"]] for row in rows)
        stride = plan["pack"].get("frame_stride", 1)
        for row in rows:
            of_frames = -(-row.get("num_frames", 1) // stride)
            assert row["width"] * row["height"] * of_frames <= row["length"] * 256


def test_an_image_of_several_buckets_has_a_row_for_each(api: Api) -> None:
    api.put_csv("m", text_map(300, 2), 201)
    ladder = {"kind": "tiers", "resolution": [256, 512], "choose": "every"}
    api.put(
        "/v1/runs/run", {"map": "m", "world_size": 1, "batch_size": 2, "ladder": ladder, "tails": "pad"}, 201
    )
    rows = assignments(api)
    assert len({row["id"] for row in rows}) == 300 < len(rows)
    for row in served(api, "run", 0):
        assert row in rows


def test_pruned_images_and_those_that_valid_ids_leaves_out_are_not_in_it(api: Api) -> None:
    api.put_csv("m", text_map(300, 3), 201)
    api.put_csv("even", "id,width,height\n" + "".join(f"{i},1,1\n" for i in range(0, 300, 2)), 201)
    assign = {"min_size": 500}
    for name, valid in (("listed", list(range(0, 300, 2))), ("named", "even")):
        spec = {"map": "m", "world_size": 1, "batch_size": 2, "assign": assign, "valid_ids": valid}
        api.put(f"/v1/runs/{name}", spec, 201)
        sizes = list(csv.DictReader(io.StringIO(text_map(300, 3))))
        kept = [int(row["id"]) for row in sizes[::2] if min(int(row["width"]), int(row["height"])) >= 500]
        assert [row["id"] for row in assignments(api, name)] == kept


def test_rows_of_several_maps_say_of_which(api: Api) -> None:
    api.put_csv("a", text_map(50, 4), 201)
    api.put_csv("b", 'id,width,height\n"x, y",640,480\n"7",480,640\n', 201)
    maps = [{"map": "b", "num_repeats": 8}, {"map": "a"}]
    api.put("/v1/runs/run", {"maps": maps, "world_size": 1, "batch_size": 2, "tails": "pad"}, 201)
    rows = assignments(api)
    assert [(row["map"], row["id"]) for row in rows] == [
        *(("b", "x, y"), ("b", "7")),
        *(("a", str(i)) for i in range(50)),
    ]
    by_name = {(row["map"], row["id"]): row for row in rows}
    for row in served(api, "run", 0):
        row["id"] = str(row["id"])
        assert row == by_name[row["map"], row["id"]]


def test_boundaries_that_were_moved_are_as_the_plan_has_them(api: Api) -> None:
    """The default plan moves some images, and no size of an image depends on the number of ranks."""
    api.put_csv("m", text_map(300, 5), 201)
    api.put("/v1/runs/run", {"map": "m", "world_size": 1, "batch_size": 16, "ladder": "sdxl"}, 201)
    assert api.get("/v1/runs/run/stats")["moved"] > 0
    rows = assignments(api)
    buckets = [api.get(f"/v1/runs/run/images/{row['id']}")["bucket"] for row in rows]
    assert [row["bucket"] for row in rows] == buckets
    api.session("run", "s", world_size=3)
    assert assignments(api) == rows


def test_a_run_that_does_not_exist_has_none(api: Api) -> None:
    api.ask("GET", "/v1/runs/none/assignments", 404)
    assert (
        api.ask("GET", "/v1/runs/none/assignments", 422, params={"format": "xlsx"}).json()["field"]
        == "format"
    )
