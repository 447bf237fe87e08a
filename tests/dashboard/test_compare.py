"""Plans compared in the dashboard: written, refused, compared and copied as a command."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.dashboard.conftest import OpenPage
from tests.dashboard.job import NASTY, RUN, TOKENS
from tests.server import ServerProcess

SPEC = {"world_size": 4, "batch_size": 8}


def plan(page: Page, name: str) -> Locator:
    heading = page.get_by_role("heading", name=name, exact=True)
    return page.get_by_role("list", name="Plans").get_by_role("listitem").filter(has=heading)


def names(page: Page) -> list[str]:
    fields = page.get_by_role("list", name="Plans").get_by_label("Name")
    return [field.input_value() for field in fields.all()]


def compare(page: Page) -> None:
    page.get_by_role("button", name="Compare", exact=True).click()


def cells(page: Page, row: str) -> list[str]:
    return page.get_by_role("row", name=re.compile(f"^{row} ")).locator("td").all_inner_texts()


def test_what_would_surprise_stands_with_its_plan(open_page: OpenPage, server: ServerProcess) -> None:
    page = open_page("#/compare", token="operator").page
    page.get_by_label("Map of images").select_option("coco")
    plan(page, "fitted-8").get_by_label("Run spec").fill(json.dumps({**SPEC, "ladder": "sdxl"}))
    plan(page, "fitted-8").get_by_label("Name").fill(NASTY)
    compare(page)
    api = server.api(TOKENS["BUCKETLINE_OPERATOR_TOKEN"])
    body = {"map": "coco", "specs": [{**SPEC, "ladder": "sdxl"}]}
    (told,) = api.post("/v1/previews", body)["previews"][0]["warnings"]
    listed = page.get_by_role("list", name=f"Warnings about {NASTY}").get_by_role("listitem")
    expect(listed).to_have_text([f"Warning: {told['message']}{told['remedy']}"])
    expect(page.get_by_role("list", name="Warnings about novelai")).to_have_count(0)


@pytest.mark.exhaustive
def test_plans_are_written_and_compared(open_page: OpenPage, server: ServerProcess) -> None:
    page = open_page("#/compare", token="operator").page
    page.get_by_label("Map of images").select_option("coco")
    expect(plan(page, "novelai")).to_be_visible()
    page.get_by_label("Add a plan").select_option(f"run {RUN}")
    expect(plan(page, RUN).get_by_label("Name")).to_be_focused()
    plan(page, "fitted-8").get_by_role("button", name="Duplicate").click()
    assert names(page) == ["novelai", "fitted-8", "fitted-8 2", RUN]
    plan(page, "fitted-8").get_by_role("button", name="Remove").click()
    plan(page, "fitted-8 2").get_by_label("Run spec").fill(
        json.dumps({**SPEC, "tails": "pad", "lockstep": 2})
    )
    plan(page, "fitted-8 2").get_by_label("Name").fill(NASTY)
    compare(page)
    expect(page.get_by_role("heading", name="What they cost")).to_be_focused()
    api = server.api(TOKENS["BUCKETLINE_OPERATOR_TOKEN"])
    specs = [{"world_size": 8, "batch_size": 8}, {**SPEC, "tails": "pad", "lockstep": 2}]
    told = [each["stats"] for each in api.post("/v1/previews", {"map": "coco", "specs": specs})["previews"]]
    told.append(api.get(f"/v1/runs/{RUN}/stats"))
    table = page.get_by_role("table", name="Costs of each plan")
    assert table.get_by_role("columnheader").all_inner_texts() == ["novelai", NASTY, RUN]
    assert [cell.split("✓")[0] for cell in cells(page, "left out")] == [
        f"{each['dropped']:,}" for each in told
    ]
    assert cells(page, "steps") == [f"{each['num_steps']:,}" for each in told]
    fewest = min(each["mixed_steps"] for each in told)
    is_best = [each["mixed_steps"] == fewest for each in told]
    assert ["✓" in cell for cell in cells(page, "of mixed shapes")] == is_best
    assert set(is_best) == {True, False}
    charts = page.locator(".results .plot")
    expect(charts).to_have_count(4)
    expect(charts.first.locator(".yaxislayer-above").first).to_have_text(
        f"novelai<img src=x o…r=alert(1)>{RUN}"
    )
    for chart, each in zip(charts.all()[1:], told, strict=True):
        expect(chart.locator(".bars .point")).to_have_count(2 * len(each["buckets"]))


@pytest.mark.exhaustive
def test_what_is_wrong_is_told_at_its_plan(open_page: OpenPage) -> None:
    page = open_page("#/compare", token="operator").page
    page.get_by_label("Map of images").select_option("coco")
    one, two = plan(page, "novelai"), plan(page, "fitted-8")
    one.get_by_label("Run spec").fill('{"world_size": 4,')
    compare(page)
    expect(one.get_by_text("This is not JSON")).to_be_visible()
    expect(one.get_by_label("Run spec")).to_be_focused()
    expect(one.get_by_label("Run spec")).to_have_attribute("aria-invalid", "true")
    one.get_by_label("Run spec").fill(json.dumps({**SPEC, "ladder": {"kind": "kohya", "step": 1}}))
    expect(one.get_by_text("This is not JSON")).to_have_count(0)
    compare(page)
    expect(one.locator(".wrong")).to_contain_text("ladder.step")
    expect(two.locator(".wrong")).to_be_empty()
    expect(page.get_by_role("status").filter(has_text="1 plan cannot be met")).to_be_visible()
    assert cells(page, "images") == ["–", "5,000"]  # noqa: RUF001 - as it is shown
    one.get_by_label("Run spec").fill(json.dumps(SPEC))
    expect(page.get_by_text("The comparison is out of date: compare again.")).to_be_visible()
    compare(page)
    expect(page.get_by_text("Compared 2 plans.")).to_be_visible()
    expect(one.locator(".wrong")).to_be_empty()


@pytest.mark.exhaustive
def test_all_presets_are_plans_and_there_is_an_end(open_page: OpenPage) -> None:
    page = open_page("#/compare", token="operator").page
    add = page.get_by_label("Add a plan")
    expect(plan(page, "fitted-8")).to_be_visible()
    presets = add.locator("optgroup[label=Ladders] option").evaluate_all("all => all.map(each => each.value)")
    page.get_by_label("Map of images").select_option("coco")
    for preset in presets[:14]:
        add.select_option(preset)
    assert len(presets) == len(names(page)) - 2 == 12
    for _ in range(2):
        add.select_option(presets[0])
    expect(add).to_be_disabled()
    expect(page.get_by_text("At most 16 plans can be compared.")).to_be_visible()
    compare(page)
    expect(page.get_by_text("Compared 16 plans.")).to_be_visible()


@pytest.mark.exhaustive
def test_a_plan_is_taken_away_as_a_spec_or_a_command(open_page: OpenPage) -> None:
    watch = open_page("#/compare", token="operator", permissions=["clipboard-read", "clipboard-write"])
    page = watch.page
    page.get_by_label("Map of images").select_option("coco")
    page.get_by_role("button", name="Add a map").click()
    page.get_by_label("Map 2", exact=True).select_option("nasty")
    mine = plan(page, "novelai")
    mine.get_by_label("Run spec").fill(json.dumps(SPEC))
    mine.get_by_role("button", name="Copy spec").click()
    expect(mine.get_by_text("Copied")).to_be_visible()
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == SPEC
    mine.get_by_label("Name").fill("my own plan")
    plan(page, "my own plan").get_by_role("button", name="Copy as command").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('bucketline')")
    first, *lines, last = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert (first, last) == ("bucketline run put my-own-plan /dev/stdin <<'JSON'", "JSON")
    assert json.loads("\n".join(lines)) == {"maps": [{"map": "coco"}, {"map": "nasty"}], **SPEC}
    # what was typed is there again, as long as the tab is
    page.reload()
    expect(plan(page, "my own plan")).to_be_visible()
    assert page.get_by_label("Map 2", exact=True).input_value() == "nasty"


@pytest.mark.exhaustive
def test_on_a_phone_in_the_dark_and_by_a_worker(open_page: OpenPage, server: ServerProcess) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
    refused = open_page("#/compare", **phone)
    refused.forgiven = {403}
    expect(plan(refused.page, "novelai")).to_be_visible()
    compare(refused.page)
    expect(refused.page.get_by_role("alert")).to_contain_text("requires an operator's token")
    page = open_page("#/compare", token="operator", **phone).page
    page.get_by_label("Map of images").select_option("coco")
    compare(page)
    words = page.locator(".results .plot .gtitle, .results .plot .annotation-text").first
    expect(words).to_be_visible()
    dark = words.evaluate("element => getComputedStyle(element).fill")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_label("Theme").select_option("light")
    expect(words).not_to_have_css("fill", dark)


@pytest.mark.exhaustive
def test_without_a_map_it_says_what_to_do(open_page: OpenPage, fresh: ServerProcess) -> None:
    page = open_page("#/compare", url=fresh.url, token=None).page
    expect(page.get_by_text("bucketline map put my-images")).to_be_visible()
    expect(page.get_by_role("button", name="Compare", exact=True)).to_have_count(0)
