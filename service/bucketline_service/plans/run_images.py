"""The maps of a run as the planner's images, and the way from rows back to ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid, NotFound
from bucketline_service.maps import ResolutionMap
from bucketline_service.planning.distinct_sizes import distinct_sizes
from bucketline_service.planning.images import Images, Part

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sources:
    """``names`` and ``maps`` in the order of the spec; rows are numbered across all maps, in this order."""

    names: list[str]
    maps: list[ResolutionMap]

    @cached_property
    def images(self) -> Images:
        """Raises ``Invalid`` if there are too many."""
        return Images([part_of(image_map) for image_map in self.maps])

    @property
    def are_several(self) -> bool:
        return len(self.maps) > 1

    @property
    def int_ids(self) -> NDArray[np.int64] | None:
        """int64 of every row, if there is one map and its ids are integers."""
        only = self.maps[0]
        return None if self.are_several or only.id_kind != "int64" else only.int_ids

    def ids(self, rows: Rows) -> list[int] | list[str] | list[int | str]:
        """Ids of rows; with several maps they are unique only together with ``map_names``."""
        if not self.are_several:
            return self.maps[0].ids(rows)
        parts, inside = self.images.place(rows)
        found: list[int | str] = [0] * len(rows)
        for index in np.unique(parts).tolist():
            at = np.flatnonzero(parts == index)
            for place, image_id in zip(at.tolist(), self.maps[index].ids(inside[at]), strict=True):
                found[place] = image_id
        return found

    def map_names(self, rows: Rows) -> list[str]:
        """The map of each row."""
        return [self.names[index] for index in self.images.place(rows)[0].tolist()]

    def find(self, image_id: int | str, name: str | None) -> int:
        """The row of an image. Raises ``NotFound``, and ``Invalid`` if ``name`` must say which map is meant."""
        if name is not None and name not in self.names:
            raise Invalid(
                "map", f"must be a map of this run, got {name!r}", f"It has {', '.join(self.names)}"
            )
        found = []
        first = 0
        for own, image_map in zip(self.names, self.maps, strict=True):
            row = image_map.find(image_id) if name in (None, own) else None
            if row is not None:
                found.append((own, first + row))
            first += image_map.num_images
        if not found:
            where = ", ".join(repr(own) for own in ([name] if name else self.names))
            raise NotFound(f"map {where} has no image {image_id!r}")
        if len(found) > 1:
            names = " and ".join(own for own, _ in found)
            raise Invalid("map", f"{names} both have an image {image_id!r}", "Say which one in map")
        return found[0][1]

    def rows_of(self, valid: Sequence[Valid], are_listed: bool) -> Rows | None:
        """The rows that the ``valid_ids`` of each map select, ascending; None if that is all of them. ``are_listed``:
        whether ``valid_ids`` is given inside ``maps``. Raises ``Invalid``."""
        if all(each is None for each in valid):
            return None
        found = []
        first = 0
        for index, (image_map, each) in enumerate(zip(self.maps, valid, strict=True)):
            field = f"maps.{index}.valid_ids" if are_listed else "valid_ids"
            ids = each() if callable(each) else each
            rows = np.arange(image_map.num_images) if ids is None else rows_of(image_map, ids, field)
            found.append(first + rows)
            first += image_map.num_images
        return np.concatenate(found)

    def distinct(self, rows: Rows | None = None, *, with_frames: bool) -> list[Part]:
        """Each map's distinct sizes, of ``rows`` or of all rows. ``with_frames``: clips of different lengths count as
        different sizes; otherwise lengths are ignored."""
        of = [part_of(image_map) for image_map in self.maps]
        if not with_frames:
            of = [replace(part, num_frames=None) for part in of]
        if rows is None:
            return [distinct_sizes(part) for part in of]
        parts, inside = self.images.place(rows)
        return [distinct_sizes(part, inside[parts == index]) for index, part in enumerate(of)]


Valid = list[int] | list[str] | Callable[[], list[int] | list[str]] | None


def part_of(image_map: ResolutionMap) -> Part:
    return Part(
        image_map.widths,
        image_map.heights,
        image_map.repeat_codes,
        image_map.repeat_values,
        image_map.num_frames,
    )


def rows_of(image_map: ResolutionMap, ids: list[int] | list[str], field: str = "valid_ids") -> Rows:
    """The rows of ``valid_ids``, ascending, without duplicates. Raises ``Invalid`` if the map lacks one of them."""
    try:
        return np.unique(image_map.find_many(ids))
    except Invalid as error:
        raise Invalid(field, error.detail.removeprefix("ids: ")) from error
