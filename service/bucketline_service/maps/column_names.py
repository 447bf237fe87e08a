"""Which columns of a file are the id, the width, the height and the optional columns.

Names given by the caller come first. Other columns are found by the names below, tier by tier: the first tier of which
the file has any name decides, and two candidates in one tier are an error that lists both. Names match exactly, apart
from surrounding spaces. An optional column is ignored where the caller gives an empty name for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from bucketline_service.errors import Invalid

ID_TIERS: tuple[tuple[str, ...], ...] = (
    ("id",),  # ours; COYO, PD12M
    # img2dataset, webdataset, COCO exports on Hugging Face, its imagefolder, DataComp
    ("key", "__key__", "image_id", "file_name", "uid"),
    ("hash", "SAMPLE_ID"),  # the metadata of LAION-2B, of LAION-400M
    ("path", "filename"),
    ("url",),
)

SIZE_TIERS: tuple[tuple[tuple[str, str], ...], ...] = (
    # The image as stored, which is what the loader reads: ours, most of Hugging Face, and what img2dataset records
    # after its resize. ``bucketline scan`` reads the same columns of img2dataset's tables.
    (("width", "height"), ("image_width", "image_height")),
    # The image as found on the web, before any download: DataComp, img2dataset beside the other pair, LAION
    (("original_width", "original_height"), ("WIDTH", "HEIGHT")),
)

OPTIONAL_NAMES: dict[str, tuple[str, ...]] = {
    "orientation": ("orientation", "exif_orientation"),
    # kohya's; SimpleTuner's, which counts the times after the first
    "num_repeats": ("num_repeats", "repeats"),
    "num_frames": ("num_frames", "frames"),
}


class RequestedColumns(NamedTuple):
    """Column names as the caller gives them; None: find the column. ``width`` and ``height`` are given together or not
    at all. An empty name of an optional column ignores that column. ``skip_missing_sizes``: leave out rows without a
    width or height instead of refusing the file."""

    id: str | None = None
    width: str | None = None
    height: str | None = None
    orientation: str | None = None
    num_repeats: str | None = None
    num_frames: str | None = None
    skip_missing_sizes: bool = False

    @property
    def optional(self) -> dict[str, str | None]:
        return {kind: getattr(self, kind) for kind in OPTIONAL_NAMES}


FIND_ALL = RequestedColumns()


@dataclass(frozen=True)
class ResolvedColumns:
    """Column names as they are in the file. ``optional``: the name of each optional column that it has."""

    id: str
    width: str
    height: str
    optional: Mapping[str, str] = field(default_factory=dict)

    def all(self) -> list[str]:
        return [self.id, self.width, self.height, *self.optional.values()]


def resolve(columns: RequestedColumns, available: Iterable[str]) -> ResolvedColumns:
    """The columns of a file that has the names ``available``; ``Invalid`` lists what the file has."""
    present = _Present(available)
    if (columns.width is None) != (columns.height is None):
        given = "width" if columns.height is None else "height"
        raise Invalid(
            "columns",
            f"must name both width and height, got only {given}",
            "Give width_column and height_column, or neither",
        )
    image_id = present.find("id", [columns.id]) if columns.id is not None else present.find_id()
    if columns.width is None or columns.height is None:
        width, height = present.find_size()
    else:
        width, height = present.find("width", [columns.width]), present.find("height", [columns.height])
    names = ResolvedColumns(
        image_id, width, height, present.find_optional(columns.optional, {image_id, width, height})
    )
    _check_different(names)
    return names


def _check_different(names: ResolvedColumns) -> None:
    if len({names.id, names.width, names.height}) < 3:
        shown = _list([names.id, names.width, names.height])
        raise Invalid("columns", f"id, width and height must be different columns, got {shown}")
    twice = [name for name, count in Counter(names.all()).items() if count > 1]
    if twice:
        kinds = {"id": names.id, "width": names.width, "height": names.height, **names.optional}
        both = " and ".join(kind for kind, name in kinds.items() if name == twice[0])
        raise Invalid("columns", f"{both} must be different columns, got {_list(twice[:1])} for both")


class _Present:
    """The column names of a file."""

    def __init__(self, available: Iterable[str]) -> None:
        self.raw = list(available)
        self.counts = Counter(name.strip() for name in self.raw)
        self.by_name = {name.strip(): name for name in self.raw} | {name: name for name in self.raw}

    def find(self, what: str, candidates: Sequence[str]) -> str:
        """The one candidate that the file has."""
        found = [name for name in candidates if name in self.by_name]
        if not found:
            raise self._missing(what, f"the file has no column {_list(candidates)}")
        if len(found) > 1:
            raise Invalid(
                what,
                f"several columns could be the {what}: {_list(found)}",
                f"Choose one with {what}_column"
                + (", or none with an empty name" if what in OPTIONAL_NAMES else ""),
                candidates=found,
            )
        self._check_single(found[0])
        return self.by_name[found[0]]

    def find_id(self) -> str:
        for tier in ID_TIERS:
            if any(name in self.by_name for name in tier):
                return self.find("id", tier)
        known = _list([name for tier in ID_TIERS for name in tier])
        raise self._missing("id", f"the file has no id column, which may be called {known}")

    def find_size(self) -> tuple[str, str]:
        for tier in SIZE_TIERS:
            found = [pair for pair in tier if all(name in self.by_name for name in pair)]
            if len(found) > 1:
                pairs = [" x ".join(pair) for pair in found]
                raise Invalid(
                    "width",
                    f"several columns could be the size: {_list(pairs)}",
                    "Choose one pair with width_column and height_column",
                    candidates=pairs,
                )
            if found:
                return self.find("width", found[0][:1]), self.find("height", found[0][1:])
        known = [name for tier in SIZE_TIERS for pair in tier for name in pair]
        lonely = [name for name in known if name in self.by_name]
        if lonely:
            partner = next(
                pair[0] if lonely[0] == pair[1] else pair[1]
                for tier in SIZE_TIERS
                for pair in tier
                if lonely[0] in pair
            )
            raise self._missing(partner, f"the file has '{lonely[0]}' but no column '{partner}'")
        raise self._missing(
            "width",
            "the file has no columns width and height, nor another known pair of names",
            ". If the file has no sizes, bucketline scan FOLDER reads them from the images",
        )

    def find_optional(self, given: Mapping[str, str | None], taken: Set[str]) -> dict[str, str]:
        """Optional columns and their names in the file. A column that the caller has named, or that is ``taken``, is
        not found as another one."""
        taken = taken | {self.by_name[name] for name in given.values() if name in self.by_name}
        free = {name for name, raw in self.by_name.items() if raw not in taken}
        found = {}
        for kind, name in given.items():
            candidates = (
                [known for known in OPTIONAL_NAMES[kind] if known in free] if name is None else [name]
            )
            if candidates and candidates != [""]:
                found[kind] = self.find(kind, candidates)
        return found

    def _check_single(self, name: str) -> None:
        if self.counts[name.strip()] > 1:
            raise Invalid(
                name, f"the file has {self.counts[name.strip()]} columns with this name", "Keep one"
            )

    def _missing(self, what: str, detail: str, besides: str = "") -> Invalid:
        how = f"{what}_column" if what in OPTIONAL_NAMES else "id_column, width_column and height_column"
        return Invalid(
            what,
            f"{detail}; the columns are {_list(self.raw)}",
            f"Rename a column, or name it with {how}{besides}",
            available=self.raw[:50],
        )


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name[:80]}'" for name in names[:20])
    return (shown or "none") + (f" and {len(names) - 20} more" if len(names) > 20 else "")
