"""One rank of a job under torchrun, with accelerate: model and optimizer are prepared, the loader is not. Prints the
(epoch, step, width, ids) of what it trains on, one JSON line a batch."""

import json
import sys

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from bucketline import BucketClient
from bucketline.torch import BucketBatchSampler
from tests.torch.loaders import Names


def main(url: str, run: str) -> None:
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(1, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with BucketClient(url, run) as client:
        sampler = BucketBatchSampler(client)
        loader = DataLoader(Names(), batch_sampler=sampler, num_workers=1, collate_fn=list)
        for items in sampler.follow(loader):
            accelerator.backward(model(torch.ones(1, 1, device=accelerator.device)).sum())
            optimizer.step()
            line = [sampler.rank, items[0].epoch, items[0].step, items[0].width, [item.id for item in items]]
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
