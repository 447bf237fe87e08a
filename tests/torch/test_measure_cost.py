"""A training step is timed at each shape of a run, and the run spec takes the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bucketline import Batch, BucketClient, NotFound, Operator, UsageError
from bucketline.geometry import fit
from tests.client.coordinators import COCO, Coordinator, Proxy, new_run
from tests.shell import ROOT, Document

torch = pytest.importorskip("torch", reason="see make test-torch")

from bucketline.torch import MeasuredCost, Timing, measure_cost  # noqa: E402

LADDER = {"kind": "explicit", "sizes": [[64, 48], [128, 96], [48, 64], [64, 64], [72, 48]]}
SHAPES = [(128, 96), (64, 64), (72, 48), (48, 64)]
"""The most pixels first. No image comes to 64 x 48: all of its aspect fill 128 x 96."""
BATCH_SIZE = 4


class Model(torch.nn.Module):
    """Real, and small: a convolution into patches, and attention among them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 8, 16, 16)
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, pixels: Any) -> Any:
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0].square().mean()


class Step:
    """A training step that remembers its batches."""

    def __init__(self) -> None:
        self.model = Model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-3)
        self.batches: list[Batch] = []

    def __call__(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.model(torch.randn(len(batch.ids), 3, batch.height, batch.width)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return [(batch.width, batch.height) for batch in self.batches]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """For so small a model several threads only wait for each other."""
    num = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num)


@pytest.fixture(scope="module")
def run(url: str) -> str:
    return new_run(url, ladder=LADDER, batch_size=BATCH_SIZE)


@pytest.fixture(scope="module")
def sizes() -> dict[int, tuple[int, int]]:
    """(width, height) of each image of the map, by id."""
    rows = (map(int, row.split(",")) for row in COCO.read_text().splitlines()[1:])
    return {id: (width, height) for id, width, height in rows}


def test_each_shape_is_run_and_timed(url: str, run: str, sizes: dict[int, tuple[int, int]]) -> None:
    step = Step()
    measured = measure_cost(step, BucketClient(url, run), warmup=2, repeats=3)
    assert step.shapes == [shape for shape in SHAPES for _ in range(5)]
    with Operator(url) as operator:
        buckets = operator.stats(run)["buckets"]
    for batch in step.batches:
        assert type(batch) is Batch
        assert len(batch.ids) == BATCH_SIZE
        assert set(batch.ids) <= sizes.keys()
        assert (buckets[batch.bucket]["width"], buckets[batch.bucket]["height"]) == (
            batch.width,
            batch.height,
        )
        assert (batch.num_frames, batch.original_sizes, batch.resize_sizes) == (None, None, None)
    assert [(timing.width, timing.height) for timing in measured.timings] == SHAPES
    for timing in measured.timings:
        assert (timing.num_frames, timing.batch_size) == (None, BATCH_SIZE)
        assert timing.seconds is not None
        assert timing.seconds > 0
        assert timing.peak_memory_bytes is None or torch.cuda.is_available()
    assert measured.out_of_memory == []


def test_the_table_is_a_cost_of_a_run_spec(url: str, run: str) -> None:
    measured = measure_cost(Step(), BucketClient(url, run), warmup=0, repeats=1)
    seconds = {(timing.width, timing.height): timing.seconds for timing in measured.timings}
    dearest, shape = max((timing.seconds or 0, (timing.width, timing.height)) for timing in measured.timings)
    budget = {"batch_size": None, "max_cost_per_batch": dearest * 3, "max_batch_size": 500}
    even = new_run(url, ladder=LADDER, cost=measured.cost, **budget)
    with Operator(url) as operator:
        rows = operator.run(even)["spec"]["cost"]["seconds"]
        stats = operator.stats(even)
    assert {(row["width"], row["height"]): row["seconds"] for row in rows} == seconds
    assert {(row["num_frames"], row["batch_size"]) for row in rows} == {(1, BATCH_SIZE)}
    sizes = {(bucket["width"], bucket["height"]): bucket["batch_size"] for bucket in stats["buckets"]}
    assert sizes[shape] == 3 * BATCH_SIZE


def test_no_lease_is_taken_and_no_cursor_is_moved(url: str, run: str) -> None:
    proxy = Proxy(url)
    with Operator(url) as operator:
        before = operator.ranks(run)
        client = BucketClient(proxy.url, run)
        measure_cost(Step(), client, warmup=0, repeats=1)
        assert operator.ranks(run) == before
        proxy.close()
    assert [path.partition("?")[0] for path in proxy.seen] == [
        f"/v1/runs/{run}/stats",
        f"/v1/runs/{run}/batches",
    ]


def test_a_worker_s_token_is_enough(tmp_path: Path) -> None:
    tokens = {"BUCKETLINE_WORKER_TOKEN": "work", "BUCKETLINE_OPERATOR_TOKEN": "operate"}
    coordinator = Coordinator(tmp_path, **tokens)
    with Operator(coordinator.url, "operate") as operator:
        operator.put_map("coco", COCO)
        operator.put_run("run", {"map": "coco", "world_size": 2, "batch_size": 64, "ladder": LADDER})
    step = Step()
    measure_cost(step, BucketClient(coordinator.url, "run", token="work"), warmup=0, repeats=1)
    assert step.shapes == SHAPES
    coordinator.stop()


@pytest.mark.parametrize("include", [[], ["original_size"], ["crop"], ["original_size", "crop"]])
def test_batches_have_what_the_client_includes(
    url: str, run: str, sizes: dict[int, tuple[int, int]], include: list[str]
) -> None:
    """Fit for the shape, whichever bucket the image is from."""
    step = Step()
    measure_cost(step, BucketClient(url, run, include=include), warmup=0, repeats=1)
    for batch in step.batches:
        original = [sizes[id] for id in batch.ids]
        cuts = [fit(size, (batch.width, batch.height)) for size in original]
        has_sizes, has_crops = "original_size" in include, "crop" in include
        assert batch.original_sizes == (original if has_sizes else None)
        assert batch.resize_sizes == ([cut.resize_size for cut in cuts] if has_crops else None)
        crops = [(cut.crop_left, cut.crop_top) for cut in cuts]
        assert batch.crop_left_tops == (crops if has_crops else None)


def test_images_are_those_of_the_shape_where_a_batch_of_it_comes_soon(url: str) -> None:
    """And clips are of the length, so that a step that loads them can."""
    rows = "".join(f"{id},64,64,{(1, 5, 9)[id % 3]}\n" for id in range(300))
    with Operator(url) as operator:
        operator.put_map("clips", f"id,width,height,num_frames\n{rows}".encode(), format="csv")
    spec = {"ladder": {"kind": "explicit", "sizes": [[64, 64]]}, "frame_buckets": [1, 5, 9]}
    run = new_run(url, map="clips", batch_size=5, **spec)
    step = Step()
    measured = measure_cost(step, BucketClient(url, run), warmup=0, repeats=1)
    assert [batch.num_frames for batch in step.batches] == [9, 5, 1]
    for batch in step.batches:
        assert {(1, 5, 9)[id % 3] for id in batch.ids} == {batch.num_frames}
        assert len(set(batch.ids)) == 5
    assert [row["num_frames"] for row in measured.cost["seconds"]] == [9, 5, 1]
    again = new_run(url, map="clips", batch_size=5, cost=measured.cost, **spec)
    with Operator(url) as operator:
        assert operator.run(again)["spec"]["cost"]["seconds"][0]["num_frames"] == 9


def test_a_rare_shape_is_filled_with_images_of_another(url: str) -> None:
    """Of a budget its batch may be larger than those that were read: then ids come again."""
    rows = "".join(f"{id},{64 if id < 32 else 512},64\n" for id in range(20_000))
    with Operator(url) as operator:
        operator.put_map("rare", f"id,width,height\n{rows}".encode(), format="csv")
    ladder = {"kind": "explicit", "sizes": [[64, 64], [256, 32]]}
    budget = {"batch_size": None, "max_pixels_per_batch": 16 * 256 * 32}
    run = new_run(url, map="rare", world_size=1, ladder=ladder, **budget)
    step = Step()
    measure_cost(step, BucketClient(url, run), warmup=0, repeats=1)
    common, rare = step.batches
    assert (common.width, rare.width) == (256, 64)
    assert (len(common.ids), len(set(common.ids))) == (16, 16)
    assert (len(rare.ids), len(set(rare.ids))) == (32, 16), "its one batch is not among the first 64"


def test_buckets_of_one_shape_are_timed_once(url: str) -> None:
    """A catch-all has the shape of a bucket."""
    ladder = {"kind": "novelai", "max_size": [96, 64], "divisible": 16, "min_dim": 32, "dim_limit": 128}
    run = new_run(url, ladder={**ladder, "base_res": [64, 64]}, batch_size=32, tails="catch_all")
    with Operator(url) as operator:
        buckets = [each for each in operator.stats(run)["buckets"] if each["num_batches"]]
    shapes = [(bucket["width"], bucket["height"]) for bucket in buckets]
    step = Step()
    measure_cost(step, BucketClient(url, run), warmup=0, repeats=1)
    assert shapes.count((64, 64)) == 2
    assert step.shapes.count((64, 64)) == 1
    assert set(step.shapes) == set(shapes)


def test_a_shape_that_is_out_of_memory_is_told_and_the_others_are_measured(url: str, run: str) -> None:
    class Large(Step):
        def __call__(self, batch: Batch) -> None:
            super().__call__(batch)
            if batch.width * batch.height > 64 * 64:
                raise torch.OutOfMemoryError("CUDA out of memory")

    step = Large()
    measured = measure_cost(step, BucketClient(url, run), warmup=1, repeats=2)
    assert step.shapes == [(128, 96)] + [shape for shape in SHAPES[1:] for _ in range(3)]
    assert [(timing.width, timing.seconds) for timing in measured.out_of_memory] == [(128, None)]
    assert [(row["width"], row["height"]) for row in measured.cost["seconds"]] == SHAPES[1:]
    new_run(url, ladder=LADDER, batch_size=BATCH_SIZE, cost=measured.cost)
    assert str(measured).splitlines()[0] == "128 x 96, 4 images: out of memory"


def test_where_no_shape_fits_there_is_no_table(url: str, run: str) -> None:
    def step(batch: Batch) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    measured = measure_cost(step, BucketClient(url, run))
    assert len(measured.out_of_memory) == len(SHAPES)
    with pytest.raises(UsageError, match="Measure a run with smaller batches"):
        _ = measured.cost


def test_another_error_of_the_step_is_raised(url: str, run: str) -> None:
    def step(batch: Batch) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        measure_cost(step, BucketClient(url, run))


@pytest.mark.parametrize("wrong", [{"warmup": -1}, {"repeats": 0}, {"repeats": 1.5}, {"warmup": True}])
def test_wrong_arguments_are_refused_before_any_step(url: str, run: str, wrong: dict[str, Any]) -> None:
    step = Step()
    with pytest.raises(UsageError, match=next(iter(wrong))):
        measure_cost(step, BucketClient(url, run), **wrong)
    assert step.batches == []


def test_there_must_be_such_a_run(url: str) -> None:
    with pytest.raises(NotFound):
        measure_cost(Step(), BucketClient(url, "none"))


class Cuda:
    """What a step on a GPU would do, on a machine that has none: work is done when the device is waited for. Each step
    takes the next of ``durations``."""

    def __init__(self, *durations: float) -> None:
        self.now_s = 0.0
        self.peak = self.num_emptied = 0
        self._durations: Iterator[float] = iter(durations)
        self._pending_s = 0.0

    def step(self, batch: Batch) -> None:
        self._pending_s += next(self._durations)
        self.peak = max(self.peak, batch.width * batch.height)
        if batch.width == 64:
            raise torch.OutOfMemoryError

    def synchronize(self) -> None:
        self.now_s, self._pending_s = self.now_s + self._pending_s, 0.0

    def reset_peak_memory_stats(self) -> None:
        self.peak = 0

    def max_memory_allocated(self) -> int:
        return self.peak

    def empty_cache(self) -> None:
        self.num_emptied += 1

    def is_initialized(self) -> bool:
        return True


def test_on_a_gpu_the_median_is_of_finished_steps_and_the_peak_is_that_of_a_shape(
    url: str, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Cuda(100, 5, 1, 9, 100, 300, 2, 4, 1000, 7, 0.5, 8, 0.25)
    monkeypatch.setattr(torch, "cuda", cuda)
    measured = measure_cost(cuda.step, BucketClient(url, run), warmup=1, repeats=3, clock=lambda: cuda.now_s)
    assert measured == MeasuredCost(
        (
            Timing(128, 96, None, 4, 5, 128 * 96),
            Timing(64, 64, None, 4, None, 64 * 64),
            Timing(72, 48, None, 4, 4, 72 * 48),
            Timing(48, 64, None, 4, 0.5, 48 * 64),
        )
    )
    assert cuda.num_emptied == 1


def test_lines_for_people() -> None:
    timings = (Timing(64, 32, None, 4, 0.41234, None), Timing(64, 32, 17, 4, 12.0, 3 * 2**30))
    assert str(MeasuredCost(timings)).splitlines() == [
        "64 x 32, 4 images: 0.4123 s",
        "64 x 32 x 17 frames, 4 images: 12 s, at most 3.0 GiB",
    ]


def test_the_guide(url: str, capsys: pytest.CaptureFixture[str], start: Callable[..., BucketClient]) -> None:
    guide = Document(ROOT / "docs" / "how-to" / "measure-cost.md")
    with Operator(url) as operator:
        tiers = {"kind": "tiers", "resolution": [64, 128], "bucket_reso_steps": 32}
        spec = {"map": "coco", "world_size": 2, "batch_size": 8, "ladder": {**tiers, "choose": "every"}}
        operator.put_run("sdxl-base", spec)
        names: dict[str, Any] = {"train_step": Step()}
        for block in guide.blocks("python"):
            exec(block.replace("http://127.0.0.1:7700", url), names)
        assert capsys.readouterr().out == f"{names['measured']}\n"
        assert operator.run("sdxl-even")["spec"]["cost"]["kind"] == "measured"
        sizes = [bucket["batch_size"] for bucket in operator.stats("sdxl-even")["buckets"]]
        operator.delete_run("sdxl-base")
    assert max(sizes) <= 64
