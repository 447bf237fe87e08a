"""What a reader of a file has decided for its owner, in a sentence each: told where a map is put."""

from __future__ import annotations

from bucketline_service.maps.column_names import SIZE_TIERS, ResolvedColumns
from bucketline_service.maps.optional_columns import OPTIONAL


def notes(names: ResolvedColumns) -> list[str]:
    """Of a file that was read by these columns. Empty where nothing could have been meant otherwise."""
    found = []
    repeats = names.optional.get("num_repeats", "").strip()
    if repeats in OPTIONAL["num_repeats"].offsets:
        found.append(
            f"column {repeats!r} is read as further times, as SimpleTuner counts: 0 is once, 1 is twice. If it counts "
            "all times, as kohya's num_repeats does (1 is once), rename it num_repeats"
        )
    width, height = names.width.strip(), names.height.strip()
    if (width, height) in SIZE_TIERS[1]:
        found.append(
            f"sizes are those of the originals, from {width} and {height}. If the images were resized when they were "
            "downloaded, scan them"
        )
    return found
