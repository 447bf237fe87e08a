"""Train a small denoiser on a folder of images of any sizes, in aspect-ratio buckets, on several processes.

    bucketline serve &
    torchrun --standalone --nproc-per-node 2 examples/train_sdxl_buckets.py IMAGES --checkpoint run.pt --epochs 3

Kill it at any time and start it again, on another number of processes if you like: it resumes from the checkpoint. At
the end of each epoch it prints what the weights have seen of it: every image once, except those that the plan leaves
out. This is counted, not assumed: the checkpoint contains the weights and what they have seen. Needs torch and Pillow.
"""

import argparse
import csv
import io
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image, ImageOps
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from bucketline import BucketClient, NotFound, Operator
from bucketline.geometry import fit
from bucketline.images import to_rgb
from bucketline.torch import BucketBatchSampler, Item

RUN = "train-sdxl-buckets"


class Images(Dataset):
    """An ``Item`` in; the image at its bucket's size and SDXL's micro-conditioning out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, item: Item):
        with Image.open(self.folder / item.id) as stored:
            image = ImageOps.exif_transpose(stored)
            cut = fit(image.size, (item.width, item.height), crop="random", epoch=item.epoch, id=item.id)
            image = to_rgb(image).resize(cut.resize_size).crop(cut.crop_box)
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)
        return pixels, torch.tensor(cut.time_ids, dtype=torch.float32), item.id, item.epoch


class Denoiser(torch.nn.Module):
    """Predicts the noise in an image, from the amount of noise and the six numbers of micro-conditioning."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conditions = torch.nn.Linear(7, width)
        self.first = torch.nn.Conv2d(3, width, 3, stride=4, padding=1)
        self.last = torch.nn.Sequential(
            torch.nn.SiLU(), torch.nn.Conv2d(width, 3 * 16, 3, padding=1), torch.nn.PixelShuffle(4)
        )

    def forward(self, noisy, amount, time_ids):
        conditions = self.conditions(torch.cat([amount[:, None], time_ids / 1024], dim=1))
        return self.last(self.first(noisy) + conditions[:, :, None, None])


def images_in(folder: Path) -> list[Path]:
    """Without other files, such as captions."""
    known = Image.registered_extensions()
    return [file for file in sorted(folder.iterdir()) if known.get(file.suffix.lower()) in Image.OPEN]


def put_run(url: str, folder: Path, batch_size: int, world_size: int) -> None:
    """The map of the folder's images (``bucketline scan`` makes one of any folder), and a run over it. Nothing changes
    if they exist; other images or another batch size raise ``Conflict``."""
    rows = io.StringIO()
    table = csv.writer(rows)
    table.writerow(["id", "width", "height"])
    for file in images_in(folder):
        with Image.open(file) as stored:
            image = ImageOps.exif_transpose(stored)
            table.writerow([file.name, image.width, image.height])
    ladder = {"kind": "novelai", "max_size": [128, 128], "divisible": 16, "min_dim": 64, "dim_limit": 256}
    spec = {"map": RUN, "batch_size": batch_size, "ladder": {**ladder, "base_res": [128, 128]}}
    with Operator(url) as operator:
        with suppress(NotFound):
            world_size = operator.run(RUN)["spec"]["world_size"]  # as when the run was created
        operator.put_map(RUN, rows.getvalue().encode(), format="csv")
        operator.put_run(RUN, {**spec, "world_size": world_size})


def train_step(model, optimizer, pixels, time_ids) -> float:
    amount = torch.rand(len(pixels))
    noise = torch.randn_like(pixels)
    mix = amount[:, None, None, None]
    loss = (model((1 - mix) * pixels + mix * noise, amount, time_ids) - noise).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def print_summary(epoch: int, seen: Counter, num_images: int) -> None:
    once, more = sum(count == 1 for count in seen.values()), sum(count > 1 for count in seen.values())
    left_out = num_images - once - more
    print(f"epoch {epoch}: {once} images once, {more} more often, {left_out} left out", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train in aspect-ratio buckets.")
    parser.add_argument("images", type=Path, help="a folder of images, without its subfolders")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--url", default=os.environ.get("BUCKETLINE_URL", "http://127.0.0.1:7700"))
    options = parser.parse_args()

    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    if rank == 0:
        put_run(options.url, options.images, options.batch_size, world_size)
    dist.barrier()
    num_images = len(images_in(options.images))
    model = DistributedDataParallel(Denoiser())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seen: dict[int, Counter] = {}

    with BucketClient(options.url, RUN) as client:
        sampler = BucketBatchSampler(client)
        loader = DataLoader(Images(options.images), batch_sampler=sampler, num_workers=2)
        checkpoint = None
        if options.checkpoint.exists():
            checkpoint = torch.load(options.checkpoint, weights_only=False)
            model.load_state_dict(checkpoint["model"])
            optimizer.load_state_dict(checkpoint["optimizer"])
            seen = checkpoint["seen"]
        sampler.begin(checkpoint["data"] if checkpoint else None)
        if rank == 0:
            print(f"on {world_size} processes from {sampler.state_dict()}", flush=True)
        while (epoch := sampler.epoch) < options.epochs:
            for pixels, time_ids, ids, epochs in sampler.follow(loader):
                loss = train_step(model, optimizer, pixels, time_ids)
                gathered = [None] * world_size
                dist.all_gather_object(gathered, (int(epochs[0]), list(ids)))
                for of_epoch, names in gathered:
                    seen.setdefault(of_epoch, Counter()).update(names)
                if rank == 0:
                    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                    save(options.checkpoint, {**state, "data": sampler.state_dict(), "seen": seen})
                    print(f"step of {tuple(pixels.shape)}, loss {loss:.3f}", flush=True)
            if rank == 0:
                print_summary(epoch, seen.get(epoch, Counter()), num_images)
    dist.destroy_process_group()


def save(file: Path, state: dict) -> None:
    """Whole or unchanged, whenever the process is killed."""
    torch.save(state, new := file.with_suffix(".new"))
    new.replace(file)


if __name__ == "__main__":
    main()
