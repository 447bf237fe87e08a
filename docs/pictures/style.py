"""What the pictures have in common: colours, matplotlib's settings, and the shapes that they are drawn of."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as MplPath

Cell = tuple[float, float, str]
"""x, y and colour."""
# Paul Tol's "muted": nine colours that colour-blind eyes tell apart. One for each bucket, in order of aspect.
BUCKETS = (
    *("#332288", "#88CCEE", "#44AA99", "#117733", "#999933"),
    *("#DDCC77", "#CC6677", "#882255", "#AA4499"),
)
# Okabe and Ito's, for curves
BLUE, ORANGE, GREEN, VERMILION, BLACK, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#000000", "#777777"
STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.8,
    "svg.hashsalt": "bucketline",  # ids in the file are the same each time
    "svg.fonttype": "path",  # looks the same whatever fonts a reader has
}


def bare(axes: Axes) -> Axes:
    axes.set_axis_off()
    return axes


def draw_cells(axes: Axes, cells: list[Cell], height: float = 1) -> None:
    """Each a small rectangle in its colour, with a white edge."""
    for colour, path in _by_colour(cells, height):
        axes.add_patch(PathPatch(path, facecolor=colour, edgecolor="white", lw=0.5))


def draw_left_out(axes: Axes, cells: list[Cell], height: float = 1) -> None:
    """Each hatched in its colour, over what was there."""
    for colour, path in _by_colour(cells, height):
        axes.add_patch(PathPatch(path, facecolor="white", edgecolor=colour, hatch="//////", lw=0.5, zorder=2))


def _by_colour(cells: list[Cell], height: float) -> list[tuple[str, MplPath]]:
    """One path for all of a colour: a tenth of the bytes of a file with a path for each."""
    shapes: dict[str, list[MplPath]] = {}
    for x, y, colour in cells:
        corners = [(x, y), (x + 1, y), (x + 1, y + height), (x, y + height), (x, y)]
        shapes.setdefault(colour, []).append(MplPath(corners, closed=True))
    return [(colour, MplPath.make_compound_path(*paths)) for colour, paths in shapes.items()]


def draw_frame(axes: Axes, x: float, y: float, width: float, height: float) -> None:
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=BLACK, lw=1.3, zorder=3))


def ink_on(colour: str) -> str:
    """Black or white, whichever is read better on a colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else "white"
