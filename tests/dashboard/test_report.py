"""The report of ``bucketline preview --html``: opened from its file, with no network, it says what the answer says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.browser import Browser, Watch
from tests.dashboard.job import NASTY, TOKENS
from tests.server import COCO, ServerProcess, run_command

SPECS: dict[str, dict[str, Any]] = {
    "novelai": {"world_size": 4, "batch_size": 8},
    "pad": {"world_size": 4, "batch_size": 8, "tails": "pad", "lockstep": 2},
    NASTY: {"world_size": 4, "batch_size": 8, "ladder": {"kind": "preset", "name": "sdxl"}},
    "none": {"world_size": 4, "batch_size": 8, "valid_ids": "</script><script>alert(1)</script>"},
}


class Report:
    """Made once by the command, which has printed the same answer as JSON."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "report & more.html"
        options = []
        for name, spec in SPECS.items():
            (folder / f"{name}.json").write_text(json.dumps(spec))
            options += ["--spec", str(folder / f"{name}.json")]
        status, out, errors = run_command("preview", str(COCO), *options, "--json", "--html", str(self.file))
        self.answer = json.loads(out)
        self.text = self.file.read_text()
        written = f"{self.file}: {self.file.stat().st_size:,} bytes"
        assert (status, errors) == (1, f"{written}\nbucketline: cannot be met: none\n")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return Report(tmp_path_factory.mktemp("report"))


@contextmanager
def opened(chromium: Browser, report: Report, **options: Any) -> Iterator[Page]:
    """Without a network: only the file is read, without errors."""
    context = chromium.context(**options)
    context.set_offline(True)
    watch = Watch(context, "nobody")
    watch.page.goto(report.file.as_uri())
    yield watch.page
    watch.close()
    assert watch.faults == []
    assert len(watch.asked) == 1


@pytest.fixture(scope="module")
def page(chromium: Browser, report: Report) -> Iterator[Page]:
    with opened(chromium, report) as page:
        yield page


def test_the_table_is_the_answers(report: Report) -> None:
    costs = report.text[report.text.index("<tr><th></th>") :].partition("</table>")[0]
    table = re.findall(r"<tr>(.*?)</tr>", costs)
    head, *rows = [[unescape(cell) for cell in re.findall(r"<t[hd][^>]*>([^<]*)<", row)] for row in table]
    assert head == ["", *SPECS]
    cells = {row[0]: row[1:] for row in rows}
    stats = [each["stats"] for each in report.answer["previews"][:3]]
    assert cells["images"] == ["5,000"] * 3 + ["-"]
    assert cells["crop loss, mean"] == [*(f"{each['crop_loss']['mean']:.2%}" for each in stats), "-"]
    assert cells["of mixed shapes"] == [*(f"{each['mixed_steps']:,}" for each in stats), "-"]
    assert cells["repeated"] == [*(f"{each['repeated']:,}" for each in stats), "-"]
    shapes = [each["largest_shape"] for each in stats]
    assert cells["largest"] == [*(f"{shape['width']}x{shape['height']}" for shape in shapes), "-"]
    fewest = str(min(each["mixed_steps"] for each in stats))
    marked = {
        label: re.findall(r"<td class=best>(\d+)<", row)
        for label in ("of mixed shapes", "repeated")
        for row in table
        if f">{label}<" in row
    }
    assert marked == {"of mixed shapes": [fewest], "repeated": ["0", "0"]}
    (problem,) = re.findall(r'<p class="problem"><strong>none</strong>(.*?)</p>', report.text)
    assert unescape(problem).startswith(
        " cannot be met: valid_ids: must be a valid name, got '</script><script>alert(1)"
    )


def test_what_would_surprise_stands_with_its_plan(report: Report) -> None:
    plans = report.text.split('<article class="plan">')[1:]
    told = [each.get("warnings", []) for each in report.answer["previews"]]
    assert [len(each) for each in told] == [0, 0, 1, 0]
    for plan, warnings in zip(plans, told, strict=True):
        rows = re.findall(r"<li><strong>Warning:</strong> (.*?)<br>(.*?)</li>", plan)
        assert [tuple(map(unescape, row)) for row in rows] == [
            (each["message"], each["remedy"]) for each in warnings
        ]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("width", "name"), [(1280, "<img src=x o…r=alert(1)>"), (390, "<img sr…rt(1)>")])
def test_charts_are_drawn_at_any_width(page: Page, report: Report, width: int, name: str) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    names = page.locator("#comparison .yaxislayer-above").first
    expect(names).to_have_text(f"novelaipad{name}none")
    for index, each in enumerate(report.answer["previews"][:3]):
        buckets = each["stats"]["buckets"]
        served = [bucket for bucket in buckets if bucket["num_images"] or bucket["num_batches"]]
        # images above, batches below
        expect(page.locator(f"#plan-{index} .bars .point")).to_have_count(2 * len(served))
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.exhaustive
def test_its_commands_open_the_run(page: Page, server: ServerProcess) -> None:
    commands = page.locator("pre").all_inner_texts()
    map_put, pad = commands[0], next(text for text in commands if "run put pad " in text)
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "BUCKETLINE_URL": server.url,
        "BUCKETLINE_TOKEN": TOKENS["BUCKETLINE_OPERATOR_TOKEN"],
    }
    subprocess.run(["bash", "-euc", f"{map_put}\n{pad}"], env=environ, check=True, capture_output=True)
    api = server.api(TOKENS["BUCKETLINE_OPERATOR_TOKEN"])
    spec = api.get("/v1/runs/pad")["spec"]
    assert (spec["map"], spec["tails"], spec["lockstep"]) == ("coco-5k", "pad", 2)
    api.ask("DELETE", "/v1/runs/pad", 204)
    api.ask("DELETE", "/v1/maps/coco-5k", 204)


def colours(page: Page) -> tuple[str, str]:
    """Of the ground, and of the words of a chart."""
    title = page.locator("#plan-0 .ytitle").first
    expect(title).to_be_visible()
    return (
        page.evaluate("getComputedStyle(document.body).backgroundColor"),
        title.evaluate("element => getComputedStyle(element).fill"),
    )


@pytest.mark.exhaustive
def test_it_is_light_or_dark_as_the_reader_has_it(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    light = colours(page)
    page.emulate_media(color_scheme="dark")
    expect(page.locator("#plan-0 .ytitle").first).not_to_have_css("fill", light[1])
    dark = colours(page)
    assert (light[0] != dark[0], light[1] != dark[1]) == (True, True)


@pytest.mark.exhaustive
def test_it_prints_all_and_dark_on_white(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    light = colours(page)
    page.emulate_media(color_scheme="dark")
    expect(page.locator("#plan-0 .ytitle").first).not_to_have_css("fill", light[1])
    on_screen = colours(page)
    page.evaluate(
        """() => addEventListener("beforeprint", () => {
          globalThis.closed = document.querySelectorAll("details:not([open])").length;
          globalThis.fill = getComputedStyle(document.querySelector("#plan-0 .ytitle")).fill;
        })"""
    )
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    assert page.evaluate("closed") == 0
    assert page.evaluate("fill") == light[1]
    expect(page.locator("details[open]")).to_have_count(0)
    expect(page.locator("#plan-0 .ytitle").first).to_have_css("fill", on_screen[1])


@pytest.mark.exhaustive
def test_the_numbers_need_no_script(chromium: Browser, report: Report) -> None:
    with opened(chromium, report, java_script_enabled=False) as page:
        expect(page.get_by_role("row", name=re.compile("crop loss, mean"))).to_be_visible()


def test_plotly_is_in_it_once_and_nothing_else_is_asked(report: Report) -> None:
    assert report.text.count("* plotly.js v") == 1
    assert not re.search(
        r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=""", report.text.split("* plotly.js v")[0]
    )
    assert "default-src 'none'" in report.text
