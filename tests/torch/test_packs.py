"""Packs in loaders: items with a size of their own, and an exact resume."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bucketline import BucketClient, Operator, Pack, UsageError
from bucketline.geometry import fit
from bucketline.images import to_rgb
from tests.client.coordinators import PACKED, new_run, put_run
from tests.shell import ROOT, Document

from .loaders import ALLOWED, Sampled, Seen, Streamed, data, some

from bucketline.torch import BucketBatchSampler, BucketIterableDataset, Item, collate_packed, measure_cost  # isort: skip - needs torch

torch = pytest.importorskip("torch", reason="see make test-torch")
np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")

pytestmark = ALLOWED

KINDS = pytest.mark.parametrize("kind", [Sampled, Streamed])
CELL = 16
"""Pixels of a token's side."""
MAX_TOKENS = 32_768
"""Of a pack."""


NUM_STEPS = 16
"""Of an epoch of the run of packs, on each of its two ranks."""


@pytest.fixture(scope="module")
def packs(url: str) -> list[Pack]:
    """Rank 0's first epoch."""
    put_run(url, "packed", **PACKED)
    with BucketClient(url, "packed") as client, Operator(url) as operator:
        client.start_session(2, "start", session="packs")
        return operator.packs("packed", 0, 0, 0, NUM_STEPS)


@pytest.fixture
def begin(packs: list[Pack], start: Callable[..., BucketClient]) -> Callable[..., BucketClient]:
    """As ``start``, of the run of packs."""
    return partial(start, "packed")


def test_items_have_a_size_of_their_own(packs: list[Pack], begin: Callable[..., BucketClient]) -> None:
    pack = next(pack for pack in packs if len(set(pack.sizes)) > 1)
    items = list(BucketBatchSampler(begin(), 0))[pack.step]
    assert items == [
        Item(id, width, height, epoch=0, step=pack.step, bucket=None, length=length, kind=pack.kind)
        for id, (width, height), length in zip(pack.ids, pack.sizes, pack.lengths, strict=True)
    ]
    assert next(iter(BucketBatchSampler(begin(), 0, ids_only=True))) == packs[0].ids


def test_items_have_all_that_packs_have(url: str) -> None:
    """The frames of clips, the image's map, and its geometry."""
    content = "".join(
        f"{id},{64 + 16 * (id % 3)},{64 + id},{1 + 4 * (id % 2)}\n" for id in range(64)
    ).encode()
    with Operator(url) as operator:
        for name in ("packed-a", "packed-b"):
            operator.put_map(name, b"id,width,height,num_frames\n" + content, format="csv")
    spec = {"map": None, "maps": [{"map": "packed-a"}, {"map": "packed-b"}], "frame_buckets": [1, 5]}
    run = new_run(url, **{**PACKED, "pack": {"max_tokens": 1024, "frame_stride": 4}}, **spec)
    with BucketClient(url, run, include=["original_size", "crop"], session="all") as client:
        client.start_session(2, "start")
        with Operator(url) as operator:
            packs = operator.packs(
                run, 0, 0, 0, operator.stats(run)["num_steps"], include=["original_size", "crop"]
            )
        batches = list(BucketBatchSampler(client, 0))
    assert len({frames for pack in packs for frames in pack.num_frames or ()}) == 2
    assert len({name for pack in packs for name in pack.maps or ()}) == 2
    for items, pack in zip(batches, packs, strict=True):
        assert [item.id for item in items] == pack.ids
        assert [item.map for item in items] == pack.maps
        assert [item.num_frames for item in items] == pack.num_frames
        assert [item.original_size for item in items] == pack.original_sizes
        assert [item.resize_size for item in items] == pack.resize_sizes
        assert [item.crop_left_top for item in items] == pack.crop_left_tops


@KINDS
@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_from_every_step(
    kind: Any, num_workers: int, packs: list[Pack], begin: Callable[..., BucketClient]
) -> None:
    plan: list[Seen] = [(pack.epoch, pack.step, pack.ids) for pack in packs]
    for done in [0, 4, NUM_STEPS - 1] if num_workers else range(NUM_STEPS):
        first = kind(begin(), num_workers=num_workers)
        assert some(first.epoch(), done) == plan[:done]
        second = kind(begin(resumes=True), num_workers=num_workers)
        second.source.begin(first.source.state_dict())
        assert list(second.epoch()) == plan[done:]


def test_load_gets_packs(packs: list[Pack], begin: Callable[..., BucketClient]) -> None:
    def load(pack: Pack) -> list[int]:
        return [width * height for width, height in pack.sizes]

    dataset = BucketIterableDataset(begin(), load, rank=0)
    loader = data.DataLoader(dataset, batch_size=None, num_workers=2)
    assert list(dataset.follow(loader)) == [[pack, load(pack)] for pack in packs]


class Tokens(data.Dataset):
    """An image whose tokens all are its id."""

    def __getitem__(self, item: Item) -> Any:
        return torch.full((item.width // CELL * (item.height // CELL), 1), item.id)

    def __len__(self) -> int:
        return 5000


def test_a_loader_gives_tokens_as_attention_takes_them(
    packs: list[Pack], begin: Callable[..., BucketClient]
) -> None:
    sampler = BucketBatchSampler(begin(), 0)
    loader = data.DataLoader(Tokens(), batch_sampler=sampler, num_workers=2, collate_fn=collate_packed)
    found = []
    for given in sampler.follow(loader):
        images = given["tokens"].tensor_split(given["cu_seqlens"][1:-1].long())
        found.append([(int(image.unique()), len(image)) for image in images])
        assert given["max_seqlen"] == max(len(image) for image in images)
    assert found == [
        [(id, width * height // CELL**2) for id, (width, height) in zip(pack.ids, pack.sizes, strict=True)]
        for pack in packs
    ]


def test_a_job_goes_on_with_another_number_of_ranks(url: str, begin: Callable[..., BucketClient]) -> None:
    """Two ranks, then three, with their loaders' workers: each image once, except in the packs that do not fill a last
    step of three."""

    def loaded(client: BucketClient, rank: int, world_size: int) -> tuple[BucketBatchSampler, Any]:
        sampler = BucketBatchSampler(client, rank, world_size)
        options = {"num_workers": 1, "collate_fn": partial(collate_packed, pad_to=MAX_TOKENS)}
        return sampler, data.DataLoader(Tokens(), batch_sampler=sampler, **options)

    served: list[list[int]] = []
    states = []
    for client in [begin()]:
        for rank in (0, 1):
            sampler, loader = loaded(client, rank, 2)
            for pack in itertools.islice(sampler.follow(loader), 5):
                served.append(ids_of(pack))
                states.append(sampler.state_dict())
    assert states[4] == states[9]
    client = begin(resumes=True)
    for rank in range(3):
        sampler, loader = loaded(client, rank, 3)
        sampler.begin(states[4])
        served += map(ids_of, sampler.follow(loader))
    ids = [id for pack in served for id in pack]
    assert len(ids) == len(set(ids))
    assert len(served) == 10 + (2 * NUM_STEPS - 10) // 3 * 3


def ids_of(pack: dict[str, Any]) -> list[int]:
    """Of the images of ``Tokens``, of which none has another's tokens. They are followed by padding."""
    assert len(pack["tokens"]) == MAX_TOKENS
    assert not pack["tokens"][pack["num_tokens"] :].any()
    images = pack["tokens"][: pack["num_tokens"]].tensor_split(pack["cu_seqlens"][1:-1].long())
    return [int(image.unique()) for image in images if len(image)]


def test_packs_have_no_shape_whose_cost_could_be_measured(packs: list[Pack], url: str) -> None:
    client = BucketClient(url, "packed")
    with pytest.raises(UsageError, match=r"client: run 'packed' serves packs, .*transformer"):
        measure_cost(lambda batch: None, client)
    put_run(
        url, "packed-transformer", **PACKED, cost={"kind": "transformer", "hidden_size": 64, "stride": 16}
    )


# --- the guide --------------------------------------------------------------------------------------------------------

GUIDE = Document(ROOT / "docs" / "how-to" / "pytorch.md")


def varlen_attn(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int) -> Any:
    """As torch's, which runs on GPUs only, but on any device."""
    nested = (
        torch.nested.nested_tensor_from_jagged(each.contiguous(), offsets=cu, max_seqlen=longest).transpose(
            1, 2
        )
        for each, cu, longest in ((q, cu_q, max_q), (k, cu_k, max_k), (v, cu_k, max_k))
    )
    return torch.nn.functional.scaled_dot_product_attention(*nested).transpose(1, 2).values()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_guide_trains_and_resumes(url: str, start: Callable[..., BucketClient], tmp_path: Path) -> None:
    """The loss of each step, from the start and from a checkpoint."""
    sizes = [(90, 60), (60, 90), (64, 64), (85, 70)] * 6
    for row, size in enumerate(sizes):
        Image.new("RGB", size, (row, 20, 60)).save(tmp_path / f"{row}.png")
    rows = "".join(f"{row},{width},{height}\n" for row, (width, height) in enumerate(sizes))
    with Operator(url) as operator:
        operator.put_map("photos", f"id,width,height\n{rows}".encode(), format="csv")
        spec = GUIDE.block("python", "operator.put_run(").replace("16384", "64")
        exec(spec, {"operator": operator})
    losses: list[float] = []
    saved: list[dict[str, Any]] = []
    names = {
        "BucketBatchSampler": BucketBatchSampler,
        "BucketClient": lambda _, run: start(run, world_size=1),
        "DataLoader": data.DataLoader,
        "Dataset": data.Dataset,
        "F": torch.nn.functional,
        "Image": Image,
        "ImageOps": ImageOps,
        "checkpoint": None,
        "collate_packed": collate_packed,
        "fit": fit,
        "nn": torch.nn,
        "path_of": lambda id: tmp_path / f"{id}.png",
        "save": lambda state: saved.append(copy.deepcopy(state)),
        "to_rgb": to_rgb,
        "to_tensor": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255,
        "torch": torch,
        "varlen_attn": varlen_attn,
    }
    exec(GUIDE.block("python", "class Attention(nn.Module)"), names)
    torch.manual_seed(0)
    model = names["Attention"](3 * CELL**2, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train_step(tokens: Any, positions: Any, cu_seqlens: Any, max_seqlen: int) -> None:
        assert positions.shape == (len(tokens), 2)
        loss = model(tokens, cu_seqlens, max_seqlen).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    names |= {"model": model, "train_step": train_step}
    loop = GUIDE.block("python", "class PackedImages(Dataset)").replace("num_workers=4", "num_workers=1")
    exec(loop, names)
    whole = list(losses)
    assert len(whole) > 2
    names["checkpoint"] = saved[0]
    model.load_state_dict(saved[0]["model"])
    names["BucketClient"] = lambda _, run: start(run, resumes=True)
    exec(loop, names)
    assert losses[len(whole) :] == pytest.approx(whole[1:])


def test_the_guides_captions_come_beside_the_tokens() -> None:
    names = {"collate_packed": collate_packed, "torch": torch}
    exec(GUIDE.block("python", "def collate(samples)"), names)
    pack, captions = names["collate"](
        [(torch.zeros(3, 2), torch.ones(4)), (torch.zeros(1, 2), torch.zeros(4))]
    )
    assert pack["cu_seqlens"].tolist() == [0, 3, 4]
    assert captions.shape == (2, 4)
