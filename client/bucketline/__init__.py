"""bucketline: batches of one resolution for every rank, from a coordinator that loses none and repeats none.

```python
from bucketline import BucketClient

with BucketClient("http://coordinator:7700", run="sdxl-base") as client:
    client.begin(state)  # a checkpoint's state dict, or None for the run's first step
    for batch in client.epoch(rank):
        train(batch.ids, batch.width, batch.height)
```

Importing this loads the standard library only; httpx is imported for the first request.
"""

from ._client import BucketClient
from ._errors import (
    BucketlineError,
    ClientClosed,
    Conflict,
    CoordinatorUnavailable,
    EndOfRun,
    Fenced,
    Forbidden,
    Invalid,
    NotFound,
    PlanFailed,
    PlanMismatch,
    ProtocolError,
    Refused,
    SessionReused,
    TooLarge,
    Unauthorized,
    UsageError,
)
from ._types import Batch, Cursor, Deal, Pack, Session
from ._warnings import RepeatedBatchesWarning, StartWarning
from .operator import Operator

__all__ = [
    "Batch",
    "BucketClient",
    "BucketlineError",
    "ClientClosed",
    "Conflict",
    "CoordinatorUnavailable",
    "Cursor",
    "Deal",
    "EndOfRun",
    "Fenced",
    "Forbidden",
    "Invalid",
    "NotFound",
    "Operator",
    "Pack",
    "PlanFailed",
    "PlanMismatch",
    "ProtocolError",
    "Refused",
    "RepeatedBatchesWarning",
    "Session",
    "SessionReused",
    "StartWarning",
    "TooLarge",
    "Unauthorized",
    "UsageError",
]
