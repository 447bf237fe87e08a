"""Images to pack: histograms of tokens, and packs with images that fill them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from bucketline_service.planning.packing.lengths import choose_lengths
from bucketline_service.planning.packing.pack_kinds import PackKinds, fit_pack_kinds


@st.composite
def histograms(draw, max_count=40):
    """``tokens``, ``counts`` int64[D] and a budget that holds the longest."""
    tokens = draw(st.lists(st.integers(1, 60), min_size=1, max_size=8, unique=True))
    counts = draw(st.lists(st.integers(0, max_count), min_size=len(tokens), max_size=len(tokens)))
    counts[0] = max(counts[0], 1)
    return np.array(tokens), np.array(counts), draw(st.integers(max(tokens), 150))


@st.composite
def packs_and_images(draw):
    """``kinds`` int64[J, S], ``counts`` int64[J], and ``images`` int64[S] of which each slot can be given one of its
    length or a shorter one; some are left over."""
    num_kinds, num_lengths = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    row = st.lists(st.integers(0, 3), min_size=num_lengths, max_size=num_lengths)
    kinds = np.array(draw(st.lists(row, min_size=num_kinds, max_size=num_kinds)))
    counts = np.array(draw(st.lists(st.integers(0, 4), min_size=num_kinds, max_size=num_kinds)))
    images = np.array(draw(st.lists(st.integers(0, 6), min_size=num_lengths, max_size=num_lengths)))
    for length, num in enumerate((counts @ kinds).tolist()):
        shorter = draw(st.integers(0, length))
        moved = draw(st.integers(0, num))
        images[shorter] += moved
        images[length] += num - moved
    return kinds, counts, images


def images_of(tokens, counts, lengths):
    """int64[S]: images of each length, which is the shortest that holds them."""
    of = np.searchsorted(lengths, tokens)
    return np.bincount(of, weights=counts, minlength=len(lengths)).astype(np.int64)


def fitted(tokens, counts, max_tokens, num_lengths) -> tuple[PackKinds, np.ndarray]:
    """Packs for these images, and how many there are of each length."""
    lengths = choose_lengths(tokens, counts, max_tokens, num_lengths)
    images = images_of(tokens[counts > 0], counts[counts > 0], lengths)
    return fit_pack_kinds(images, lengths, max_tokens), images
