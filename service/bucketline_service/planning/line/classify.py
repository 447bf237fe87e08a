"""The first pass over all rows: the image class of each; and ``Checkpoint``, the progress of both passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning import chunked_passes
from bucketline_service.planning.images import Images
from bucketline_service.planning.line.image_classes import MAX_GROUPS, PRUNED, Coded, ImageClassifier
from bucketline_service.planning.plan_spec import PlanSpec

Arrays = Mapping[str, NDArray[Any]]
_I64 = NDArray[np.int64]


class Checkpoint(Protocol):
    """The arrays of a plan that is being built, which may be files, and its progress, to resume from after a kill."""

    def array(self, name: str, num: int, dtype: type[np.generic]) -> NDArray[Any]:
        """An array of that length: the one of that name and length as it was left, if there is one."""

    def load(self) -> Arrays:
        """The state that was kept last; empty if none was."""

    def keep(self, state: Callable[[], Arrays]) -> None:
        """Called after each chunk: may keep the state, once all that was written to the arrays is safe."""

    def tell(self, share: float) -> None:
        """Receives the share of the work that is done, 0 to 1."""


class NoCheckpoint:
    """A ``Checkpoint`` that keeps nothing."""

    def array(self, name: str, num: int, dtype: type[np.generic]) -> NDArray[Any]:
        return np.empty(num, dtype=dtype)

    def load(self) -> Arrays:
        return {}

    def keep(self, state: Callable[[], Arrays]) -> None:
        pass

    def tell(self, share: float) -> None:
        pass


class Classification:
    """The first pass: the key of every row."""

    def __init__(
        self,
        spec: PlanSpec,
        images: Images,
        valid_rows: _I64 | None = None,
        checkpoint: Checkpoint | None = None,
        num_threads: int = 1,
    ) -> None:
        self.images = images
        self.classifier = ImageClassifier(spec, images)
        self.checkpoint = checkpoint or NoCheckpoint()
        self.num_threads = num_threads
        self.state = self.checkpoint.load()
        self.num_chunks = -(-images.num_rows // chunked_passes.CHUNK)
        self.codes = self.checkpoint.array("codes", images.num_rows, np.int16)
        self.chunks: list[tuple[_I64, _I64]] = []  # keys and counts of each
        self._pruned = np.zeros(len(PRUNED), dtype=np.int64)
        self._is_valid = None
        if valid_rows is not None:
            self._is_valid = np.zeros(images.num_rows, dtype=np.bool_)
            self._is_valid[valid_rows] = True
        self._moved_rows = self._moved_keys = np.empty(0, dtype=np.int64)
        if "bounds" in self.state:
            cuts = self.state["bounds"][1:-1]
            keys, counts = (np.split(self.state[name], cuts) for name in ("keys", "counts"))
            self.chunks = list(zip(keys, counts, strict=True))
            self._pruned = self.state["pruned"].copy()

    def part(self, chunk: int) -> slice:
        """The rows of a chunk."""
        return slice(
            chunk * chunked_passes.CHUNK, min((chunk + 1) * chunked_passes.CHUNK, self.images.num_rows)
        )

    def run(self) -> None:
        for coded in chunked_passes.in_order(
            self._code, range(len(self.chunks), self.num_chunks), self.num_threads
        ):
            self.chunks.append((coded.keys, coded.counts))
            self._pruned += coded.pruned
            self.checkpoint.keep(self.arrays)
            self.checkpoint.tell(0.5 * len(self.chunks) / self.num_chunks)

    def _code(self, chunk: int) -> Coded:
        part = self.part(chunk)
        is_valid = None if self._is_valid is None else self._is_valid[part]
        coded = self.classifier.code(self.images.read(part.start, part.stop), is_valid)
        self.codes[part] = coded.codes
        return coded

    def arrays(self) -> Arrays:
        """For ``Checkpoint.keep``."""
        lengths = [len(keys) for keys, _ in self.chunks]
        return {
            "keys": np.concatenate([keys for keys, _ in self.chunks]),
            "counts": np.concatenate([counts for _, counts in self.chunks]),
            "bounds": np.cumsum([0, *lengths]),
            "pruned": self._pruned,
        }

    def keys(self) -> _I64:
        """int64[G]: all keys that images were assigned, ascending."""
        return np.unique(np.concatenate([keys for keys, _ in self.chunks]))

    def counts(self, keys: _I64) -> _I64:
        """int64[G]: images that were assigned to each of all ``keys``."""
        counts = np.zeros(len(keys), dtype=np.int64)
        for own, here in self.chunks:
            counts[np.searchsorted(keys, own)] += here
        return counts

    def move(self, rows: _I64, keys: _I64) -> None:
        """Give images other keys than their own. ``rows`` int64[n] ascending. Nothing of it is in ``arrays``: it
        follows from the rest."""
        self._moved_rows, self._moved_keys = rows, keys

    def moved(self, chunk: int) -> slice:
        """Which of the moved images are in a chunk."""
        part = self.part(chunk)
        first, last = np.searchsorted(self._moved_rows, (part.start, part.stop)).tolist()
        return slice(first, last)

    def members(self, chunk: int) -> tuple[_I64, _I64]:
        """The keys of a chunk and how many of its images have each, after the moves."""
        keys, counts = self.chunks[chunk]
        moved = self.moved(chunk)
        if moved.start == moved.stop:
            return keys, counts
        own = self.codes[self._moved_rows[moved]]
        keys = _with_all(keys, self._moved_keys[moved])
        counts = np.append(counts, np.zeros(len(keys) - len(counts), dtype=np.int64))
        np.subtract.at(counts, own, 1)
        np.add.at(counts, _indices(keys, self._moved_keys[moved]), 1)
        return keys, counts

    @property
    def pruned(self) -> dict[str, int]:
        return dict(zip(PRUNED, self._pruned.tolist(), strict=True))

    def by_key(self, chunk: int) -> tuple[_I64, _I64, _I64]:
        """Of a chunk the assigned rows by key, counted from the chunk's first and ascending inside one; the keys that
        it has, int64[k]; and how many rows each has of them. After the moves."""
        part, moved = self.part(chunk), self.moved(chunk)
        codes = self.codes[part]
        keys, _ = self.chunks[chunk]
        if moved.start < moved.stop:
            keys = _with_all(keys, self._moved_keys[moved])
            codes = codes.astype(np.int16 if len(keys) <= MAX_GROUPS else np.int32)
            codes[self._moved_rows[moved] - part.start] = _indices(keys, self._moved_keys[moved])
        rows = np.argsort(codes, kind="stable")[np.count_nonzero(codes < 0) :]
        return rows, keys, np.bincount(codes[rows], minlength=len(keys))


def _with_all(keys: _I64, more: _I64) -> _I64:
    """With those that are missing at the end, so that the index of each key stays."""
    return np.append(keys, np.setdiff1d(more, keys))


def _indices(keys: _I64, wanted: _I64) -> _I64:
    """int64[n]: where each wanted key is among ``keys``, which have all of them."""
    order = np.argsort(keys)
    found: _I64 = order[np.searchsorted(keys, wanted, sorter=order)]
    return found
