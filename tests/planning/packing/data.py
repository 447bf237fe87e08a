"""Images to pack: histograms of tokens, and packs with images that fill them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st


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
