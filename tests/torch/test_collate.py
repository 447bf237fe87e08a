"""The tokens of a pack's images as one sequence: attention over it is attention over each image."""

from __future__ import annotations

from typing import Any

import pytest

from bucketline import UsageError

torch = pytest.importorskip("torch", reason="see make test-torch")
functional = pytest.importorskip("torch.nn.functional")

from bucketline.torch import collate_packed  # noqa: E402 - needs torch

LENGTHS = [[7], [1, 1], [12, 3, 9, 1], [40, 40, 8]]


def images(lengths: list[int], *shape: int) -> list[Any]:
    """The tokens of an image for each of the lengths."""
    made = torch.Generator().manual_seed(len(lengths))
    return [torch.randn(length, *shape, generator=made) for length in lengths]


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", LENGTHS)
def test_each_image_is_between_two_numbers_of_cu_seqlens(lengths: list[int]) -> None:
    tokens = images(lengths, 4)
    pack = collate_packed(tokens)
    assert set(pack) == {"tokens", "cu_seqlens", "max_seqlen", "num_tokens"}
    assert pack["cu_seqlens"].dtype == torch.int32
    assert pack["cu_seqlens"].tolist() == [sum(lengths[:at]) for at in range(len(lengths) + 1)]
    assert type(pack["max_seqlen"]) is int
    assert pack["max_seqlen"] == max(lengths)
    ends = pack["cu_seqlens"].tolist()
    assert len(pack["tokens"]) == pack["num_tokens"] == sum(lengths)
    for image, first, end in zip(tokens, ends, ends[1:], strict=False):
        assert torch.equal(pack["tokens"][first:end], image)


def test_all_tensors_of_an_image_come_along() -> None:
    """Of any type, and with any shape of a token; other keys of a mapping are no tokens' names."""
    patches, places = images([5, 2], 3, 16, 16), [torch.arange(5), torch.arange(2)]
    pack = collate_packed(
        [{"patches": patch, "places": place} for patch, place in zip(patches, places, strict=True)]
    )
    assert set(pack) == {"patches", "places", "cu_seqlens", "max_seqlen", "num_tokens"}
    assert torch.equal(pack["patches"], torch.cat(patches))
    assert pack["places"].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert pack["places"].dtype == torch.int64


def test_padding_is_a_sequence_of_its_own() -> None:
    """Of zeros, and in all tensors; the longest sequence may be the padding. No sequence is empty: not all kernels
    take one."""
    pack = collate_packed(
        [{"tokens": tokens, "at": torch.ones(len(tokens))} for tokens in images([5, 2], 4)], pad_to=16
    )
    assert pack["tokens"].shape == (16, 4)
    assert pack["cu_seqlens"].tolist() == [0, 5, 7, 16]
    assert (pack["max_seqlen"], pack["num_tokens"]) == (9, 7)
    assert torch.equal(pack["tokens"][:7], torch.cat(images([5, 2], 4)))
    assert not pack["tokens"][7:].any()
    assert pack["at"].tolist() == [1.0] * 7 + [0.0] * 9
    full = collate_packed(images([5, 2], 4), pad_to=7)
    assert full["cu_seqlens"].tolist() == [0, 5, 7]
    assert (full["max_seqlen"], full["num_tokens"]) == (5, 7)


# --- attention --------------------------------------------------------------------------------------------------------


def alone(tokens: Any) -> Any:
    """Attention within one image: (L, heads, head size) to the same."""
    heads = tokens.transpose(0, 1)
    return functional.scaled_dot_product_attention(heads, heads, heads).transpose(0, 1)


def together(pack: dict[str, Any]) -> Any:
    """Attention over a pack as torch computes it on any device for offsets: a nested tensor takes ``cu_seqlens``. Its
    ``varlen_attn``, which takes the same, runs on GPUs only."""
    nested = torch.nested.nested_tensor_from_jagged(
        pack["tokens"], offsets=pack["cu_seqlens"], max_seqlen=pack["max_seqlen"]
    )
    heads = nested.transpose(1, 2)
    return functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).values()


def masked(pack: dict[str, Any]) -> Any:
    """The same, of one dense attention in which only tokens of one sequence see each other."""
    at = torch.arange(len(pack["tokens"]))
    sequence = torch.bucketize(at, pack["cu_seqlens"], right=True)
    heads = pack["tokens"].transpose(0, 1)
    mask = sequence[:, None] == sequence
    return functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask).transpose(0, 1)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("attention", [together, masked])
@pytest.mark.parametrize("pad_to", [None, 96])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_attention_over_a_pack_is_attention_within_each_image(
    lengths: list[int], pad_to: int | None, attention: Any
) -> None:
    """Outputs and gradients; padding changes neither, and makes none that is not a number."""
    tokens = [each.requires_grad_() for each in images(lengths, 2, 8)]
    expected = torch.cat([alone(each) for each in tokens])
    expected_gradients = torch.autograd.grad(expected.square().sum(), tokens)
    pack = collate_packed(tokens, pad_to=pad_to)
    found = attention(pack)
    num_tokens = pack["num_tokens"]
    torch.testing.assert_close(found[:num_tokens], expected)
    assert found.isfinite().all()
    gradients = torch.autograd.grad(found[:num_tokens].square().sum(), tokens)
    for each, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(each, wanted)


@pytest.mark.parametrize("pad_to", [None, 96])
def test_varlen_attention_of_torch_takes_a_pack(pad_to: int | None) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    if not torch.cuda.is_available():
        pytest.skip("it runs on GPUs only")
    lengths = LENGTHS[2]
    tokens = [each.cuda().bfloat16() for each in images(lengths, 2, 64)]
    pack = collate_packed(tokens, pad_to=pad_to)
    q, cu, longest = pack["tokens"], pack["cu_seqlens"], pack["max_seqlen"]
    found = varlen.varlen_attn(q, q, q, cu, cu, longest, longest)
    expected = torch.cat([alone(each) for each in tokens])
    torch.testing.assert_close(found[: sum(lengths)], expected, atol=0.02, rtol=0.02)


# --- what is refused --------------------------------------------------------------------------------------------------

T = torch.zeros
REFUSED: list[tuple[Any, str]] = [
    ([], "at least one image"),
    (["photo"], r"samples\[0\] must be a tensor of tokens or a dict of such tensors, got str"),
    ([{}], r"samples\[0\] must be"),
    ([T(2, 3), T(0, 3)], r"samples\[1\] has no token"),
    ([T(2, 3), T(())], r"samples\[1\]: 'tokens' must be a tensor with a row for each token"),
    (
        [T(2, 3), T(2, 4)],
        r"samples\[1\]: 'tokens' is torch.float32 of the shape \(2, 4\), but that of samples\[0\]",
    ),
    ([T(2, 3), T(2, 3).half()], r"samples\[1\]: 'tokens' is torch.float16"),
    ([{"x": T(2, 3), "at": T(3)}], r"samples\[0\]: its tensors differ .*'x': 2, 'at': 3"),
    ([{"x": T(2, 3)}, {"y": T(2, 3)}], r"samples\[1\] has \['y'\], but samples\[0\] has \['x'\]"),
    ([{"x": T(2, 3), "caption": "a cat"}], r"'caption' must be a tensor .* beside the tokens"),
    ([{"cu_seqlens": T(2)}], "'cu_seqlens' is the name of a result"),
]


@pytest.mark.parametrize(("samples", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_packed_is_refused(samples: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        collate_packed(samples)


@pytest.mark.parametrize("pad_to", [6, 0, -1, 7.5])
def test_padding_must_have_room(pad_to: Any) -> None:
    with pytest.raises(UsageError, match="pad_to"):
        collate_packed(images([5, 2], 4), pad_to=pad_to)
