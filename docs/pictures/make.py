"""Draw every picture: ``make pictures``, or ``python -m docs.pictures.make``. The same code draws the same bytes.

``--png FOLDER`` draws them there as PNG, to look at.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from docs.pictures import comparison, guides, laws, packs, tape
from docs.pictures.style import STYLE
from matplotlib.figure import Figure

HERE = Path(__file__).parent
PICTURES: dict[str, Callable[[], Figure]] = {
    "cropped": comparison.cropped,
    "waiting": comparison.waiting,
    "shifted": comparison.shifted,
    "packs": packs.packs,
    "line": tape.line,
    "tails": tape.tails,
    "stream": tape.stream,
    "urn": laws.two_laws,
    "rounds": laws.rounds,
    "guides": guides.two_ladders,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--png", type=Path, metavar="FOLDER", help="PNG, into this folder")
    folder = parser.parse_args().png
    for name, draw in PICTURES.items():
        with mpl.rc_context({**mpl.rcParamsDefault, **STYLE}):
            if folder is None:
                draw().savefig(HERE / f"{name}.svg", metadata={"Date": None, "Creator": None})
            else:
                draw().savefig(folder / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
