"""bucketline for Lightning: a callback that acknowledges what was trained on, keeps it in checkpoints and resumes.

```python
sampler = BucketBatchSampler(BucketClient(url, run="sdxl-base"))
trainer = Trainer(callbacks=[BucketlineCallback(sampler)], use_distributed_sampler=False)
trainer.fit(module, ckpt_path=None)  # or "last", or a checkpoint's path
```

Works with `lightning` and with `pytorch_lightning`.
"""

from __future__ import annotations

import inspect
import os
import warnings
from typing import Any

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    from pytorch_lightning.callbacks import Callback

from ._errors import UsageError
from .torch import BucketBatchSampler

KEY = "bucketline"
"""The key of the sampler's state in Lightning's checkpoints."""

NOT_RESUMABLE = ".*You're resuming from a checkpoint that ended before the epoch ended"
"""A warning of Lightning's, which looks for the loader's own state. Here the sampler resumes."""


class BucketlineCallback(Callback):
    """Begins the run, or resumes it from Lightning's checkpoint.

    It acknowledges each batch once it is trained on, before any checkpoint of that step is written, and keeps the
    sampler's state in every checkpoint. `fit` without `ckpt_path` begins the run at its first step; `fit` again with
    the same trainer continues. Each `fit` is a new start of the job: rank 0 generates the session's name for all ranks,
    unless the client was given one.

    An epoch of Lightning is an epoch of the run, also after a resume in the middle of one. With `limit_train_batches`
    Lightning's epochs have that length, and each begins where the last one ended.

    ```python
    trainer = Trainer(callbacks=[BucketlineCallback(sampler)], use_distributed_sampler=False)
    trainer.fit(module, ckpt_path="last")
    ```

    Args:
        sampler: that of the loader which `train_dataloader` returns, a DataLoader or a StatefulDataLoader. Its rank and
            world size are Lightning's, unless they were given.

    Raises:
        UsageError: if `sampler` is not a `BucketBatchSampler`.
    """

    def __init__(self, sampler: BucketBatchSampler) -> None:
        if not isinstance(sampler, BucketBatchSampler):
            raise UsageError(
                f"sampler must be a BucketBatchSampler, got {type(sampler).__name__} (Lightning cannot move the "
                "Batch of a BucketIterableDataset to a device)"
            )
        self.sampler = sampler
        self._session: str | None = None
        self._is_acknowledged = True  # the loop's current batch
        self._reload_every: int | None = None  # the trainer's setting, while it is overridden

    # --- beginning and resuming -----------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        self._check(trainer, pl_module)
        warnings.filterwarnings("ignore", NOT_RESUMABLE)
        limit = trainer.limit_train_batches
        is_limited = isinstance(limit, int) or limit < 1.0
        self.sampler.hand_over(trainer.global_rank, trainer.world_size, runs_on=is_limited)
        generated = trainer.strategy.broadcast(os.urandom(16).hex())
        self._session = None if self.sampler.client.has_session else generated
        self._is_acknowledged = True
        if trainer.global_step == 0 and trainer.current_epoch == 0:
            # a checkpoint overrides this; some strategies load it before this is carried out and others after
            self.sampler.begin_later(None, session=self._session)

    def _check(self, trainer: Any, module: Any) -> None:
        if trainer.overfit_batches:
            raise UsageError(
                "overfit_batches: every epoch of a run has different batches, so none is trained on again: create a "
                "run over a map of those few images instead"
            )
        if "dataloader_iter" in inspect.signature(module.training_step).parameters:
            raise UsageError(
                "training_step must take batch, not dataloader_iter: otherwise it is unknown how many batches a step "
                "takes"
            )

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        if KEY not in checkpoint:
            raise UsageError(
                f"ckpt_path: the checkpoint has no {KEY!r}, because it was saved without BucketlineCallback, so it is "
                "unknown where to resume. To begin the run with its weights, load them into the module and call fit "
                "without ckpt_path"
            )
        self.sampler.begin_later(checkpoint[KEY], session=self._session)
        _close_epoch(checkpoint["loops"]["fit_loop"])

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._acknowledge(trainer)
        checkpoint[KEY] = self.sampler.state_dict()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self.sampler.hand_back()

    # --- what is trained on ---------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._is_acknowledged = False

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._acknowledge(trainer)

    def _acknowledge(self, trainer: Any) -> None:
        """Acknowledge the loop's current batch once Lightning counts it: also in a checkpoint that another callback
        writes before this one is called, but not in one that is written because of an exception in the step."""
        counted = trainer.fit_loop.epoch_loop.batch_progress.current
        if not self._is_acknowledged and counted.ready == counted.started == counted.processed:
            self.sampler.finish_oldest()
            self._is_acknowledged = True

    # --- epochs of other lengths ----------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning reads an epoch's length once, and would cut longer epochs to it, as after a resume on fewer ranks
        in the middle of an epoch. If the next epoch's length differs, make Lightning reload the loader."""
        try:
            length = len(self.sampler)
        except TypeError:  # the run ends here
            return
        limit = trainer.limit_train_batches
        expected = min(length, limit) if isinstance(limit, int) else int(length * limit)
        if expected != trainer.num_training_batches:
            self._reload_every = trainer.reload_dataloaders_every_n_epochs
            trainer.reload_dataloaders_every_n_epochs = 1

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self._reload_every is not None:
            trainer.reload_dataloaders_every_n_epochs, self._reload_every = self._reload_every, None


def _close_epoch(loops: dict[str, Any]) -> None:
    """In a checkpoint that was saved with an epoch's last batch, or after it, set Lightning's counters to what they are
    before the next epoch begins. Otherwise Lightning would not count that epoch as begun, so that its later checkpoints
    resume wrongly; and with ``max_steps`` it would train a batch of it within the old epoch."""
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    at = batches["current"]
    is_last = batches["is_last_batch"] and at["ready"] == at["processed"] == at["completed"] + 1
    if not is_last and epochs["current"]["processed"] != epochs["current"]["ready"]:
        return
    for counts in epochs["current"], epochs["total"]:
        counts["processed"] = counts["completed"] = counts["ready"]
    batches["total"]["completed"] = batches["total"]["processed"]
    batches["current"] = dict.fromkeys(at, 0)
    batches["is_last_batch"] = False
    # the last batch is counted after the hook that saves
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] += is_last
