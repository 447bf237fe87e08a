"""The guides for PyTorch, Lightning and Accelerate: their loops, as they are printed, on images of several sizes."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bucketline import BucketClient, Operator
from bucketline.geometry import fit
from bucketline.images import to_rgb
from tests.shell import ROOT, Document

from .loaders import ALLOWED, data, stateful_dataloader

from bucketline.torch import BucketBatchSampler, BucketIterableDataset, Item  # isort: skip - needs torch

torch = pytest.importorskip("torch", reason="see make test-torch")
np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")

pytestmark = ALLOWED

GUIDE = Document(
    *(ROOT / "docs" / "how-to" / f"{name}.md" for name in ("pytorch", "slurm", "lightning", "accelerate"))
)
SIZES = [(90, 60), (60, 90), (64, 64), (200, 130)] * 2
LADDER = {"kind": "explicit", "sizes": [[48, 48], [72, 48], [48, 72]]}


@pytest.fixture
def names(url: str, start: Callable[..., BucketClient], tmp_path: Path) -> dict[str, Any]:
    """What the guide takes for granted. ``trained`` and ``saved`` are what came of each step."""
    for row, size in enumerate(SIZES):
        Image.new("RGB", size, (row, 0, 0)).save(tmp_path / f"{row}.png")
    sizes = "".join(f"{row},{width},{height}\n" for row, (width, height) in enumerate(SIZES))
    with Operator(url) as operator:
        operator.put_map("training", f"id,width,height\n{sizes}".encode(), format="csv")
        spec = {"map": "training", "world_size": 1, "batch_size": 2, "tails": "pad", "ladder": LADDER}
        operator.put_run("sdxl-base", spec)
    trained: list[list[int]] = []
    saved: list[dict[str, Any]] = []

    def train_step(images: Any) -> None:
        pixels, time_ids = images
        assert time_ids[0].tolist()[-2:] == list(pixels.shape[2:])
        trained.append(pixels[:, 0, 0, 0].tolist())

    client = start("sdxl-base", world_size=1)
    return {
        "BucketBatchSampler": BucketBatchSampler,
        "BucketClient": lambda url, run: client,
        "BucketIterableDataset": BucketIterableDataset,
        "DataLoader": data.DataLoader,
        "Dataset": data.Dataset,
        "Image": Image,
        "ImageOps": ImageOps,
        "StatefulDataLoader": stateful_dataloader.StatefulDataLoader,
        "checkpoint": None,
        "client": client,
        "fit": fit,
        "load_images": lambda ids, width, height: [(id, width, height) for id in ids],
        "model": torch.nn.Linear(1, 1),
        "num_epochs": 1,
        "path_of": lambda id: tmp_path / f"{id}.png",
        "save": lambda state: saved.append(copy.deepcopy(state)),
        "saved": saved,
        "to_rgb": to_rgb,
        "to_tensor": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1),
        "torch": torch,
        "train_step": train_step,
        "trained": trained,
    }


def once(steps: list[list[int]]) -> bool:
    """Whether every image came; ``pad`` repeats some."""
    return {row for step in steps for row in step} == set(range(len(SIZES)))


def test_the_ten_lines_train_an_epoch_and_resume_from_any_checkpoint(
    names: dict[str, Any], start: Callable[..., BucketClient]
) -> None:
    loop = GUIDE.block("python", "while sampler.epoch < num_epochs")
    assert len(loop.splitlines()) <= 11
    exec(GUIDE.block("python", "class Images(Dataset)"), names)
    exec(loop, names)
    whole = list(names["trained"])
    assert once(whole)
    names["checkpoint"] = names["saved"][1]
    names["BucketClient"] = lambda url, run: start(run, resumes=True)
    exec(loop, names)
    assert names["trained"][len(whole) :] == whole[2:]


def test_sixteen_bit_grey_does_not_train_white(names: dict[str, Any]) -> None:
    exec(GUIDE.block("python", "class Images(Dataset)"), names)
    Image.fromarray(np.full((64, 64), 128 * 257, np.uint16)).save(names["path_of"](2))
    pixels, _ = names["Images"]()[Item(id=2, width=48, height=48, epoch=0, step=0, bucket=0)]
    assert pixels.shape == (3, 48, 48)
    assert pixels.unique().tolist() == [128]


def test_a_stateful_loader_and_whole_batches(
    names: dict[str, Any], start: Callable[..., BucketClient]
) -> None:
    exec(GUIDE.block("python", "class Images(Dataset)"), names)
    loop = GUIDE.block("python", "StatefulDataLoader(").replace("    ...\n", "    train_step(images)\n")
    names["sampler"] = BucketBatchSampler(names["client"])
    exec(loop, names)
    whole = list(names["trained"])
    assert once(whole)
    names["checkpoint"] = names["saved"][1]
    names["sampler"] = BucketBatchSampler(start("sdxl-base", resumes=True))
    exec(loop, names)
    assert names["trained"][len(whole) :] == whole[2:]

    names["checkpoint"] = None
    names["client"] = start("sdxl-base", world_size=1)
    seen: list[Any] = []
    names["seen"] = seen
    exec(
        GUIDE.block("python", "BucketIterableDataset(").replace("    ...\n", "    seen.append(images)\n"),
        names,
    )
    assert once([[id for id, *_ in images] for images in seen])
    assert names["saved"][-1]["data"]["epoch"] == 1


@pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec:FutureWarning",
    "ignore:.*does not have many workers",
    "ignore:Checkpoint directory",
)
def test_the_recipe_for_lightning_resumes_in_the_middle_of_an_epoch(
    names: dict[str, Any], start: Callable[..., BucketClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lightning = pytest.importorskip("lightning")
    from bucketline.lightning import BucketlineCallback

    monkeypatch.chdir(tmp_path)

    class LightningModule(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def training_step(self, images: Any, _: int) -> Any:
            names["train_step"](images)
            return self.weight

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters())

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    names |= {
        "BucketlineCallback": BucketlineCallback,
        "LightningModule": LightningModule,
        "ModelCheckpoint": lightning.pytorch.callbacks.ModelCheckpoint,
        "Trainer": lambda **given: lightning.Trainer(accelerator="cpu", max_epochs=1, **quiet, **given),
    }
    exec(GUIDE.block("python", "class Images(Dataset)"), names)
    recipe = GUIDE.block("python", "BucketlineCallback(").replace(", …)", ")")
    recipe = recipe.replace("num_workers=4", "num_workers=0").replace(
        "steps=1000", f"steps={len(SIZES) // 4 + 1}"
    )
    exec(recipe, names)
    whole = list(names["trained"])
    assert once(whole)
    names["checkpoint"] = tmp_path / "checkpoints" / "last.ckpt"
    done = torch.load(names["checkpoint"])["global_step"]
    names["client"] = start("sdxl-base", resumes=True)
    exec(recipe, names)
    assert names["trained"][len(whole) :] == whole[done:]


def test_all_python_is_python() -> None:
    """But for one ellipsis that stands for other arguments."""
    for text in GUIDE.blocks("python"):
        ast.parse(text.replace(", …)", ")"))
