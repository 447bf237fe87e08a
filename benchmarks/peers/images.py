"""The images of the benchmark, the same for every peer, written to files once for each number of images."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

_CHUNK = 1 << 22


def write(folder: Path, num: int) -> None:
    """COCO's 5,000 validation images drawn with replacement, each side up to 16 pixels longer or shorter.

    ``widths.npy`` and ``heights.npy``, uint32[num].
    """
    found = find_spec("bucketline_service")
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin).parent / "data" / "coco-5k.csv"
    coco = np.loadtxt(path, dtype=np.int64, delimiter=",", skiprows=1, usecols=(1, 2))
    rng = np.random.default_rng(0)
    files = [
        np.lib.format.open_memmap(folder / f"{side}.npy", mode="w+", dtype=np.uint32, shape=(num,))
        for side in ("widths", "heights")
    ]
    for begin in range(0, num, _CHUNK):
        part = slice(begin, min(begin + _CHUNK, num))
        drawn = rng.integers(0, len(coco), part.stop - begin)
        for axis, file in enumerate(files):
            side = coco[drawn, axis] + rng.integers(-16, 17, part.stop - begin)
            file[part] = np.maximum(side, 16)
    for file in files:
        file.flush()
