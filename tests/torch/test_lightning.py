"""``bucketline.lightning``: a fit that is resumed from any of its checkpoints trains what the whole one trains after
it, batch for batch, in the same of Lightning's epochs."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bucketline import BucketClient, UsageError
from tests.client.coordinators import put_run

from .loaders import ALLOWED, Names, data, stateful_dataloader

lightning = pytest.importorskip("lightning", reason="see make test-torch")
torch = pytest.importorskip("torch")

from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402 - after the skip

from bucketline.lightning import BucketlineCallback  # noqa: E402
from bucketline.torch import BucketBatchSampler, BucketEpochSampler, BucketIterableDataset  # noqa: E402

pytestmark = [
    *ALLOWED,
    # of Lightning itself
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
]

RUN = "lightning-one"
STEPS = 4
Trained = tuple[int, int, int]
"""Lightning's epoch, the run's epoch and its step."""


class Parts:
    """Of a module, Lightning's or that of pytorch_lightning."""

    def __init__(self, loader: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.loader = loader
        self.trained: list[Trained] = []

    def train_dataloader(self) -> Any:
        return self.loader()

    def training_step(self, items: Any, _: int) -> Any:
        self.trained.append((self.current_epoch, items[0].epoch, items[0].step))
        return self.layer(torch.ones(1, 1)).sum()

    def val_dataloader(self) -> Any:
        return data.DataLoader([0.0] * 2)

    def validation_step(self, *_: Any) -> None:
        return None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Module(Parts, lightning.LightningModule):
    pass


@pytest.fixture(scope="module")
def run(url: str) -> str:
    put_run(url, RUN, world_size=1, batch_size=1100)
    return RUN


@pytest.fixture
def fit(url: str, run: str, tmp_path: Path) -> Callable[..., list[Trained]]:
    def fit(
        checkpoint: Path | None = None,
        saves: dict[str, Any] | None = None,
        validates: bool = False,
        stateful: bool = False,
        num_workers: int = 0,
        callbacks: tuple[Any, ...] = (),
        module: Callable[[Any], Any] = Module,
        trainer: Any = lightning.Trainer,
        seat: tuple[int, ...] = (),
        **options: Any,
    ) -> list[Trained]:
        kind = stateful_dataloader.StatefulDataLoader if stateful else data.DataLoader
        with BucketClient(url, run, session=None) as client:
            sampler = BucketBatchSampler(client, *seat)

            def loader() -> Any:
                return kind(Names(), batch_sampler=sampler, num_workers=num_workers, collate_fn=list)

            fitted = module(loader)
            if saves is not None:
                folder = tmp_path / ("again" if checkpoint else "first")
                callbacks = (ModelCheckpoint(folder, save_top_k=-1, **saves), *callbacks)
            options.setdefault("max_epochs", 3)
            options.setdefault("limit_val_batches", 1.0 if validates else 0)
            trainer(
                accelerator="cpu",
                devices=1,
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=saves is not None,
                use_distributed_sampler=False,
                callbacks=[*callbacks, BucketlineCallback(sampler)],
                default_root_dir=tmp_path,
                **options,
            ).fit(fitted, ckpt_path=checkpoint)
        return fitted.trained  # type: ignore[no-any-return]

    return fit


def saved(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints, each with how many batches Lightning has counted in it."""
    found = []
    for file in folder.glob("*.ckpt"):
        loops = torch.load(file, weights_only=False)["loops"]["fit_loop"]
        found.append((loops["epoch_loop.batch_progress"]["total"]["processed"], file))
    return sorted(found)


BY = {
    "steps": {"every_n_train_steps": 1},
    "time": {"train_time_interval": datetime.timedelta(0)},
    "epochs": {"every_n_epochs": 1},
    "epochs' ends": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
    "last": {"every_n_train_steps": 2, "save_last": True},
}


def check_resumes(
    fit: Callable[..., list[Trained]], tmp_path: Path, saves: Any, around_epochs: bool = False, **options: Any
) -> list[Trained]:
    """From all checkpoints; or from the first, the last and those ``around_epochs``' ends."""
    whole = fit(saves=saves, **options)
    checkpoints = saved(tmp_path / "first")
    assert checkpoints
    some = {1, STEPS - 1, STEPS, STEPS + 1, len(whole)}
    for at, file in checkpoints:
        if not around_epochs or at in some:
            assert (at, fit(file, saves=saves, **options)) == (at, whole[at:])
    return whole


@pytest.mark.parametrize(("by", "validates"), list(zip(BY, [False, True, False, True, True], strict=True)))
def test_every_resume(fit: Any, tmp_path: Path, by: str, validates: bool) -> None:
    whole = check_resumes(fit, tmp_path, BY[by], validates=validates, max_epochs=2)
    assert whole == [(epoch, epoch, step) for epoch in range(2) for step in range(STEPS)]


@pytest.mark.parametrize(
    ("by", "options"),
    [
        ("time", {"stateful": True, "num_workers": 1}),
        ("time", {"val_check_interval": 2, "validates": True}),
        ("time", {"accumulate_grad_batches": 2}),
        ("time", {"max_steps": 7, "max_epochs": -1, "validates": True}),
        ("epochs", {"num_workers": 1}),
        ("epochs", {"stateful": True}),
        ("epochs", {"max_steps": 7, "max_epochs": -1}),
    ],
    ids=repr,
)
def test_every_resume_of_other_loaders_and_loops(fit: Any, tmp_path: Path, by: str, options: Any) -> None:
    options = {"max_epochs": 2, **options}
    whole = check_resumes(fit, tmp_path, BY[by], around_epochs=True, **options)
    assert whole == [(epoch, epoch, step) for epoch in range(2) for step in range(STEPS)][: len(whole)]
    assert len(whole) == (7 if "max_steps" in options else 2 * STEPS)


@pytest.mark.parametrize(
    ("at", "options"),
    [(STEPS - 1, {"validates": True}), (STEPS, {}), (STEPS + 1, {"max_steps": 10, "max_epochs": -1})],
    ids=repr,
)
def test_a_fit_that_was_resumed_is_resumed_again(fit: Any, tmp_path: Path, at: int, options: Any) -> None:
    saves, options = BY["time"], {"max_epochs": 3, **options}
    whole = fit(saves=saves, **options)
    assert fit(dict(saved(tmp_path / "first"))[at], saves=saves, **options) == whole[at:]
    kept = (tmp_path / "again").rename(tmp_path / "kept")
    for then, file in saved(kept):
        if then in (at + 1, 2 * STEPS - 1, 2 * STEPS, 2 * STEPS + 1, len(whole)):
            assert (then, fit(file, saves=saves, **options)) == (then, whole[then:])


@pytest.mark.parametrize(("by", "limit"), [("time", 1), ("time", 0.5), ("epochs", 3)])
def test_a_limited_epoch_begins_where_the_last_one_ended(
    fit: Any, tmp_path: Path, by: str, limit: float
) -> None:
    whole = check_resumes(fit, tmp_path, BY[by], limit_train_batches=limit, max_epochs=3, num_workers=1)
    length = int(limit * STEPS) if isinstance(limit, float) else limit
    assert whole == [(at // length, *divmod(at, STEPS)) for at in range(3 * length)]


def test_a_fit_without_a_checkpoint_begins_the_run_again_and_a_second_one_of_the_trainer_continues(
    fit: Any,
) -> None:
    first = fit(max_epochs=1)
    assert fit(max_epochs=1) == first == [(0, 0, step) for step in range(STEPS)]

    class Twice(lightning.Trainer):
        def fit(self, module: Any, ckpt_path: Any) -> None:
            super().fit(module, ckpt_path=ckpt_path)
            self.fit_loop.max_epochs = 2
            super().fit(module)

    assert fit(max_epochs=1, trainer=Twice) == [
        (epoch, epoch, step) for epoch in range(2) for step in range(STEPS)
    ]


def test_checkpoints_that_others_write_at_other_moments(fit: Any, tmp_path: Path) -> None:
    """A callback before ours, hooks of the module, and what an exception within a step makes Lightning write."""

    def save(trainer: Any, when: str) -> None:
        trainer.save_checkpoint(tmp_path / "first" / f"{when}-{trainer.global_step}.ckpt")

    class Early(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            save(trainer, "before")

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            save(trainer, "after")

    class Own(Module):
        def on_train_batch_end(self, *_: Any) -> None:
            save(self.trainer, "module")

        def training_step(self, items: Any, at: int) -> Any:
            if len(self.trained) == STEPS + 2:
                raise ZeroDivisionError
            return super().training_step(items, at)

    with pytest.raises(ZeroDivisionError):
        fit(
            saves={"save_on_exception": True, "every_n_epochs": 1},
            callbacks=(Early(),),
            module=Own,
            max_epochs=2,
        )
    whole = fit(max_epochs=2)
    found = saved(tmp_path / "first")
    assert len(found) >= 3 * (STEPS + 2)
    for at, file in found:
        if at > 0:
            assert (file.name, fit(file, max_epochs=2)) == (file.name, whole[at:])


def test_a_rank_that_was_given_is_kept(fit: Any) -> None:
    """As where ranks share batches: Lightning knows one rank, and the run two."""
    assert fit(seat=(1, 2), max_epochs=2) == [
        (epoch, epoch, step) for epoch in range(2) for step in range(STEPS // 2)
    ]


def test_the_trainer_of_pytorch_lightning(fit: Any, tmp_path: Path) -> None:
    pytorch_lightning = pytest.importorskip("pytorch_lightning")

    class Its(Parts, pytorch_lightning.LightningModule):
        pass

    class Saves(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    options = {"module": Its, "trainer": pytorch_lightning.Trainer, "max_epochs": 2, "callbacks": (Saves(),)}
    whole = fit(**options)
    kept = tmp_path.rename(tmp_path.with_name("kept"))  # a resumed fit saves as well
    tmp_path.mkdir()
    for at, file in saved(kept):
        assert fit(file, **options) == whole[at:]


def test_what_cannot_be_counted_or_resumed_is_refused(fit: Any, url: str, run: str, tmp_path: Path) -> None:
    with BucketClient(url, run) as client, pytest.raises(UsageError, match="must be a BucketBatchSampler"):
        BucketlineCallback(BucketIterableDataset(client))

    class Acknowledges(Module):
        def on_train_batch_end(self, *_: Any) -> None:
            self.loader().batch_sampler.ack()

    class Draws(Module):
        def training_step(self, dataloader_iter: Any) -> Any:
            raise NotImplementedError

    for refused, options in {
        "BucketlineCallback acknowledges": {"module": Acknowledges},
        "dataloader_iter": {"module": Draws},
        "overfit_batches": {"overfit_batches": 2},
    }.items():
        with pytest.raises(UsageError, match=refused):
            fit(max_epochs=1, **options)

    fit(saves={"every_n_train_steps": 2}, max_epochs=1)
    _, file = saved(tmp_path / "first")[0]
    checkpoint = torch.load(file, weights_only=False)
    del checkpoint["bucketline"]
    torch.save(checkpoint, file)
    with pytest.raises(UsageError, match="saved without BucketlineCallback"):
        fit(file, max_epochs=1)


def test_lightning_validates_the_same_images_each_time(url: str) -> None:
    seen: list[tuple[bool, list[Any]]] = []

    class Validated(Module):
        def training_step(self, items: Any, _: int) -> Any:
            return self.layer(torch.ones(1, 1)).sum()

        def validation_step(self, items: list[Any], _: int) -> None:
            seen.append((self.trainer.sanity_checking, [item.id for item in items]))

    def validation(**options: Any) -> list[list[Any]]:
        seen.clear()
        sampler = BucketEpochSampler(client, rank=0, world_size=1)
        module = Validated(lambda: data.DataLoader([0.0] * 2))
        module.val_dataloader = lambda: data.DataLoader(Names(), batch_sampler=sampler, collate_fn=list)
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=2,
            num_sanity_val_steps=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        trainer.fit(module)
        assert [ids for is_sanity, ids in seen if is_sanity] == whole[:2]
        return [ids for is_sanity, ids in seen if not is_sanity]

    put_run(url, "validation", world_size=1, batch_size=300, tails="short")
    with BucketClient(url, "validation") as client:
        whole = [batch.ids for batch in client.read_epoch(0, 1)]
        assert validation() == whole * 2
        assert validation(limit_val_batches=3) == whole[:3] * 2
