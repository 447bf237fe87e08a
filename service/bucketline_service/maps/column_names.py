"""Which columns of a file hold the id and the size, and which the optional rest.

Names that the caller gives win. Otherwise they are found by the names below, tier by tier: the first tier of
which the file has anything decides, and two candidates in one tier are an error that names both, never a
guess. Names match exactly, but for spaces around them. An optional column that is called by an empty name is
left out, though the file has it."""

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
    # The image as it is stored, which is what the loader reads: ours, most of Hugging Face, and what img2dataset notes
    # after its resize. ``bucketline scan`` takes the same of img2dataset's tables.
    (("width", "height"), ("image_width", "image_height")),
    # The image as it was found on the web, before any download: DataComp, and img2dataset beside the other; LAION
    (("original_width", "original_height"), ("WIDTH", "HEIGHT")),
)

OPTIONAL_NAMES: dict[str, tuple[str, ...]] = {
    "orientation": ("orientation", "exif_orientation"),
    # kohya's; SimpleTuner's, which counts the times after the first
    "num_repeats": ("num_repeats", "repeats"),
    "num_frames": ("num_frames", "frames"),
}


class RequestedColumns(NamedTuple):
    """Column names as the caller gives them; None: find it. The size's two come together or not at all. An empty name
    of one of the last three leaves that column out. ``skip_missing_sizes``: leave out rows without a width or height,
    and do not refuse the file for them."""

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
    """Column names as they stand in the file. ``optional``: of the optional columns that it has, by kind."""

    id: str
    width: str
    height: str
    optional: Mapping[str, str] = field(default_factory=dict)

    def all(self) -> list[str]:
        return [self.id, self.width, self.height, *self.optional.values()]


def resolve(columns: RequestedColumns, available: Iterable[str]) -> ResolvedColumns:
    """The names of the columns in a file that has ``available``; ``Invalid`` names what there is."""
    present = _Present(available)
    if (columns.width is None) != (columns.height is None):
        given = "width" if columns.height is None else "height"
        raise Invalid(
            "columns", f"only {given} is named", "Give both width_column and height_column, or neither"
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
        raise Invalid("columns", f"id, width and height are {shown}", "Name three different columns")
    twice = [name for name, count in Counter(names.all()).items() if count > 1]
    if twice:
        kinds = {"id": names.id, "width": names.width, "height": names.height, **names.optional}
        both = " and ".join(kind for kind, name in kinds.items() if name == twice[0])
        raise Invalid("columns", f"{both} are one column, {_list(twice[:1])}", "Name different columns")


class _Present:
    """The columns that a file has."""

    def __init__(self, available: Iterable[str]) -> None:
        self.raw = list(available)
        self.counts = Counter(name.strip() for name in self.raw)
        self.by_name = {name.strip(): name for name in self.raw} | {name: name for name in self.raw}

    def find(self, what: str, candidates: Sequence[str]) -> str:
        """The one candidate that the file has."""
        found = [name for name in candidates if name in self.by_name]
        if not found:
            raise self._missing(what, f"no column {_list(candidates)}")
        if len(found) > 1:
            raise Invalid(
                what,
                f"several columns could be the {what}: {_list(found)}",
                f"Name it with {what}_column"
                + (", or none with an empty one" if what in OPTIONAL_NAMES else ""),
                candidates=found,
            )
        self._check_single(found[0])
        return self.by_name[found[0]]

    def find_id(self) -> str:
        for tier in ID_TIERS:
            if any(name in self.by_name for name in tier):
                return self.find("id", tier)
        raise self._missing("id", f"no column {_list([name for tier in ID_TIERS for name in tier])}")

    def find_size(self) -> tuple[str, str]:
        for tier in SIZE_TIERS:
            found = [pair for pair in tier if all(name in self.by_name for name in pair)]
            if len(found) > 1:
                pairs = [" x ".join(pair) for pair in found]
                raise Invalid(
                    "width",
                    f"several columns could be the size: {_list(pairs)}",
                    "Name them with width_column and height_column",
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
            raise self._missing(partner, f"no column '{partner}' to go with '{lonely[0]}'")
        raise self._missing(
            "width",
            "no columns width and height, nor another known pair of names",
            ". Where the file has no sizes: bucketline scan FOLDER reads them from the images",
        )

    def find_optional(self, given: Mapping[str, str | None], taken: Set[str]) -> dict[str, str]:
        """By kind. What the caller has named is not found as anything else, nor what is ``taken``."""
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
            raise Invalid(name, f"there are {self.counts[name.strip()]} columns of this name", "Leave one")

    def _missing(self, what: str, detail: str, besides: str = "") -> Invalid:
        how = f"{what}_column" if what in OPTIONAL_NAMES else "id_column, width_column and height_column"
        return Invalid(
            what,
            f"{detail}; the columns are {_list(self.raw)}",
            f"Rename them, or name them with {how}{besides}",
            available=self.raw[:50],
        )


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name[:80]}'" for name in names[:20])
    return (shown or "none") + (f" and {len(names) - 20} more" if len(names) > 20 else "")
