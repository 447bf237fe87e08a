"""One rank of a job under torchrun, with Lightning, which owns the loop: the module acknowledges after each step, and
keeps the sampler's state in Lightning's own checkpoints. Prints as ``with_accelerate`` does."""

import json
import sys
import warnings
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader

from bucketline import BucketClient
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
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_batch_end(self, *_):
        self.sampler.ack()

    def on_save_checkpoint(self, checkpoint):
        checkpoint["bucketline"] = self.sampler.state_dict()

    def on_load_checkpoint(self, checkpoint):
        self.sampler.load_state_dict(checkpoint["bucketline"])


def main(url: str, run: str, file: str, max_steps: str, resharded: str = "") -> None:
    """To ``max_steps``, from ``file`` if it is there and to it."""
    with BucketClient(url, run, ack_interval_s=0) as client:
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            use_distributed_sampler=bool(resharded),
            max_steps=int(max_steps),
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(BucketBatchSampler(client)), ckpt_path=file if Path(file).exists() else None)
        trainer.save_checkpoint(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
