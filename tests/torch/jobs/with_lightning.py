"""One rank of a job under torchrun, with Lightning, which owns the loop: the callback acknowledges each step, begins
the run, or resumes it from a checkpoint of Lightning's, of which it writes one after each step. Prints as
``with_accelerate`` does, Lightning's epoch first."""

import json
import os
import sys
import warnings

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from bucketline import BucketClient
from bucketline.lightning import BucketlineCallback
from bucketline.torch import BucketBatchSampler
from tests.torch.loaders import Names

warnings.filterwarnings("ignore")


class Module(lightning.LightningModule):
    def __init__(self, sampler: BucketBatchSampler) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.sampler = sampler

    def train_dataloader(self):
        return DataLoader(Names(), batch_sampler=self.sampler, num_workers=1, collate_fn=list)

    def training_step(self, items, _):
        line = [self.sampler.rank, items[0].epoch, items[0].step, items[0].width, [item.id for item in items]]
        sys.stdout.write(json.dumps([*line, self.current_epoch]) + "\n")
        sys.stdout.flush()
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main(url: str, run: str, folder: str, max_epochs: str, checkpoint: str = "", resharded: str = "") -> None:
    with BucketClient(url, run) as client:
        sampler = BucketBatchSampler(client)
        lightning.Trainer(
            accelerator="cpu",
            devices=int(os.environ["WORLD_SIZE"]),
            strategy="ddp",
            use_distributed_sampler=bool(resharded),
            max_epochs=int(max_epochs),
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[
                ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1),
                BucketlineCallback(sampler),
            ],
        ).fit(Module(sampler), ckpt_path=checkpoint or None)


if __name__ == "__main__":
    main(*sys.argv[1:])
