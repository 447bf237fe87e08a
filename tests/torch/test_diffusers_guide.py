"""docs/how-to/from-diffusers.md: the lines that replace the script's run, on images of several sizes."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bucketline import BucketClient, Operator
from bucketline.geometry import fit
from bucketline.images import to_rgb

torch = pytest.importorskip("torch", reason="see make test-torch")
np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")
accelerate = pytest.importorskip("accelerate")

GUIDE = (Path(__file__).parents[2] / "docs" / "how-to" / "from-diffusers.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
SIZES = [(90, 60), (60, 90), (64, 64), (200, 130)] * 6
LADDER = {"kind": "explicit", "sizes": [[48, 48], [72, 48], [48, 72]]}


def block(holding: str) -> str:
    (found,) = (text for text in BLOCKS if holding in text)
    return found


def to_tensor(image: Any) -> Any:
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


def test_the_replaced_lines_train_two_epochs_and_continue_from_their_checkpoint(
    url: str, start: Callable[..., BucketClient], tmp_path: Path
) -> None:
    sizes = "".join(f"{row},{width},{height}\n" for row, (width, height) in enumerate(SIZES))
    with Operator(url) as operator:
        operator.put_map("guide", f"id,width,height\n{sizes}".encode(), format="csv")
        spec = {"map": "guide", "world_size": 1, "batch_size": 4, "tails": "pad", "ladder": LADDER}
        operator.put_run("sdxl", spec)
    embeds = {"prompt_embeds": [[0.5, 0.25]], "pooled_prompt_embeds": [1.0]}
    names: dict[str, Any] = {
        "BucketClient": lambda url, run: start(run, world_size=1),
        "Image": Image,
        "accelerator": accelerate.Accelerator(cpu=True),
        "args": SimpleNamespace(
            center_crop=False,
            dataloader_num_workers=0,
            gradient_accumulation_steps=1,
            num_train_epochs=2,
            output_dir=str(tmp_path),
            seed=7,
        ),
        "embeddings": [embeds] * len(SIZES),
        "fit": fit,
        "image_column": "image",
        "math": math,
        "os": os,
        "path": "checkpoint-1",
        "rows": [{"image": Image.new("RGB", size)} for size in SIZES],
        "save_path": str(tmp_path / "checkpoint-1"),
        "to_rgb": to_rgb,
        "torch": torch,
        "train_transforms": to_tensor,
        "url": url,
        "weight_dtype": torch.float32,
    }
    (tmp_path / "checkpoint-1").mkdir()
    exec("from bucketline.torch import BucketBatchSampler\n" + block("class Bucketed"), names)
    names["data_state"] = None
    exec(block("batch_sampler=sampler"), names)
    seen: list[tuple[Any, ...]] = []

    def train(batch: dict[str, Any]) -> None:
        names["batch"] = batch
        exec(block("add_time_ids ="), names)
        height, width = batch["pixel_values"].shape[2:]
        assert [width, height] in LADDER["sizes"]
        for original_height, original_width, top, left, *target in names["add_time_ids"].int().tolist():
            assert (original_width, original_height) in SIZES
            assert target == [height, width]
            cut = fit((original_width, original_height), (width, height))
            assert top * left == 0  # one side fits
            assert top <= cut.resize_size[1] - height
        assert tuple(batch["prompt_embeds"].shape) == (4, 1, 2)
        seen.append((width, height, names["add_time_ids"].int().tolist()))
        if len(seen) == 1:
            exec(block("torch.save(sampler.state_dict()"), names)

    names["train"] = train
    exec(block("sampler.follow(train_dataloader)") + "        train(batch)\n", names)
    num_steps = names["num_update_steps_per_epoch"]
    assert len(seen) == 2 * num_steps

    names["sampler"].client.close()
    names["BucketClient"] = lambda url, run: start(run, resumes=True)
    exec(block("data_state = torch.load"), names)
    exec(block("batch_sampler=sampler"), names)
    after = seen[1:]
    seen = [seen[0]]
    exec(block("sampler.follow(train_dataloader)") + "        train(batch)\n", names)
    assert seen[1:] == after
