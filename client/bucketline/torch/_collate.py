"""A pack's images as one sequence of tokens, as variable-length attention takes it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import whole
from .._errors import UsageError

TOKENS = "tokens"
"""The name of the tokens, if samples are tensors."""
CU_SEQLENS, MAX_SEQLEN, NUM_TOKENS = "cu_seqlens", "max_seqlen", "num_tokens"


def collate_packed(
    samples: Sequence[Tensor] | Sequence[Mapping[str, Tensor]], *, pad_to: int | None = None
) -> dict[str, Any]:
    """Concatenate the tokens of a pack's images, for models with variable-length attention. A `collate_fn`.

    ```python
    loader = DataLoader(images, batch_sampler=sampler, num_workers=4, collate_fn=collate_packed)
    for pack in sampler.follow(loader):
        q, k, v = project(pack["tokens"])  # (L, heads, head size) each
        cu, longest = pack["cu_seqlens"], pack["max_seqlen"]
        flash_attn_varlen_func(q, k, v, cu, cu, longest, longest)  # or torch.nn.attention.varlen.varlen_attn
    ```

    The result is a dict of

    - the tensors of the images, concatenated, under their names (`"tokens"`, if samples are no dicts): (L, ...);
    - `"cu_seqlens"`, int32[n + 1] on the same device: 0, and where each image ends. The tokens of image i are those
      from `cu_seqlens[i]` to `cu_seqlens[i + 1]`;
    - `"max_seqlen"`, an int: the tokens of the largest image;
    - `"num_tokens"`, an int: the tokens of all images.

    What belongs to an image as a whole, such as its caption, is collated beside them, in a function that calls this one
    for the tokens.

    **Padding**: with `pad_to`, zeros follow the images' tokens, so that all packs have as many, for a compiled model.
    They are one more sequence in `cu_seqlens` and `max_seqlen`: no image attends to them, and no row is outside of
    every sequence, where kernels leave outputs and gradients undefined. (A pack that is full has none: not all kernels
    take an empty sequence.) Leave them out of the loss, which is over the first `num_tokens`. The run's `max_tokens` is
    enough for every pack; the sum of the items' `length` is at most that, and the same for all packs of a kind.

    Args:
        samples: of n images. Image i is a tensor of L_i tokens, with the shape (L_i, ...), or a dict of such tensors,
            all with L_i rows: tokens, positions and so on, under the same names in each image.
        pad_to: how many tokens the pack has with its padding; without it there is none.

    Raises:
        UsageError: if the samples are something else, or have more than `pad_to` tokens.
    """
    rows = [_named(at, sample) for at, sample in enumerate(samples)]
    if not rows:
        raise UsageError("samples: a pack has at least one image, got none")
    lengths = [_length(at, row, rows[0]) for at, row in enumerate(rows)]
    num_tokens = sum(lengths)
    if pad_to is not None:
        num_pads = whole("pad_to", pad_to, 1) - num_tokens
        if num_pads < 0:
            raise UsageError(
                f"pad_to: the images have {num_tokens} tokens, more than {pad_to}: is each scaled to its item's "
                "width and height, and is a token as large as the plan's (divisible, frame_stride)?"
            )
        if num_pads > 0:
            rows.append(
                {name: tokens.new_zeros(num_pads, *tokens.shape[1:]) for name, tokens in rows[0].items()}
            )
            lengths.append(num_pads)
    device = next(iter(rows[0].values())).device
    ends = list(itertools.accumulate(lengths, initial=0))
    return {
        **{name: torch.cat([row[name] for row in rows]) for name in rows[0]},
        CU_SEQLENS: torch.tensor(ends, dtype=torch.int32, device=device),
        MAX_SEQLEN: max(lengths),
        NUM_TOKENS: num_tokens,
    }


def _named(at: int, sample: Any) -> dict[str, Tensor]:
    """An image's tensors under their names; ``UsageError`` for what has no tokens."""
    if isinstance(sample, Tensor):
        sample = {TOKENS: sample}
    if not isinstance(sample, Mapping) or not sample:
        raise UsageError(
            f"samples[{at}] must be a tensor of tokens or a dict of such tensors, got {type(sample).__name__}"
        )
    for name, tokens in sample.items():
        if name in (CU_SEQLENS, MAX_SEQLEN, NUM_TOKENS):
            raise UsageError(f"samples[{at}]: {name!r} is the name of a result")
        if not isinstance(tokens, Tensor) or tokens.ndim == 0:
            raise UsageError(
                f"samples[{at}]: {name!r} must be a tensor with a row for each token, got {tokens!r:.80}: collate what "
                "belongs to a whole image beside the tokens"
            )
    return dict(sample)


def _length(at: int, row: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> int:
    """How many tokens the image has, by all its tensors; ``UsageError`` if they cannot be concatenated."""
    if row.keys() != first.keys():
        raise UsageError(f"samples[{at}] has {sorted(row)}, but samples[0] has {sorted(first)}")
    numbers = {name: len(tokens) for name, tokens in row.items()}
    length = next(iter(numbers.values()))
    if set(numbers.values()) != {length}:
        raise UsageError(f"samples[{at}]: its tensors differ in their number of tokens: {numbers}")
    if length == 0:
        raise UsageError(f"samples[{at}] has no token")
    for name, tokens in row.items():
        if tokens.shape[1:] != first[name].shape[1:] or tokens.dtype != first[name].dtype:
            raise UsageError(
                f"samples[{at}]: {name!r} is {tokens.dtype} of the shape {tuple(tokens.shape)}, but that of samples[0] "
                f"{first[name].dtype} of {tuple(first[name].shape)}: they may differ in the first number only"
            )
    return length
