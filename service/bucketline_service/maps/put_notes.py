"""Notes for the user who puts a map: how ambiguous columns of the file were read."""

from __future__ import annotations

from bucketline_service.maps.column_names import SIZE_TIERS, ResolvedColumns
from bucketline_service.maps.optional_columns import OPTIONAL


def put_notes(names: ResolvedColumns) -> list[str]:
    """A sentence for each column, of those that were read, that could have meant something else."""
    found = []
    repeats = names.optional.get("num_repeats", "").strip()
    if repeats in OPTIONAL["num_repeats"].offsets:
        found.append(
            f"column {repeats!r} is read as additional repeats, as in SimpleTuner: 0 is once, 1 is twice. If it counts "
            "all repeats, as kohya's num_repeats does (1 is once), rename it to num_repeats"
        )
    width, height = names.width.strip(), names.height.strip()
    if (width, height) in SIZE_TIERS[1]:
        found.append(
            f"sizes are those of the original images, from {width} and {height}. If the images were resized when they "
            "were downloaded, scan the files instead"
        )
    return found
