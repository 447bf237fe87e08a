"""Charts from the API and in a notebook: each shows the numbers of the answer that it is drawn from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from bucketline_service import charts
from bucketline_service.charts.style import PALETTES, Theme
from tests.checked import Api
from tests.server import COCO, Replica

OF_STATS = ("buckets", "crop_loss", "aspect_error", "bucket_crop_loss", "pruned", "tails")
OF_MAP = ("sizes", "aspects")
SPEC = {"map": "coco", "world_size": 4, "batch_size": 8, "assign": {"max_crop_loss": 0.08}}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("figures")
    replica = Replica(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    replica.api.put_csv("coco", COCO.read_bytes(), 201)
    replica.api.put("/v1/runs/run", SPEC, 201)
    yield replica.api
    replica.close()


@pytest.fixture(scope="module")
def stats(api: Api) -> dict[str, Any]:
    told: dict[str, Any] = api.get("/v1/runs/run/stats")
    return told


def luminance(colour: str) -> float:
    """Of WCAG, of ``#rrggbb``."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_stand_out_from_their_ground(theme: Theme) -> None:
    """WCAG's 3 for what is drawn and 4.5 for what is written."""
    colours = PALETTES[theme]
    for drawn in (*colours.series, colours.good, colours.warning, colours.bad):
        assert contrast(drawn, colours.surface) >= 3, drawn
    for written in (colours.ink, colours.muted):
        assert contrast(written, colours.surface) >= 4.5, written


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.exhaustive)])
def test_every_figure_is_served_as_it_is_made(api: Api, stats: dict[str, Any], theme: Theme) -> None:
    for of, names, answer in (
        ("runs/run", OF_STATS, stats),
        ("runs/run", ("ranks",), api.get("/v1/runs/run/ranks")),
        ("maps/coco", OF_MAP, api.get("/v1/maps/coco")),
    ):
        for name in names:
            served = api.get(f"/v1/{of}/figures/{name}", theme=theme)
            made = getattr(charts, name)(answer, theme=theme)
            assert go.Figure(served).to_dict() == made.to_dict(), name
            assert made.layout.template.layout.font.color == PALETTES[theme].ink
            assert made.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"


def test_buckets_have_their_images_and_batches(stats: dict[str, Any]) -> None:
    images, batches = charts.buckets(stats).data
    assert list(images.y) == [bucket["num_images"] for bucket in stats["buckets"]]
    assert list(batches.y) == [bucket["num_batches"] for bucket in stats["buckets"]]
    assert len(set(images.x)) == len(stats["buckets"])
    assert "512\u00d7768 · 0.67" in images.x


@pytest.mark.parametrize(
    ("plan", "does"),
    [
        ({}, ["left_out"]),
        ({"steps": "same_shape"}, ["spilled", "left_out"]),
        ({"tails": "pad"}, ["repeated"]),
        ({"steps": "same_shape", "tails": "drop"}, ["left_out", "never_served"]),
    ],
)
def test_tails_account_for_every_image_that_fills_no_unit(
    api: Api, plan: dict[str, Any], does: list[str]
) -> None:
    api.put("/v1/runs/tails", {**SPEC, **plan}, 201)
    stats = api.get("/v1/runs/tails/stats")
    api.ask("DELETE", "/v1/runs/tails", 204)
    spilled, left_out, never_served, repeated = charts.tails(stats).data
    assert sum(spilled.y) == sum(
        each["num_images"] for bucket in stats["buckets"] for each in bucket["tail"]["spilled"]
    )
    assert sum(left_out.y) + sum(never_served.y) == stats["dropped"]
    assert sum(never_served.y) == stats["never_served"]
    assert sum(repeated.y) == stats["repeated"]
    bars = {"spilled": spilled, "left_out": left_out, "never_served": never_served, "repeated": repeated}
    assert set(does) <= {name for name, bar in bars.items() if sum(bar.y)}


def test_distributions_rise_from_the_least_to_the_most(stats: dict[str, Any]) -> None:
    for name in ("crop_loss", "aspect_error"):
        curve, marks = getattr(charts, name)(stats).data
        assert list(curve.y) == sorted(curve.y)
        assert (curve.x[0], curve.x[-1], curve.y[-1]) == (0, 1, stats[name]["max"])
        assert list(marks.y) == [stats[name][mark] for mark in ("median", "p95", "max")]


def test_a_plan_of_an_older_release_has_no_quantiles(stats: dict[str, Any]) -> None:
    older = {**stats, "crop_loss": {**stats["crop_loss"], "quantiles": None}}
    del older["crop_loss"]["quantiles"]
    assert list(charts.crop_loss(older).data[0].y) == list(charts.crop_loss(stats).data[1].y)


def test_buckets_of_one_size_are_told_apart(api: Api) -> None:
    """The catch-all has the size of a bucket; as one category their bars would stand on each other."""
    api.put("/v1/runs/catch", {**SPEC, "tails": "catch_all"}, 201)
    stats = api.get("/v1/runs/catch/stats")
    sizes = [(bucket["width"], bucket["height"]) for bucket in stats["buckets"]]
    assert len(set(sizes)) < len(sizes)
    assert len(set(charts.buckets(stats).data[0].x)) == len(sizes)


def test_thousands_of_buckets_are_one_outline(stats: dict[str, Any]) -> None:
    many = {
        **stats,
        "buckets": [{**stats["buckets"][0], "bucket": at, "width": 64 + at} for at in range(4096)],
    }
    for name in ("buckets", "bucket_crop_loss", "tails"):
        traces = getattr(charts, name)(many).data
        assert {trace.type for trace in traces} == {"scatter"}
        assert {trace.mode for trace in traces} == {"lines"}
        assert len(traces[0].x) == 4096


def test_ranks_stand_by_lag(api: Api) -> None:
    lags = [3, 0, 7, 0, 1]
    told = {"ranks": [{"rank": rank, "steps_behind": lag} for rank, lag in enumerate(lags)]}
    (heat,) = charts.ranks(told).data
    cells = [rank for row in heat.customdata for rank in row]
    assert cells == [2, 0, 4, 1, 3]
    assert [lag for row in heat.z for lag in row] == [lags[rank] for rank in cells]


def test_sizes_are_width_by_height(api: Api) -> None:
    told = api.get("/v1/maps/coco")
    (heat,) = charts.sizes(told).data
    assert sum(map(sum, heat.customdata)) == told["num_images"]
    assert (len(heat.x), len(heat.y)) == (len(heat.customdata[0]) + 1, len(heat.customdata) + 1)
    tall = sum(map(sum, told["histogram"]["size"]["num_images"][6:7]))
    at = list(heat.x).index(told["histogram"]["size"]["edges_px"][6])
    assert sum(row[at] for row in heat.customdata) == tall > 0


def test_charts_follow_the_run(api: Api) -> None:
    """The cache belongs to this plan and these ranks: a run that is put again under its name has other charts."""
    api.put("/v1/runs/again", {**SPEC, "batch_size": 4}, 201)
    before = api.get("/v1/runs/again/figures/buckets")
    assert api.get("/v1/runs/again/figures/buckets") == before
    api.session("again", "s", world_size=7, resume="start")
    other = api.get("/v1/runs/again/figures/buckets")
    told = [bucket["num_batches"] for bucket in api.get("/v1/runs/again/stats")["buckets"]]
    assert other["data"][1]["y"] == told != before["data"][1]["y"]
    api.ask("DELETE", "/v1/runs/again", 204)
    api.get("/v1/runs/again/figures/buckets", 404)


def test_what_there_is_no_figure_of(api: Api) -> None:
    assert api.get("/v1/runs/run/figures/pie", 422)["field"] == "figure"
    assert api.get("/v1/runs/run/figures/buckets", 422, theme="pink")["field"] == "theme"
    assert api.get("/v1/maps/none/figures/sizes", 404)["code"] == "not_found"
    with pytest.raises(ValueError, match="light or dark"):
        charts.aspects(api.get("/v1/maps/coco"), theme="pink")  # type: ignore[arg-type]


def test_a_notebook_needs_plotly_alone() -> None:
    code = (
        "import sys; import bucketline_service.charts; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules} "
        "& {'fastapi', 'httpx', 'numpy', 'orjson', 'pydantic', 'pyarrow'}))"
    )
    root = Path(charts.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.exhaustive
def test_a_start_loads_neither_plotly_nor_arrows_functions() -> None:
    heavy = {"plotly", "pyarrow.compute"}
    code = f"import sys; import bucketline_service.server; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
