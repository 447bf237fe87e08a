"""What an operator sees of a run that is being consumed."""

from __future__ import annotations

import csv
import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.checked import Api
from tests.dashboard.conftest import OpenPage
from tests.dashboard.job import NASTY, RUN, TOKENS, Job
from tests.server import ServerProcess

FIGURES = 6


def tile(page: Page, name: str) -> Locator:
    return page.locator(".tile").filter(has=page.locator("dt", has_text=re.compile(f"^{name}$")))


def as_operator(server: ServerProcess) -> Api:
    return server.api(TOKENS["BUCKETLINE_OPERATOR_TOKEN"])


@pytest.mark.exhaustive
def test_progress_moves_while_one_looks(open_page: OpenPage, job: Job) -> None:
    done = job.advance(2, 0, 1, 2, 3) + 1
    watch = open_page()
    row = watch.page.get_by_role("row", name=re.compile(rf"^{RUN} "))
    expect(row).to_contain_text(f"{done} / ")
    before = float(row.get_by_role("progressbar").evaluate("bar => bar.value"))
    done = job.advance(3, 0, 1, 2, 3) + 1
    expect(row).to_contain_text(f"{done} / ")
    assert float(row.get_by_role("progressbar").evaluate("bar => bar.value")) > before
    expect(row).to_contain_text("Running")
    expect(row.get_by_role("cell").nth(3)).to_have_text(re.compile(r"^[\d.,]+$"))
    watch.page.get_by_role("link", name=RUN).first.click()
    expect(watch.page.get_by_role("heading", name=RUN, level=1)).to_be_visible()
    assert watch.page.url.endswith(f"#/runs/{RUN}")
    expect(watch.page.locator(".runline")).to_contain_text(f"{done} / ")


@pytest.mark.exhaustive
def test_the_slowest_rank_comes_first(open_page: OpenPage, job: Job) -> None:
    """A rank that does not advance is shown to fall behind, with its holder."""
    job.advance(1, 0, 1, 2, 3)
    page = open_page(f"#/runs/{RUN}").page
    ranks = page.get_by_role("region", name="Ranks, slowest first")
    expect(ranks.get_by_role("row")).to_have_count(1 + 4)
    job.advance(4, 0, 1, 3)
    job.advance(1, 2)
    first = ranks.locator("tbody tr").first
    expect(first.get_by_role("rowheader")).to_have_text("2")
    expect(first.get_by_role("cell").nth(1)).to_have_text("behind")
    expect(first.get_by_role("cell").nth(0)).to_have_text(re.compile(r"^[1-9]\d*$"))
    expect(first.get_by_role("cell").nth(2)).to_have_text(re.compile("now|ago"))
    expect(first.get_by_role("cell").nth(3)).to_contain_text(":")
    expect(page.get_by_role("img", name=re.compile("4 ranks, the slowest is 2, "))).to_be_visible()
    expect(page.locator(".kinds")).to_contain_text("behind: 1 rank")
    expect(tile(page, "Largest lag")).to_contain_text("rank 2")
    page.get_by_label("Filter by rank").fill("front")
    expect(ranks.locator("tbody tr")).to_have_count(3)
    job.advance(3, 2)


def test_charts_have_the_plans_numbers(open_page: OpenPage, server: ServerProcess) -> None:
    stats: dict[str, Any] = as_operator(server).get(f"/v1/runs/{RUN}/stats")
    page = open_page(f"#/runs/{RUN}").page
    expect(page.locator(".plot[data-drawn]")).to_have_count(FIGURES)
    buckets = page.locator("figure").filter(has=page.get_by_role("heading", name="Buckets", exact=True))
    # of each bucket one bar of images and one of batches
    expect(buckets.locator(".trace.bars .point")).to_have_count(2 * len(stats["buckets"]))
    drawn = buckets.locator(".plot").evaluate("plot => plot.data.map((trace) => trace.y)")
    assert drawn == [[bucket[name] for bucket in stats["buckets"]] for name in ("num_images", "num_batches")]
    largest = max(stats["buckets"], key=lambda bucket: int(bucket["num_images"]))
    buckets.get_by_text("Show numbers").click()
    row = buckets.get_by_role("row", name=re.compile(f"{largest['width']} . {largest['height']}"))
    expect(row).to_contain_text(f"{largest['num_images']:,}")
    pruned = page.locator("figure").filter(has=page.get_by_role("heading", name="Pruned images"))
    expect(pruned).to_contain_text(f"{stats['pruned']['max_crop_loss']:,} (")
    expect(tile(page, "Images")).to_contain_text(f"{stats['num_images']:,}")


@pytest.mark.exhaustive
def test_where_an_image_is_why_and_when_it_comes(open_page: OpenPage, server: ServerProcess) -> None:
    api = as_operator(server)
    batch = api.get(f"/v1/runs/{RUN}/batches", epoch=0, step=70, rank=1)["batches"][0]
    served = batch["ids"][3]
    page = open_page(f"#/runs/{RUN}").page
    result = page.locator(".result")
    page.get_by_label("Image id").fill(str(served))
    page.get_by_role("button", name="Find").click()
    expect(result).to_contain_text("Served in epoch 0 at step 70 on rank 1, image 3 of its batch")
    expect(tile(page, "Bucket")).to_contain_text(f"{batch['width']} × {batch['height']}")  # noqa: RUF001
    expect(page.locator(".soon")).to_contain_text("ahead of rank 1")
    assert page.url.endswith(f"#/runs/{RUN}/images/{served}")
    # in another epoch it comes elsewhere, and the address says so
    told = api.get(f"/v1/runs/{RUN}/images/{served}", epoch=3)["served"][0]
    page.get_by_label("Epoch", exact=True).fill("3")
    page.get_by_role("button", name="Find").click()
    expect(result).to_contain_text(f"Served in epoch 3 at step {told['step']:,} on rank {told['rank']}")
    assert page.url.endswith("?epoch=3")


@pytest.mark.exhaustive
def test_an_image_that_is_pruned_and_one_that_is_not_there(
    open_page: OpenPage, server: ServerProcess
) -> None:
    api = as_operator(server)
    ledger = api.ask("GET", f"/v1/runs/{RUN}/ledger").text.splitlines()
    pruned = next(row["id"] for row in csv.DictReader(ledger) if row["what"] == "pruned")
    watch = open_page(f"#/runs/{RUN}/images/{pruned}")
    page = watch.page
    expect(page.locator(".result")).to_contain_text(
        "Pruned: more than max_crop_loss of it would be cropped away"
    )
    expect(tile(page, "Would lose")).to_be_visible()
    watch.forgiven = {404}
    page.get_by_label("Image id").fill("no-such")
    page.get_by_label("Image id").press("Enter")
    expect(page.locator(".result .wrong")).to_contain_text("no-such")


def test_ids_that_are_markup_are_text(open_page: OpenPage) -> None:
    """In requests and in answers; a dialog or a request for ``x`` would be a fault."""
    watch = open_page("#/runs/nasty")
    page = watch.page
    page.get_by_label("Image id").fill(f"{NASTY}1")
    page.get_by_role("button", name="Find").click()
    expect(page.locator(".result h3")).to_have_text(f"Image {NASTY}1")
    expect(page.locator(".verdict")).to_contain_text("Served in epoch")
    watch.forgiven = {404}
    page.get_by_label("Image id").fill(f"{NASTY}none")
    page.get_by_role("button", name="Find").click()
    expect(page.locator(".result .wrong")).to_contain_text(NASTY)
    assert page.locator("main img").count() == 0
    assert not any(path.endswith("/x") for path in watch.asked)


def test_what_of_a_plan_would_surprise_is_told_until_it_does_no_more(
    open_page: OpenPage, server: ServerProcess
) -> None:
    api = as_operator(server)
    spec = {"map": "coco", "world_size": 4, "batch_size": 8, "ladder": "sdxl"}
    (told,) = api.put("/v1/runs/scaled", spec, 201)["warnings"]
    watch = open_page("#/runs/scaled")
    watch.forgiven = {404}
    warnings = watch.page.get_by_role("region", name="Warnings about the plan")
    listed = warnings.get_by_role("list", name="Warnings about the plan").get_by_role("listitem")
    expect(listed).to_have_text([f"Warning: {told['message']}{told['remedy']}"])
    expect(listed.locator("svg")).to_be_visible()
    api.ask("DELETE", "/v1/runs/scaled", 204)
    api.put("/v1/runs/scaled", {**spec, "ladder": "novelai"}, 201)
    expect(watch.page.locator("details", has_text="Spec, with").locator("pre")).to_contain_text("768")
    expect(warnings).to_be_hidden()
    watch.page.close()  # or it would ask for a run that is not there
    api.ask("DELETE", "/v1/runs/scaled", 204)


@pytest.mark.exhaustive
def test_images_that_could_not_be_used(open_page: OpenPage, server: ServerProcess) -> None:
    """None at first; then the newest ones, with a link to where each is in the plan."""
    api = as_operator(server)
    api.put("/v1/runs/reported", {"map": "coco", "world_size": 2, "batch_size": 8}, 201)
    batch = api.get("/v1/runs/reported/batches", epoch=0, step=3, rank=1)["batches"][0]
    page = open_page("#/runs/reported").page
    card = page.get_by_role("region", name="Images that could not be used", exact=True)
    expect(page.get_by_role("region", name="Ranks, slowest first")).to_be_visible()
    expect(card).to_have_count(0)
    images = [{"id": id, "reason": "unreadable", "detail": NASTY} for id in batch["ids"]]
    body = {"rank": 1, "epoch": 0, "step": 3, "images": images}
    api.ask("POST", "/v1/runs/reported/reports", 200, json=body)
    again = {"rank": 0, "epoch": 1, "step": 5, "images": [{"id": batch["ids"][-1], "reason": "wrong_size"}]}
    api.ask("POST", "/v1/runs/reported/reports", 200, json=again)
    expect(card).to_contain_text("Workers have reported 8 images.")
    rows = card.locator("tbody tr")
    expect(rows).to_have_count(8)
    expect(rows.first).to_contain_text("epoch 1, step 5, rank 0")
    expect(rows.first.get_by_role("cell").nth(1)).to_have_text("wrong size")
    expect(rows.first.get_by_role("cell").nth(2)).to_have_text("2")
    expect(rows.last).to_contain_text("epoch 0, step 3, rank 1")
    expect(rows.last.get_by_role("cell").last).to_have_text(NASTY)
    card.get_by_label("Filter by id").fill(str(batch["ids"][0]))
    rows.get_by_role("link", name=str(batch["ids"][0]), exact=True).click()
    expect(page.locator(".result")).to_contain_text("Served in epoch 0 at step 3 on rank 1")
    api.ask("DELETE", "/v1/runs/reported?force=true", 204)


def test_what_happened_is_told(open_page: OpenPage, server: ServerProcess) -> None:
    page = open_page(f"#/runs/{RUN}").page
    table = page.get_by_role("region", name="Events", exact=True)
    expect(table).to_contain_text("run put")
    as_operator(server).put("/v1/runs/other", {"map": "coco", "world_size": 1, "batch_size": 8}, 201)
    page.get_by_role("link", name="Overview").first.click()
    expect(table.get_by_role("link", name="other", exact=True).first).to_be_visible()
    as_operator(server).ask("DELETE", "/v1/runs/other", 204)
    expect(table).to_contain_text("run deleted")


@pytest.mark.exhaustive
def test_a_run_that_is_not_there_yet(open_page: OpenPage, server: ServerProcess) -> None:
    """It appears when it is put, and as another run when it is deleted and put again."""
    watch = open_page("#/runs/later")
    watch.forgiven = {404}
    page = watch.page
    missing = page.get_by_role("heading", name="No such run")
    expect(missing).to_be_visible()
    for world_size in (2, 3):
        spec = {"map": "coco", "world_size": world_size, "batch_size": 8}
        as_operator(server).put("/v1/runs/later", spec, 201)
        expect(missing).to_be_hidden()
        expect(tile(page, "Ranks")).to_contain_text(str(world_size))
        expect(page.locator("details", has_text="Spec, with").locator("pre")).to_contain_text(
            f'"world_size": {world_size}'
        )
        as_operator(server).ask("DELETE", "/v1/runs/later", 204)
        expect(missing).to_be_visible()


@pytest.mark.exhaustive
def test_a_run_begun_on_other_ranks_and_one_whose_rank_has_no_worker(
    open_page: OpenPage, server: ServerProcess
) -> None:
    """Progress counts batches, not steps; a missing rank is reported; and the map of an id can be chosen."""
    api = as_operator(server)
    spec = {"maps": [{"map": "coco"}, {"map": "twin"}], "world_size": 4, "batch_size": 8}
    api.put_csv("twin", "id,width,height\n397,512,512\n", 201)
    run = api.put("/v1/runs/halved", spec, 201)
    state = {**run["state"], "step": run["num_steps"] // 2, "offset": run["num_steps"] // 2 * 4}
    api.post("/v1/runs/halved/sessions", {"session": "half", "world_size": 2, "resume": state}, 200)
    lease = api.lease("halved", 0)["lease"]
    api.ack("halved", 0, lease, 0, state["step"] + 5)
    page = open_page("#/runs/halved/images/397?map=twin").page
    expect(tile(page, "Epoch")).to_contain_text(re.compile("(49|50) % done"))
    expect(page.locator(".note")).to_have_text(
        "Rank 1 is stuck: it has no worker, while other ranks are ahead."
    )
    expect(page.locator(".title .pill")).to_have_text("Waiting")
    expect(tile(page, "Image")).to_contain_text("512 × 512")  # noqa: RUF001
    page.get_by_label("Map", exact=True).select_option("coco")
    page.get_by_role("button", name="Find").click()
    expect(tile(page, "Image")).not_to_contain_text("512 × 512")  # noqa: RUF001
    assert page.url.endswith("/images/397?map=coco")
    page.close()  # or it would ask for a run that is not there
    api.ask("DELETE", "/v1/runs/halved?force=true", 204)
    api.ask("DELETE", "/v1/maps/twin", 204)


def test_a_map(open_page: OpenPage) -> None:
    page = open_page("#/maps/coco").page
    expect(page.locator(".plot[data-drawn]")).to_have_count(2)
    expect(tile(page, "Largest")).to_contain_text("640 × 640")  # noqa: RUF001
    page.get_by_text("Show numbers").first.click()
    expect(page.get_by_role("region", name="Images by aspect ratio")).to_contain_text("1.24 to 1.35")
    expect(
        page.get_by_role("region", name="Images by aspect ratio").locator("tbody tr").first
    ).to_contain_text("under 0.26")
    page.get_by_text("Show numbers").last.click()
    most = page.get_by_role("region", name="Images by size").locator("tbody tr").first
    expect(most).to_have_text(re.compile(r"^640 to 767\s*384 to 511\s*2,702$"))
