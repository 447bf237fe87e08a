"""Charts of a plan's costs: the response of ``GET /v1/runs/{run}/stats``, or the ``stats`` of a preview."""

from __future__ import annotations

import plotly.graph_objects as go

from bucketline_service.charts.bucket_axis import MANY, Json, by_bucket, columns, labels
from bucketline_service.charts.style import Theme, dress, palette

_WORDS = {
    "valid_ids": "not in valid_ids",
    "max_ar_error": "over max_ar_error",
    "max_crop_loss": "over max_crop_loss",
    "min_size": "under min_size",
}


def buckets(stats: Json, *, theme: Theme = "light") -> go.Figure:
    """Images and batches per epoch of each bucket."""
    rows = stats["buckets"]
    names = labels(rows)
    colours = palette(theme)
    figure = go.Figure(
        [
            columns(
                names,
                [bucket["num_images"] for bucket in rows],
                colours.series[0],
                name="images",
                hovertemplate="%{x}<br>%{y:,} images<extra></extra>",
            ),
            columns(
                names,
                [bucket["num_batches"] for bucket in rows],
                colours.series[1],
                customdata=[bucket["batch_size"] for bucket in rows],
                name="batches",
                yaxis="y2",
                hovertemplate="%{x}<br>%{y:,} batches of %{customdata:,}<extra></extra>",
            ),
        ],
        go.Layout(
            xaxis=by_bucket(anchor="y2"),
            yaxis={"title": {"text": "images"}, "domain": [0.46, 1]},
            yaxis2={"title": {"text": "batches"}, "domain": [0, 0.38]},
            showlegend=False,
        ),
    )
    return dress(figure, theme)


def lengths(stats: Json, *, theme: Theme = "light") -> go.Figure:
    """Images and slots per epoch of each length, of a plan of packs."""
    rows = _of_packs(stats, "lengths")[::-1]
    names = [f"{each['length']:,}" for each in rows]
    colours = palette(theme)
    figure = go.Figure(
        [
            go.Bar(
                x=names,
                y=[each["num_images"] for each in rows],
                name="images",
                marker_color=colours.series[0],
                customdata=[each["num_served"] for each in rows],
                hovertemplate="%{y:,} images of %{x} tokens, %{customdata:,.0f} of them served<extra></extra>",
            ),
            go.Bar(
                x=names,
                y=[each["num_slots"] for each in rows],
                name="slots",
                marker_color=colours.series[1],
                hovertemplate="%{y:,} slots of %{x} tokens<extra></extra>",
            ),
        ],
        go.Layout(
            xaxis=by_bucket(title={"text": "tokens"}),
            yaxis={"title": {"text": "per epoch"}, "rangemode": "tozero"},
            barmode="group",
        ),
    )
    return dress(figure, theme)


def pack_kinds(stats: Json, *, theme: Theme = "light") -> go.Figure:
    """How many packs of each kind an epoch has, and of slots of which lengths a pack consists."""
    rows = _of_packs(stats, "kinds")
    names = [str(each["kind"]) for each in rows]
    colours = palette(theme)
    packs = go.Bar(
        x=names,
        y=[each["num_packs"] for each in rows],
        name="packs",
        marker_color=colours.series[0],
        customdata=[[each["num_images"], each["num_tokens"]] for each in rows],
        hovertemplate="kind %{x}: %{y:,} packs of %{customdata[0]:,} images, %{customdata[1]:,} tokens"
        "<extra></extra>",
    )
    slots = [{slot["length"]: slot["num_slots"] for slot in each["slots"]} for each in rows]
    of_lengths = [each["length"] for each in _of_packs(stats, "lengths")]
    tokens = [
        go.Bar(
            x=names,
            y=[length * each.get(length, 0) for each in slots],
            name=f"{length:,} tokens",
            yaxis="y2",
            # the longest stand out most
            marker={
                "color": colours.sequential[-1 - at * len(colours.sequential) // len(of_lengths)],
                "line": {"color": colours.surface, "width": 0.5},
            },
            customdata=[each.get(length, 0) for each in slots],
            hovertemplate=f"kind %{{x}}: %{{customdata:,}} slots of {length:,} tokens<extra></extra>",
        )
        for at, length in enumerate(of_lengths)
    ]
    figure = go.Figure(
        [packs, *tokens],
        go.Layout(
            xaxis=by_bucket(anchor="y2", title={"text": "kind"}),
            yaxis={"title": {"text": "packs per epoch"}, "domain": [0.56, 1]},
            yaxis2={"title": {"text": "tokens of a pack"}, "domain": [0, 0.48]},
            barmode="stack",
            showlegend=False,
        ),
    )
    return dress(figure, theme)


def _of_packs(stats: Json, name: str) -> list[Json]:
    """Nothing of a plan of buckets, as a plan of packs has no buckets."""
    packs = stats.get("packs")
    return list(packs[name]) if packs else []


def plan(stats: Json, *, theme: Theme = "light") -> go.Figure:
    """Of what a plan consists: ``buckets``, or ``lengths`` of packs."""
    return (lengths if stats.get("packs") else buckets)(stats, theme=theme)


def crop_loss(stats: Json, *, theme: Theme = "light") -> go.Figure:
    """The share of each image that is cropped away, from the smallest to the largest."""
    return _spread(stats["crop_loss"], "cropped away", ".1%", theme)


def aspect_error(stats: Json, *, theme: Theme = "light") -> go.Figure:
    """Difference between each image's aspect ratio and that of its bucket, or of its size in a pack, from the smallest
    to the largest."""
    return _spread(stats["aspect_error"], "aspect error", ".3f", theme)


def _spread(spread: Json, what: str, digits: str, theme: Theme) -> go.Figure:
    # older coordinators return only these three quantiles
    known = spread.get("quantiles")
    at = [index / (len(known) - 1) for index in range(len(known))] if known else [0.5, 0.95, 1.0]
    values = known or [spread["median"], spread["p95"], spread["max"]]
    colours = palette(theme)
    marks = [("median", 0.5, spread["median"]), ("p95", 0.95, spread["p95"]), ("max", 1.0, spread["max"])]
    figure = go.Figure(
        [
            go.Scatter(
                x=at,
                y=values,
                mode="lines",
                line={"color": colours.series[0], "width": 2},
                fill="tozeroy",
                name=what,
                hovertemplate=f"%{{x:.0%}} of images: at most %{{y:{digits}}}<extra></extra>",
            ),
            go.Scatter(
                x=[share for _, share, _ in marks],
                y=[value for _, _, value in marks],
                mode="markers+text",
                text=[f"{name} {format(value, digits)}" for name, _, value in marks],
                textposition=["top left", "middle left", "middle left"],
                marker={"color": colours.series[1], "size": 8},
                cliponaxis=False,
                hovertemplate="%{text}<extra></extra>",
            ),
        ],
        go.Layout(
            xaxis={
                "tickformat": ".0%",
                "range": [0, 1],
                "tickvals": [0, 0.25, 0.5, 0.75, 1],
                "ticklabeloverflow": "allow",
                "title": {"text": "share of images"},
            },
            yaxis={"tickformat": digits, "rangemode": "tozero", "title": {"text": what}},
            margin={"l": 8, "r": 22, "t": 12, "b": 8},
            showlegend=False,
        ),
    )
    return dress(figure, theme)


def bucket_crop_loss(stats: Json, *, theme: Theme = "light") -> go.Figure:
    """Crop loss of each bucket: the mean, the maximum, and the mean of what an epoch serves."""
    rows = stats["buckets"]
    names = labels(rows)
    colours = palette(theme)
    series = [
        ("mean", [bucket["crop_loss"] and bucket["crop_loss"]["mean"] for bucket in rows]),
        ("as served", [bucket["crop_loss_served"] for bucket in rows]),
        ("worst image", [bucket["crop_loss"] and bucket["crop_loss"]["max"] for bucket in rows]),
    ]
    figure = go.Figure([_loss(names, name, values, colours.series) for name, values in series])
    figure.update_layout(
        xaxis=by_bucket(),
        yaxis={"tickformat": ".0%", "rangemode": "tozero", "title": {"text": "cropped away"}},
    )
    return dress(figure, theme)


def _loss(
    names: list[str], name: str, values: list[float | None], series: tuple[str, ...]
) -> go.Bar | go.Scatter:
    hover = f"%{{x}}<br>{name}: %{{y:.1%}}<extra></extra>"
    if name == "mean":
        return columns(names, values, series[0], name=name, hovertemplate=hover)
    symbol, colour = ("diamond", series[2]) if name == "as served" else ("line-ew-open", series[1])
    if len(names) > MANY:
        line = {"width": 1, "color": colour}
        return go.Scatter(x=names, y=values, name=name, mode="lines", line=line, hovertemplate=hover)
    marker = {"symbol": symbol, "color": colour, "size": 9, "line": {"width": 2, "color": colour}}
    return go.Scatter(x=names, y=values, name=name, mode="markers", marker=marker, hovertemplate=hover)


def pruned(stats: Json, *, theme: Theme = "light") -> go.Figure:
    """Images in no bucket, by reason."""
    colours = palette(theme)
    rows = sorted(stats["pruned"].items(), key=lambda item: (item[1], item[0]))
    total = max(stats["num_images"], 1)
    most = rows[-1][1] if rows else 0
    figure = go.Figure(
        go.Bar(
            y=[_WORDS.get(reason, reason) for reason, _ in rows],
            x=[num for _, num in rows],
            text=[f"{num:,} ({num / total:.1%})" if num else "none" for _, num in rows],
            textposition="outside",
            cliponaxis=False,
            orientation="h",
            marker_color=colours.series[1],
            hovertemplate="%{y}: %{x:,} images<extra></extra>",
        ),
        go.Layout(
            xaxis={
                "title": {"text": "images"},
                "range": [0, most * 1.3 or 1],
                "showticklabels": most > 0,
                "showgrid": most > 0,
            },
            yaxis={"type": "category", "ticks": "", "showgrid": False},
        ),
    )
    return dress(figure, theme)


def tails(stats: Json, *, theme: Theme = "light") -> go.Figure:
    """Remainders: images that fill no batch, or no unit, of their bucket, and what happens to them in an epoch."""
    rows = stats["buckets"]
    names = labels(rows)
    colours = palette(theme)
    fates = [
        ("served in a neighbouring bucket", colours.series[0], [_spilled(bucket["tail"]) for bucket in rows]),
        ("left out this epoch", colours.series[1], [_left_out(bucket["tail"]) for bucket in rows]),
        ("never served", colours.bad, [bucket["tail"]["never_served"] for bucket in rows]),
        ("repeated to fill a batch", colours.series[3], [bucket["tail"]["repeated"] for bucket in rows]),
    ]
    figure = go.Figure(
        [
            columns(
                names, values, colour, name=name, hovertemplate=f"%{{x}}<br>%{{y:,}} {name}<extra></extra>"
            )
            for name, colour, values in fates
        ],
        go.Layout(
            xaxis=by_bucket(), yaxis={"title": {"text": "images"}, "rangemode": "tozero"}, barmode="stack"
        ),
    )
    return dress(figure, theme)


def _spilled(tail: Json) -> int:
    return sum(int(each["num_images"]) for each in tail["spilled"])


def _left_out(tail: Json) -> int:
    return max(int(tail["left_out"]) - int(tail["never_served"]), 0)
