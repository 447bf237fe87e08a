"""A run of packs on the dashboard, in charts and in the report: its lengths, kinds and slots in place of buckets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from playwright.sync_api import Locator, Page, expect

from bucketline_service import charts
from bucketline_service.charts.report import html
from tests.checked import Api
from tests.dashboard.browser import Browser, Watch
from tests.dashboard.conftest import OpenPage
from tests.dashboard.job import RUN, TOKENS
from tests.server import COCO, ServerProcess, run_command

SPEC = {"world_size": 4, "ladder": {"kind": "native", "num_lengths": 8}, "pack": {"max_tokens": 8192}}
FIGURES = 5
NO_BUCKETS = ("buckets", "bucket_crop_loss", "tails")
NOTHING = re.compile(r"undefined|NaN|\[object")
"""What a page writes where it does not know what to write."""


@pytest.fixture(scope="module")
def api(server: ServerProcess) -> Iterator[Api]:
    """With run ``packed`` over COCO, and run ``limited``, which prunes an image that has no size and one that has."""
    api = server.api(TOKENS["BUCKETLINE_OPERATOR_TOKEN"])
    api.put("/v1/runs/packed", {"map": "coco", **SPEC}, 201)
    few = "".join(f"{i},{320 + 16 * (i % 3)},320\n" for i in range(40)) + "small,15,300\nwide,900,110\n"
    api.put_csv("few", f"id,width,height\n{few}", 201)
    spec = {"map": "few", "world_size": 1, "ladder": "native", "pack": {"max_tokens": 2000}}
    api.put("/v1/runs/limited", {**spec, "assign": {"max_crop_loss": 0.05, "min_size": 100}}, 201)
    yield api
    for run in ("packed", "limited"):
        api.ask("DELETE", f"/v1/runs/{run}", 204)


@pytest.fixture(scope="module")
def stats(api: Api) -> dict[str, Any]:
    told: dict[str, Any] = api.get("/v1/runs/packed/stats")
    return told


def tile(page: Page, name: str) -> Locator:
    return page.locator(".tile").filter(has=page.locator("dt", has_text=re.compile(f"^{name}$")))


def with_heading(page: Page, name: str) -> Locator:
    return page.locator("figure").filter(has=page.get_by_role("heading", name=name, exact=True))


# --- charts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_figure_is_served_as_it_is_made(api: Api, stats: dict[str, Any], theme: str) -> None:
    of_packs = ("lengths", "pack_kinds", "crop_loss", "aspect_error", "pruned")
    for name in (*of_packs, *NO_BUCKETS):
        made = getattr(charts, name)(stats, theme=theme)
        served = api.get(f"/v1/runs/packed/figures/{name}", theme=theme)
        assert go.Figure(served).to_dict() == made.to_dict(), name
        has_points = any(len(trace.y) for trace in made.data)
        assert has_points == (name in of_packs), name


def test_a_plan_of_buckets_has_no_lengths(api: Api) -> None:
    stats = api.get(f"/v1/runs/{RUN}/stats")
    for name in ("lengths", "pack_kinds"):
        served = api.get(f"/v1/runs/{RUN}/figures/{name}")
        assert not any(len(trace.y) for trace in go.Figure(served).data)
    assert charts.plan(stats) == charts.buckets(stats)
    del stats["packs"]  # as of a coordinator of an older release
    assert charts.plan(stats) == charts.buckets(stats)


def test_lengths_have_their_images_and_slots(stats: dict[str, Any]) -> None:
    images, slots = charts.lengths(stats).data
    rows = stats["packs"]["lengths"][::-1]
    assert [int(name.replace(",", "")) for name in images.x] == [each["length"] for each in rows]
    assert list(images.y) == [each["num_images"] for each in rows]
    assert list(slots.y) == [each["num_slots"] for each in rows]
    assert sum(images.y) == stats["num_assigned"]
    assert charts.plan(stats) == charts.lengths(stats)


def test_kinds_have_their_packs_and_the_tokens_of_their_slots(stats: dict[str, Any]) -> None:
    packs, *lengths = charts.pack_kinds(stats).data
    kinds = stats["packs"]["kinds"]
    assert list(packs.y) == [each["num_packs"] for each in kinds]
    assert sum(packs.y) == stats["num_batches"]
    assert [sum(tokens) for tokens in zip(*(trace.y for trace in lengths), strict=True)] == [
        each["num_tokens"] for each in kinds
    ]
    num_slots = [sum(each) for each in zip(*(trace.customdata for trace in lengths), strict=True)]
    assert num_slots == [each["num_images"] for each in kinds]
    # the longest has another colour than the shortest
    assert lengths[0].marker.color != lengths[-1].marker.color


# --- the page of the run ------------------------------------------------------------------------------------


def test_the_page_has_the_plans_numbers(open_page: OpenPage, stats: dict[str, Any]) -> None:
    page = open_page("#/runs/packed").page
    expect(page.locator(".plot[data-drawn]")).to_have_count(FIGURES)
    packs = stats["packs"]
    lengths = with_heading(page, "Lengths")
    drawn = lengths.locator(".plot").evaluate("plot => plot.data.map((trace) => trace.y)")
    rows = packs["lengths"][::-1]
    assert drawn == [[each[name] for each in rows] for name in ("num_images", "num_slots")]
    lengths.get_by_text("Show numbers").click()
    longest = packs["lengths"][0]
    expect(lengths.locator("tbody tr").first).to_have_text(
        re.compile(rf"^{longest['length']:,}\s*{longest['num_images']:,}\s*{longest['num_slots']:,}")
    )
    kinds = with_heading(page, "Kinds of pack")
    kinds.get_by_text("Show numbers").click()
    slots = ", ".join(f"{each['num_slots']:,} of {each['length']:,}" for each in packs["kinds"][0]["slots"])
    expect(kinds.locator("tbody tr").first).to_contain_text(slots)
    expect(tile(page, "Packs per epoch")).to_contain_text(f"{stats['num_batches']:,}")
    expect(tile(page, "Kinds of pack")).to_contain_text(f"{packs['num_kinds']:,}")
    expect(tile(page, "Full")).to_contain_text(f"{100 * packs['full']:.1f} %")
    expect(tile(page, "Imbalance in attention")).to_contain_text(f"{packs['attention_imbalance']:.3f}")
    for name in ("Shapes", "Repeated per epoch", "Batches per epoch"):
        expect(tile(page, name)).to_have_count(0)
    assert not NOTHING.search(page.locator("main").inner_text())


def test_where_an_image_is_in_a_pack(open_page: OpenPage, api: Api) -> None:
    (pack,) = api.get("/v1/runs/packed/batches", epoch=0, step=20, rank=1)["batches"]
    page = open_page(f"#/runs/packed/images/{pack['ids'][3]}").page
    expect(page.locator(".verdict")).to_have_text(
        "Served in epoch 0 at step 20 on rank 1, image 3 of a pack of kind "
        f"{pack['kind']}, in a slot of {pack['lengths'][3]:,} tokens."
    )
    width, height = pack["sizes"][3]
    expect(tile(page, "Size")).to_contain_text(f"{width} × {height}")  # noqa: RUF001
    expect(tile(page, "Size")).to_contain_text("length ")
    expect(page.locator(".soon")).to_contain_text("20 steps ahead of rank 1")
    assert not NOTHING.search(page.locator("main").inner_text())


def test_images_without_a_place_in_a_pack(open_page: OpenPage, api: Api) -> None:
    page = open_page("#/runs/limited/images/small").page
    verdict = page.locator(".verdict")
    expect(verdict).to_have_text(
        "Pruned: its shorter side has fewer pixels than min_size. It is served in no epoch."
    )
    expect(tile(page, "Image")).to_contain_text("15 × 300")  # noqa: RUF001
    expect(tile(page, "Size it would have")).to_have_count(0)
    page.get_by_label("Image id").fill("wide")
    page.get_by_role("button", name="Find").click()
    expect(verdict).to_contain_text("Pruned: more than max_crop_loss of it")
    expect(page.locator(".plot[data-drawn]")).to_have_count(FIGURES)
    assert not NOTHING.search(page.locator("main").inner_text())


@pytest.mark.exhaustive
def test_a_run_that_is_put_again_with_buckets(open_page: OpenPage, api: Api) -> None:
    """While its page is open: the charts of packs give way to those of buckets."""
    api.put("/v1/runs/either", {"map": "coco", **SPEC}, 201)
    watch = open_page("#/runs/either")
    watch.forgiven = {404}
    page = watch.page
    expect(with_heading(page, "Kinds of pack")).to_have_count(1)
    api.ask("DELETE", "/v1/runs/either", 204)
    api.put("/v1/runs/either", {"map": "coco", "world_size": 4, "batch_size": 8}, 201)
    expect(with_heading(page, "Buckets")).to_have_count(1)
    expect(with_heading(page, "Kinds of pack")).to_have_count(0)
    expect(page.get_by_role("heading", name="The plan", exact=True)).to_have_count(1)
    expect(tile(page, "Shapes")).to_be_visible()
    page.close()  # or it would ask for a run that is not there
    api.ask("DELETE", "/v1/runs/either", 204)


# --- beside buckets -----------------------------------------------------------------------------------------


def test_packs_are_compared_with_buckets(open_page: OpenPage, api: Api) -> None:
    page = open_page("#/compare", token="operator").page
    page.get_by_label("Map of images").select_option("coco")
    page.get_by_label("Add a plan").select_option("preset native")
    spec = page.get_by_label("Run spec").last.input_value()
    assert json.loads(spec) == {"world_size": 8, "ladder": "native", "pack": {"max_tokens": 16384}}
    page.get_by_label("Add a plan").select_option("run packed")
    page.get_by_role("button", name="Compare", exact=True).click()
    body = {"map": "coco", "specs": [json.loads(spec), SPEC]}
    native, packed = (each["stats"] for each in api.post("/v1/previews", body)["previews"])
    cells = page.get_by_role("row", name=re.compile("^packs, full ")).locator("td")
    expect(cells).to_have_text(
        [
            *("–", "–"),  # noqa: RUF001 - as it is shown
            *(re.compile(f"^{each['packs']['full']:.2%}") for each in (native, packed)),
        ]
    )
    largest = page.get_by_role("row", name=re.compile("^largest ")).locator("td")
    expect(largest).to_have_text([re.compile(r"^\d+x\d+$")] * 2 + ["–"] * 2)  # noqa: RUF001
    expect(page.locator(".results .annotation-text").last).to_have_text("Shapes, kinds of pack")
    figure = page.get_by_role("img", name="Images and slots of each length of packed")
    expect(figure.locator(".bars .point")).to_have_count(2 * len(packed["packs"]["lengths"]))
    about = page.locator("figure").filter(has=figure).locator("figcaption")
    expect(about).to_contain_text(f"{len(packed['packs']['lengths'])} lengths, ")
    assert not NOTHING.search(page.locator("main").inner_text())


def test_a_report_has_packs_beside_buckets(chromium: Browser, tmp_path: Path) -> None:
    options = []
    for name, spec in {"packs": SPEC, "buckets": {"world_size": 4, "batch_size": 8}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(spec))
        options.append(f"--spec={tmp_path / name}.json")
    report = tmp_path / "report.html"
    status, out, _ = run_command("preview", str(COCO), *options, "--json", f"--html={report}")
    assert status == 0
    answer = json.loads(out)
    stats = answer["previews"][0]["stats"]
    watch = Watch(chromium.context(), "nobody")
    watch.page.goto(report.as_uri())
    lengths = stats["packs"]["lengths"]
    expect(watch.page.locator("#plan-0 .bars .point")).to_have_count(2 * len(lengths))
    expect(watch.page.locator("article").first).to_contain_text(
        f"{len(lengths)} lengths, {stats['packs']['num_kinds']} kinds of pack, {stats['packs']['full']:.1%} full, "
        f"{stats['num_steps']:,} steps an epoch on 4 ranks"
    )
    expect(watch.page.get_by_role("row", name=re.compile("^packs, full"))).to_contain_text(
        f"{stats['packs']['full']:.2%}"
    )
    assert not NOTHING.search(watch.page.locator("body").inner_text())
    watch.close()
    assert watch.faults == []
    for each in answer["previews"]:  # as an older coordinator answers
        each["stats"].pop("packs") if each["stats"]["packs"] is None else None
    assert "<article" in html(answer)
