"""The guides in docs/how-to are true: their specs are accepted, their code runs, and what they call the same is the
same."""

from __future__ import annotations

import csv
import json
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from bucketline import BucketClient, Invalid, NotFound, Operator
from bucketline_service.cli import offline_preview
from bucketline_service.spec.advice import CODES
from tests.server import COCO, ServerProcess, run_command

GUIDES = Path(__file__).parents[1] / "docs" / "how-to"
GOLDEN = Path(__file__).parent / "golden"
WARNINGS = "plan-warnings"
OWN = ("image-cannot-be-read", "validation")
NAMES = sorted([*(path.stem for path in GUIDES.glob("from-*.md")), "coming-from", *OWN])


def blocks(guide: str, language: str) -> list[str]:
    text = (GUIDES / f"{guide}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def block(guide: str, language: str, holding: str) -> str:
    """The one that holds a text."""
    (found,) = (text for text in blocks(guide, language) if holding in text)
    return found


SPECS = [(guide, json.loads(text)) for guide in NAMES for text in blocks(guide, "json")]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A coordinator that has COCO under every name that the guides call a map."""
    server = ServerProcess(tmp_path_factory.mktemp("guides"))
    try:
        with Operator(server.url) as operator:
            for spec in (spec for _, spec in SPECS):
                for name in [spec["map"]] if "map" in spec else [each["map"] for each in spec["maps"]]:
                    operator.put_map(name, COCO)
        yield server.url
    finally:
        server.close()


@pytest.fixture(autouse=True)
def _one_start_of_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A guide's process is one of several."""
    monkeypatch.setenv("BUCKETLINE_SESSION", str(tmp_path))


@pytest.fixture
def operator(url: str) -> Iterator[Operator]:
    with Operator(url) as operator:
        yield operator


@pytest.mark.parametrize(
    "at", range(len(SPECS)), ids=[f"{guide}-{at}" for at, (guide, _) in enumerate(SPECS)]
)
def test_every_spec_makes_a_run(operator: Operator, at: int) -> None:
    _, spec = SPECS[at]
    kept = operator.put_run(f"spec-{at}", spec)["spec"]
    for field, value in spec.items():
        if field in ("ladder", "assign"):
            assert kept[field].items() >= value.items()
        elif field not in ("maps", "gradient_accumulation_steps"):
            assert kept[field] == value


@pytest.mark.parametrize("guide", NAMES)
def test_all_python_is_python(guide: str) -> None:
    for text in blocks(guide, "python"):
        body = text + "        pass\n" if text.rstrip().endswith(":") else text
        compile(body, guide, "exec")


def loop(code: str, url: str, **names: Any) -> list[tuple[list[int], int, int]]:
    """Run a guide's training loop: the ids and sizes of the batches that it trained on."""
    seen: list[tuple[list[int], int, int]] = []
    scope = {
        "BucketClient": BucketClient,
        "state": None,
        "load_images": lambda ids, width, height: (list(ids), width, height),
        "train_step": seen.append,
        "url": url,
        **names,
    }
    exec(compile(code, "guide", "exec"), scope)
    if "client" in scope:
        scope["client"].close()
    return seen


# --- NovelAI's BucketManager ---------------------------------------------------------------------------------


def golden_batches(golden: dict[str, Any], rank: int) -> list[tuple[list[int], int, int]]:
    return [(ids, width, height) for epoch in golden["epochs"] for width, height, ids in epoch[rank]]


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / "novelai-defaults.json").read_text())
    return found


def put_novelai(operator: Operator, run: str, num_fields: int) -> dict[str, Any]:
    (spec,) = (
        spec
        for guide, spec in SPECS
        if guide == "from-novelai" and "planner" in spec and len(spec) == num_fields
    )
    with suppress(NotFound):  # of a test before
        operator.delete_run(run, force=True)
    operator.put_run(run, spec)
    return spec


def test_the_loop_after_gives_the_recorded_batches_into_the_second_epoch(
    operator: Operator, url: str, defaults: dict[str, Any]
) -> None:
    put_novelai(operator, "novelai", 5)
    num_steps = defaults["batches_per_rank"] + 20
    found = loop(block("from-novelai", "python", "BucketClient"), url, rank=2, num_steps=num_steps)
    assert found == golden_batches(defaults, 2)[:num_steps]


def test_a_training_moves_over_in_its_midst(operator: Operator, url: str, defaults: dict[str, Any]) -> None:
    put_novelai(operator, "novelai", 5)
    epoch, step = 2, 17
    with BucketClient(url, run="novelai", session="moved") as client:
        code = block("from-novelai", "python", "Operator(url)")
        names = {"client": client, "epoch": epoch, "step": step, "url": url, "Operator": Operator}
        exec(compile(code, "guide", "exec"), names)
        found = [client.next_batch(3) for _ in range(5)]
    expected = golden_batches(defaults, 3)[epoch * defaults["batches_per_rank"] + step :][:5]
    assert [(list(batch.ids), batch.width, batch.height) for batch in found] == expected


def test_all_parameters_given_are_those_of_the_recording(operator: Operator, url: str) -> None:
    golden = json.loads((GOLDEN / "novelai-odd.json").read_text())
    spec = put_novelai(operator, "odd", 7)
    own = {
        "bsz": spec["batch_size"],
        "world_size": spec["world_size"],
        "seed": spec["seed"],
        **spec["ladder"],
    }
    assert golden["settings"].items() <= own.items()
    with BucketClient(url, run="odd") as client:
        found = [client.next_batch(4) for _ in range(30)]
    expected = golden_batches(golden, 4)[:30]
    assert [(list(batch.ids), batch.width, batch.height) for batch in found] == expected


def test_an_id_that_the_map_lacks_is_an_error_as_said(operator: Operator) -> None:
    with pytest.raises(Invalid, match="valid_ids"):
        operator.put_run(
            "lacking",
            {"map": "coco", "planner": "novelai", "world_size": 1, "batch_size": 8, "valid_ids": [-1]},
        )


# --- kohya's sd-scripts --------------------------------------------------------------------------------------


def kohya() -> tuple[dict[str, Any], dict[str, Any]]:
    """The guide's dataset config, and the spec that it becomes."""
    (config,) = (tomllib.loads(text) for text in blocks("from-kohya", "toml"))
    (spec,) = (spec for guide, spec in SPECS if guide == "from-kohya" and "maps" in spec)
    return config, spec


def test_every_key_of_the_config_is_in_the_spec() -> None:
    config, spec = kohya()
    general, (dataset,) = config["general"], config["datasets"]
    assert general.pop("enable_bucket") is True
    assert spec["ladder"] == {"kind": "kohya", **general}
    assert spec["batch_size"] == dataset["batch_size"]
    subsets = [(Path(each["image_dir"]).name, each["num_repeats"]) for each in dataset["subsets"]]
    assert [(each["map"], each["num_repeats"]) for each in spec["maps"]] == subsets


def select_bucket(size: tuple[int, int], sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """As sd-scripts' BucketManager.select_bucket does: of equally near buckets the first."""
    if size in sizes:
        return size
    return min(sizes, key=lambda bucket: abs(bucket[0] / bucket[1] - size[0] / size[1]))


@pytest.mark.parametrize("metric", ["abs", "log"])
def test_images_go_to_the_buckets_that_they_go_to_there(operator: Operator, metric: str) -> None:
    _, spec = kohya()
    operator.put_run(f"kohya-{metric}", {**spec, "assign": {"metric": metric}})
    buckets = operator.stats(f"kohya-{metric}")["buckets"]
    found = {(bucket["width"], bucket["height"]): bucket["num_images"] for bucket in buckets}
    with COCO.open() as file:
        images = [(int(row["width"]), int(row["height"])) for row in csv.DictReader(file)]
    counts = Counter(select_bucket(size, list(found)) for size in images)
    expected = {size: counts[size] * len(spec["maps"]) for size in found}
    assert (found == expected) is (metric == "abs")


@pytest.mark.exhaustive
def test_turned_photos_as_well_once_they_are_scanned_as_the_guide_says(
    operator: Operator, tmp_path: Path
) -> None:
    """sd-scripts reads sizes with imagesize.get, or Image.open(path).size, and rotates nothing."""
    (shell,) = (text for text in blocks("from-kohya", "bash") if "bucketline scan" in text)
    folder = tmp_path / "portraits"
    folder.mkdir()
    for orientation, (width, height) in enumerate([(40, 30), (30, 40), (60, 20), (20, 64)] * 2, 1):
        entries = Image.Exif()
        entries[0x0112] = orientation
        picture = Image.new("RGB", (width, height))
        picture.save(folder / f"{orientation}.jpg", exif=entries.tobytes())
    command = next(line for line in shell.splitlines() if " scan /data/portraits " in line)
    arguments = command.replace("/data/portraits", str(folder)).replace(
        " portraits.", f" {tmp_path}/portraits."
    )
    assert run_command(*arguments.split()[1:])[0] == 0
    operator.put_map("turned", tmp_path / "portraits.parquet")
    _, spec = kohya()
    run = {**spec, "maps": [{"map": "turned"}], "world_size": 1, "batch_size": 1}
    operator.put_run("turned", run)
    sizes = [(bucket["width"], bucket["height"]) for bucket in operator.stats("turned")["buckets"]]
    for path in folder.iterdir():
        with Image.open(path) as opened:
            expected = select_bucket(opened.size, sizes)
        nearest = operator.image("turned", path.name)["nearest"]
        assert (nearest["width"], nearest["height"]) == expected, path.name


def test_what_images_that_fill_no_batch_cost_is_what_the_guide_says(tmp_path: Path) -> None:
    _, spec = kohya()
    file = tmp_path / "first.csv"
    file.write_text("".join(COCO.read_text().splitlines(keepends=True)[:501]))
    common = {field: value for field, value in spec.items() if field not in ("maps", "tails", "last_step")}
    as_there = {field: spec[field] for field in ("tails", "last_step")}
    specs = [{**common, **fields} for fields in (as_there, {"tails": "short"}, {}, {"steps": "same_shape"})]
    answer = offline_preview.run(
        file, specs, ["there", "short", "default", "same"], offline_preview.Reading()
    )
    stats = [each["stats"] for each in answer["previews"]]
    told = [f"| {each['crop_loss_served']:.2%} | {each['repeated']} | {each['dropped']} |" for each in stats]
    text = (GUIDES / "from-kohya.md").read_text()
    table = text.split("| plan | cropped | repeated | left out of an epoch |")[1].split("\n\n")[0]
    assert re.findall(r"\| [\d.]+% \| \d+ \| \d+ \|", table) == told
    assert [each["spilled"] for each in stats] == [
        0,
        0,
        0,
        int(re.findall(r"changes: (\d+) images", table)[0]),
    ]


def test_num_repeats_of_1_is_once(operator: Operator) -> None:
    _, spec = kohya()
    operator.put_run("repeats", spec)
    told = {each["map"]: each for each in operator.stats("repeats")["maps"]}
    assert told["landscapes"]["num_samples"] == 5000
    assert told["portraits"]["num_samples"] == 3 * 5000


# --- diffusers -----------------------------------------------------------------------------------------------


def test_the_scripts_rows_become_a_map(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = [(640, 480), (300, 500)]
    rows = [{"image": SimpleNamespace(size=size)} for size in sizes]
    code = block("from-diffusers", "python", "map.csv")
    exec(compile(code, "guide", "exec"), {"dataset": {"train": rows}, "image_column": "image"})
    assert operator.put_map("rows", tmp_path / "map.csv")["num_images"] == 2
    with (tmp_path / "map.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [(int(row["id"]), (int(row["width"]), int(row["height"]))) for row in written] == [
        *enumerate(sizes)
    ]


def test_the_sizes_of_the_flag_are_those_of_the_ladder_with_the_width_first() -> None:
    text = (GUIDES / "from-diffusers.md").read_text()
    (flag,) = re.findall(r'`--aspect_ratio_buckets "([^"]+)"`', text)
    pairs = [[int(side) for side in pair.split(",")] for pair in flag.split(";")]
    (ladder,) = (
        spec["ladder"]
        for guide, spec in SPECS
        if guide == "from-diffusers" and spec["ladder"]["kind"] == "explicit"
    )
    assert ladder["sizes"] == [[width, height] for height, width in pairs]


# --- lavender-data -------------------------------------------------------------------------------------------


def test_shards_become_a_map_and_the_loop_after_runs(
    operator: Operator, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards" / "images").mkdir(parents=True)
    for shard in range(2):
        ids = range(50 * shard, 50 * (shard + 1))
        columns = {"id": list(ids), "width": [640] * 50, "height": [480] * 50, "caption": ["of it"] * 50}
        file = tmp_path / "shards" / "images" / f"shard.{shard:05}.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
    exec(compile(block("from-lavender-data", "python", "pyarrow"), "guide", "exec"), {})
    operator.put_map("shards", tmp_path / "map.parquet")
    (spec,) = (spec for guide, spec in SPECS if guide == "from-lavender-data")
    operator.put_run("training", {**spec, "map": "shards", "epochs": 1})
    code = block("from-lavender-data", "python", "client.epoch")
    seen = [loop(code, url, rank=rank) for rank in range(2)]
    assert sorted(image for rank in seen for ids, _, _ in rank for image in ids) == list(range(100))


# --- validation, cached latents, broken images ---------------------------------------------------------------


def spec_of(guide: str) -> dict[str, Any]:
    (spec,) = (spec for name, spec in SPECS if name == guide)
    return spec


def test_each_validation_pass_has_every_image_once_in_the_same_order(operator: Operator, url: str) -> None:
    spec = {**spec_of("validation"), "map": "coco"}
    operator.put_run("validation", spec)
    code = compile(block("validation", "python", "def validate"), "guide", "exec")
    passes: list[list[list[int]]] = [[], []]
    for rank in range(spec["world_size"]):
        names: dict[str, Any] = {
            "BucketClient": BucketClient,
            "evaluate": lambda images: [0.0] * len(images),
            "load_images": lambda ids, width, height: ids,
            "rank": rank,
            "url": url,
            "world_size": spec["world_size"],
        }
        exec(code, names)
        for each in passes:
            each.append(list(names["validate"]()))
        names["validation"].close()
    first, second = ([image for losses in each for image in losses] for each in passes)
    assert len(first) == len(set(first)) == 5000
    assert first == second


class FakeImage:
    size = (640, 480)

    def resize(self, size: tuple[int, int]) -> FakeImage:
        return self

    def crop(self, box: tuple[int, int, int, int]) -> FakeImage:
        return self


def test_a_caching_pass_encodes_every_image_once(operator: Operator, url: str, tmp_path: Path) -> None:
    spec = {"map": "coco", "world_size": 4, "batch_size": 8}
    operator.put_run("cached", spec)
    operator.assignments("cached", tmp_path / "assignments.parquet")
    cache: dict[Any, Any] = {}
    names = {
        "cache": cache,
        "encode": id,
        "load": lambda id: FakeImage(),
        "pyarrow": pyarrow,
        "world_size": 3,
    }
    code = compile(block("cache-latents", "python", "read_table"), "guide", "exec")
    with chdir(tmp_path):
        for rank in range(3):
            exec(code, {**names, "rank": rank})
    assert len(cache) == len({image for image, _, _ in cache}) == 5000
    # a training on another number of ranks, in another order, finds all of its images in it
    operator.put_run("elsewhere", {**spec, "world_size": 6, "seed": 7})
    with BucketClient(url, run="elsewhere") as client:
        client.begin(None, session="training")
        served = [
            (image, batch.width, batch.height)
            for rank in range(6)
            for batch in client.epoch(rank)
            for image in batch.ids
        ]
    assert len(served) > 4900
    assert cache.keys() >= set(served)


def test_a_broken_image_is_replaced_by_others_of_its_batch_and_reported(url: str, tmp_path: Path) -> None:
    with Operator(url) as operator:
        operator.put_map("coco", COCO)
        operator.put_run("broken", {"map": "coco", "world_size": 1, "batch_size": 3})
        first, second, third = ids = operator.batches("broken", 0, 7, 0)[0].ids
    client = BucketClient(url, run="broken")

    def load(item: Any) -> str:
        if item.id in broken:
            raise OSError("truncated")
        return f"image {item.id}"

    broken = {second}
    names: dict[str, Any] = {
        "DataLoader": lambda dataset, **options: (dataset, options["collate_fn"]),
        "Dataset": object,
        "default_collate": list,
        "load": load,
        "sampler": None,
        "client": client,
        "rank": 0,
    }
    exec(compile(block("image-cannot-be-read", "python", "def collate"), "guide", "exec"), names)
    dataset, collate = names["loader"]
    items = [SimpleNamespace(id=id, epoch=0, step=7, map=None) for id in ids]
    assert collate([dataset[item] for item in items]) == [f"image {id}" for id in (first, third, first)]
    broken |= {first, third}
    with pytest.raises(RuntimeError, match="no image of this batch"):
        collate([dataset[item] for item in items])
    client.close()
    file = tmp_path / "bad.csv"
    command = block("image-cannot-be-read", "bash", "-o bad.csv").splitlines()[1].replace("RUN", "broken")
    words = shlex.split(command.removeprefix("bucketline ").replace("bad.csv", str(file)), comments=True)
    assert run_command(*words, "--url", url)[0] == 0
    rows = [*csv.DictReader(file.read_text().splitlines())]
    assert [int(row["id"]) for row in rows] == [second, first, third]
    assert {(row["count"], row["reason"], row["detail"], row["last_step"]) for row in rows} == {
        ("1", "unreadable", "truncated", "7")
    }


# --- plan-warnings ---------------------------------------------------------------------------------------------------


def test_the_warning_on_the_page_is_the_one_that_is_printed(url: str) -> None:
    with Operator(url) as operator:
        operator.put_map("coco", COCO)
        command, told, warning = block(WARNINGS, "console", "run put").splitlines()
        words = shlex.split(command.removeprefix("$ bucketline "))
        assert run_command(*words, "--url", url) == (0, f"{told}\n", f"{warning}\n")
        code = compile(block(WARNINGS, "python", "put_run"), "guide", "exec")
        exec(code, {"operator": operator})
        with BucketClient(url, run="sdxl", session="moved") as client:
            client.ack(0, client.next_batch(0))
            client.flush()
        with pytest.raises(SystemExit) as caught:
            exec(code, {"operator": operator})
        codes = [warning["code"] for warning in caught.value.args[0]]
        assert codes == ["unreachable_sizes", "not_at_start"]
        operator.delete_run("sdxl", force=True)


def test_every_warning_has_a_row() -> None:
    page = (GUIDES / f"{WARNINGS}.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(CODES)
