"""How the page looks and is used: light and dark, on a phone, by keyboard, with assistive technology, and with very
large runs."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.conftest import OpenPage
from tests.dashboard.job import RUN, TOKENS
from tests.server import ServerProcess

VIEWS = ["#/", f"#/runs/{RUN}/images/397", "#/maps/coco", "#/compare"]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def ground(page: Page) -> int:
    """How bright the page's ground is, 0 to 765."""
    colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    return sum(int(value) for value in re.findall(r"\d+", colour)[:3])


def ready(page: Page, view: str) -> None:
    """The view is complete."""
    expect(page.get_by_role("status").first).to_have_text("Live")
    if view.startswith(("#/runs", "#/maps")):
        expect(page.locator(".plot[data-drawn]")).to_have_count(6 if "runs" in view else 2)
    if "images" in view:
        expect(page.locator(".result h3")).to_be_visible()


@pytest.mark.exhaustive
def test_dark_and_light_as_the_system_or_as_chosen(open_page: OpenPage) -> None:
    page = open_page("#/maps/coco", color_scheme="dark").page
    expect(page.locator(".plot[data-drawn=dark]")).to_have_count(2)
    assert ground(page) < 100
    page.get_by_label("Theme").select_option("light")
    expect(page.locator(".plot[data-drawn=light]")).to_have_count(2)
    assert ground(page) > 600
    page.reload()
    expect(page.locator(".plot[data-drawn=light]")).to_have_count(2)
    page.get_by_label("Theme").select_option("system")
    assert ground(page) < 100
    page.emulate_media(color_scheme="light")
    expect(page.locator(".plot[data-drawn=light]")).to_have_count(2)
    assert ground(page) > 600


@pytest.mark.exhaustive
def test_a_phone_is_wide_enough(open_page: OpenPage) -> None:
    page = open_page(token="operator", **PHONE).page
    for view in VIEWS:
        page.evaluate("view => { location.hash = view }", view)
        ready(page, view)
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") == 390, view
        # and charts follow where it is turned
        page.set_viewport_size({"width": 844, "height": 390})
        if view.startswith(("#/runs", "#/maps")):
            plot = page.locator(".plot[data-drawn] .main-svg").first
            expect(plot).to_have_attribute("width", re.compile(r"^[678]\d\d"))
        assert page.evaluate("document.documentElement.scrollWidth") == 844, view
        page.set_viewport_size({"width": 390, "height": 844})


@pytest.mark.exhaustive
def test_a_page_that_asked_elsewhere_or_ran_foreign_code_would_be_noticed(open_page: OpenPage) -> None:
    watch = open_page()
    page = watch.page
    ready(page, "#/")
    assert watch.faults == []
    page.evaluate("fetch('https://elsewhere.invalid/').catch(() => 0)")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'alert(1)'}))")
    page.evaluate("setTimeout(() => { throw new Error('of the page') })")
    ready(page, "#/")
    told = " ".join(watch.faults)
    watch.faults = []
    assert "elsewhere.invalid" in told
    assert "script-src 'self'" in told
    assert "of the page" in told
    assert "dialog" not in told


@pytest.mark.exhaustive
def test_everything_can_be_done_by_keyboard(open_page: OpenPage) -> None:
    """From the address to a found image, with only Tab and Enter; the focus is visible."""
    page = open_page().page
    expect(page.get_by_role("link", name=RUN, exact=True).first).to_be_visible()

    def tab_to(name: str, most: int = 40) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            told = page.evaluate(
                "(document.activeElement.labels?.[0] ?? document.activeElement).textContent.trim()"
            )
            if told == name:
                style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert style == "solid", name
                return
        raise AssertionError(f"Tab never came to {name!r}")

    tab_to("Skip to content")
    page.keyboard.press("Enter")
    tab_to("Filter runs")
    page.keyboard.type(RUN)
    tab_to(RUN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=RUN, level=1)).to_be_visible()
    expect(page.get_by_label("Image id")).to_be_visible()
    tab_to("Image id")
    page.keyboard.type("397")
    page.keyboard.press("Enter")
    expect(page.locator(".result h3")).to_have_text("Image 397")
    page.go_back()
    expect(page.locator(".result h3")).to_have_count(0)


AXE = {
    "light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "dark": {"type": "rule", "values": ["color-contrast"]},  # nothing else depends on colours
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_in_the_way_of_assistive_technology(open_page: OpenPage, scheme: str) -> None:
    """axe's rules of WCAG 2.2 AA and its best practices, contrast included, on views with all of them unfolded."""
    pytest.importorskip("axe_playwright_python")
    # past the policy, which lets no foreign script in
    page = open_page(bypass_csp=True, color_scheme=scheme, token="operator").page
    page.add_script_tag(content=(files("axe_playwright_python") / "axe.min.js").read_text())
    for view in VIEWS if scheme == "light" else VIEWS[:2]:
        page.evaluate("view => { location.hash = view }", view)
        ready(page, view)
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        found = page.evaluate("only => axe.run({ runOnly: only })", AXE[scheme])
        assert found["passes"]
        told = [
            (rule["id"], node["html"][:200], node["failureSummary"])
            for rule in found["violations"]
            for node in rule["nodes"]
        ]
        assert told == [], view


@pytest.mark.exhaustive
def test_the_largest_run_can_be_read(open_page: OpenPage, server: ServerProcess) -> None:
    """10,000 ranks and 4,096 buckets."""
    api = server.api(TOKENS["BUCKETLINE_OPERATOR_TOKEN"])
    rows = "".join(f"{i},{200 + i * 37 % 3800},{200 + i * 53 % 3800}\n" for i in range(20_000))
    api.put_csv("many", "id,width,height\n" + rows, 201)
    sizes = [[64 * width, 64 * height] for width in range(4, 68) for height in range(4, 68)]
    spec = {"map": "many", "world_size": 10_000, "batch_size": 1, "lockstep": 1}
    api.put("/v1/runs/large", {**spec, "ladder": {"kind": "explicit", "sizes": sizes}})
    lease = api.lease("large", 8765, "far-ahead")["lease"]
    api.ack("large", 8765, lease, 0, 0)
    page = open_page("#/runs/large").page
    ranks = page.get_by_role("region", name="Ranks, slowest first")
    expect(ranks.locator("tbody tr")).to_have_count(10)
    expect(page.get_by_text("1 to 10 of 10,000 ranks")).to_be_visible()
    page.get_by_role("button", name="Next").first.click()
    expect(page.get_by_text("11 to 20 of 10,000 ranks")).to_be_visible()
    page.get_by_label("Filter by rank").fill("far-ahead")
    expect(ranks.locator("tbody tr")).to_have_count(1)
    expect(ranks.locator("tbody tr")).to_contain_text("8765")
    # each rank has a cell that can be pointed at: the last one is the leader
    canvas = page.get_by_role("img", name=re.compile("^10,000 ranks"))
    box = canvas.bounding_box()
    assert box is not None
    assert 100 < box["height"] < 400
    last = canvas.evaluate(
        "canvas => { const side = 5, columns = Math.floor(canvas.clientWidth / side);"
        " return [9999 % columns * side + 1, Math.floor(9999 / columns) * side + 1]; }"
    )
    canvas.hover(position={"x": last[0], "y": last[1]})
    expect(page.locator(".hint")).to_contain_text("Rank 8765: 0 steps behind, held by far-ahead")
    expect(page.locator(".plot[data-drawn]")).to_have_count(6)
    drawn = page.locator(".plot").first.evaluate("plot => plot.data.map((trace) => trace.x.length)")
    assert drawn == [4096, 4096]
