"""bucketline for Lightning: what was trained on is acknowledged, kept in checkpoints and gone on with, at the right
moments.

    sampler = BucketBatchSampler(BucketClient(url, run="sdxl-base"))
    trainer = Trainer(callbacks=[BucketlineCallback(sampler)], use_distributed_sampler=False)
    trainer.fit(module, ckpt_path=None)  # or "last", or a checkpoint's path

Works with ``lightning`` and with ``pytorch_lightning``, and is imported only when used.
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
"""Of the sampler's state in Lightning's checkpoints."""

NOT_SO = ".*You're resuming from a checkpoint that ended before the epoch ended and your dataloader is not resumable"
"""Lightning looks for a loader's own state, and here the sampler is what resumes."""


class BucketlineCallback(Callback):
    """Begins the run, or resumes it from Lightning's checkpoint; acknowledges each batch once it is trained on, before
    any checkpoint of that step is written; and keeps the sampler's state in every checkpoint.

    ``sampler`` is the one whose loader ``train_dataloader`` gives, a DataLoader or a StatefulDataLoader. Its rank and
    world size are Lightning's, unless they were given. ``fit`` without ``ckpt_path`` begins the run at its first step;
    ``fit`` again with the same trainer goes on. Each ``fit`` is a start of the job of its own: rank 0 makes up the
    session's name for all, unless the client was given one.

    An epoch of Lightning's is an epoch of the run, also after a resume in its midst. With ``limit_train_batches``
    Lightning's epochs are as long as that says, and one begins where the last one ended.
    """

    def __init__(self, sampler: BucketBatchSampler) -> None:
        if not isinstance(sampler, BucketBatchSampler):
            raise UsageError(
                f"sampler: a BucketBatchSampler was expected, not {type(sampler).__name__}. (Lightning moves no Batch "
                "of a BucketIterableDataset to a device.)"
            )
        self.sampler = sampler
        self._session: str | None = None
        self._is_acknowledged = True  # the batch that the loop has
        self._reload_every: int | None = None

    # --- beginning and resuming -----------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        self._check(trainer, pl_module)
        warnings.filterwarnings("ignore", NOT_SO)
        limit = trainer.limit_train_batches
        is_limited = isinstance(limit, int) or limit < 1.0
        self.sampler.hand_over(trainer.global_rank, trainer.world_size, runs_on=is_limited)
        made_up = trainer.strategy.broadcast(os.urandom(16).hex())
        self._session = None if self.sampler.client.has_session else made_up
        self._is_acknowledged = True
        if trainer.global_step == 0 and trainer.current_epoch == 0:
            # overruled by a checkpoint, which some strategies load before this is begun and others after
            self.sampler.begin_later(None, session=self._session)

    def _check(self, trainer: Any, module: Any) -> None:
        if trainer.overfit_batches:
            raise UsageError(
                "overfit_batches: every epoch of a run has other batches, so none is trained on again: put a run over "
                "a map of those few images"
            )
        if "dataloader_iter" in inspect.signature(module.training_step).parameters:
            raise UsageError(
                "training_step: takes dataloader_iter, so how many batches a step takes is not known: take batch"
            )

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        if KEY not in checkpoint:
            raise UsageError(
                f"ckpt_path: the checkpoint has no {KEY!r}, for it was saved without BucketlineCallback, so where to "
                "go on is not known. To begin the run with its weights, load them into the module and fit without "
                "ckpt_path"
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
        """The batch that the loop has, once Lightning counts it: in a checkpoint that another callback writes before
        this one's turn, and not in one that an exception within the step makes it write."""
        counted = trainer.fit_loop.epoch_loop.batch_progress.current
        if not self._is_acknowledged and counted.ready == counted.started == counted.processed:
            self.sampler.finish_oldest()
            self._is_acknowledged = True

    # --- epochs of other lengths ----------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Lightning asks for an epoch's length once, and would cut longer ones to it: after a resume on fewer ranks in
        an epoch's midst, say. Where the next one differs the loader is asked for anew."""
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
    """Of a checkpoint that was saved with an epoch's last batch, or after it: Lightning's counters, as they are before
    the next epoch begins. By itself Lightning would not count that epoch as begun, so that later checkpoints of it
    resume wrongly; and with ``max_steps`` it would train a batch of it within the old one."""
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
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] += (
        is_last  # it is counted after the hook that saves
    )
