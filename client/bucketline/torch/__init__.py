"""bucketline for PyTorch: batches of one resolution for a `DataLoader`, and an exact resume.

```python
from bucketline import BucketClient
from bucketline.torch import BucketBatchSampler

sampler = BucketBatchSampler(BucketClient(url, run="sdxl-base"))
loader = DataLoader(images, batch_sampler=sampler, num_workers=4)
sampler.begin(checkpoint["data"] if checkpoint else None)
for batch in sampler.follow(loader):  # requesting the next batch says that this one is trained on
    train_step(batch)
    save({"model": model, "data": sampler.state_dict()})
```

Only this package imports torch; `import bucketline` does not.
"""

from ._collate import collate_packed
from ._dataset import BucketIterableDataset
from ._epoch_sampler import BucketEpochSampler
from ._items import Item
from ._measure_cost import MeasuredCost, Timing, measure_cost
from ._sampler import BucketBatchSampler

__all__ = [
    "BucketBatchSampler",
    "BucketEpochSampler",
    "BucketIterableDataset",
    "Item",
    "MeasuredCost",
    "Timing",
    "collate_packed",
    "measure_cost",
]
