"""``bucketline preview``: no server is needed, and nothing is stored."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bucketline_service.planning.line.image_classes import PRUNED
from bucketline_service.previews import comparison
from bucketline_service.terminal import plan_costs
from tests.cli.commands import run_here
from tests.server import COCO

SPECS: dict[str, dict[str, Any]] = {
    "shift": {"map": "any", "world_size": 4, "batch_size": 8},
    "pad": {"world_size": 4, "batch_size": 8, "tails": "pad"},
    "sdxl": {
        "world_size": 4,
        "batch_size": 8,
        "ladder": {"kind": "preset", "name": "sdxl"},
        "steps": "same_shape",
    },
    "impossible": {"world_size": 4, "batch_size": 8, "assign": {"min_size": 5000}},
}


@pytest.fixture
def specs(tmp_path: Path) -> list[str]:
    options = []
    for name, spec in SPECS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(spec))
        options += ["--spec", str(tmp_path / f"{name}.json")]
    return options


def preview(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """In its own temporary folder, which is empty again afterwards."""
    scratch = folder / "scratch"
    scratch.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(scratch))
        answer = run_here("preview", *arguments)
    assert list(scratch.iterdir()) == []
    return answer


def test_specs_stand_side_by_side(tmp_path: Path, specs: list[str]) -> None:
    status, out, errors = preview(tmp_path, str(COCO), *specs)
    assert (status, errors) == (1, "bucketline: cannot be met: impossible\n")
    rows = {" ".join(line.split()[:-4]): line.split()[-4:] for line in out.splitlines()}
    assert rows[""] == list(SPECS)
    assert rows["images"] == ["5000", "5000", "5000", "-"]
    assert rows["steps"][0] == "156"
    # the fewest are marked, all of them
    assert rows["repeated"] == ["0*", rows["repeated"][1], "0*", "-"]
    assert int(rows["repeated"][1]) > 0
    last = out.splitlines()[-1]
    assert last.startswith("impossible: assign: all images are pruned: 5000 by min_size")


def test_answer_is_the_servers(tmp_path: Path, specs: list[str]) -> None:
    status, out, _ = preview(tmp_path, str(COCO), *specs, "--json")
    answer = json.loads(out)
    assert (status, answer["map"], answer["num_images"]) == (1, "coco-5k.csv", 5000)
    assert [each["spec"]["tails"] for each in answer["previews"]] == ["shift", "pad", "spill", "shift"]
    assert answer["previews"][0]["stats"]["num_steps"] == 156
    assert "map" not in answer["previews"][0]["spec"]
    assert answer["previews"][3]["problem"]["field"] == "assign"


def test_what_would_surprise_is_below_the_table(tmp_path: Path, specs: list[str]) -> None:
    padded = tmp_path / "padded.json"
    padded.write_text(json.dumps({**SPECS["pad"], "world_size": 8, "steps": "same_shape"}))
    options = [*specs, "--spec", str(padded)]
    _, out, _ = preview(tmp_path, str(COCO), *options)
    _, as_json, _ = preview(tmp_path / "scratch", str(COCO), *options, "--json")
    told = [each.get("warnings") for each in json.loads(as_json)["previews"]]
    assert told[:2] == [[], []]
    assert told[3] is None  # it cannot be met at all
    ((sdxl,), (pad,)) = told[2], told[4]
    assert (sdxl["code"], pad["code"]) == ("unreachable_sizes", "repeated")
    assert out.splitlines()[-5:-1] == [
        f"sdxl: warning (unreachable_sizes): {sdxl['message']}",
        f"  {sdxl['remedy']}",
        f"padded: warning (repeated): {pad['message']}",
        f"  {pad['remedy']}",
    ]
    _, alone, _ = preview(tmp_path / "scratch" / "scratch", str(COCO), "--spec", str(padded))
    assert f"\nwarning (repeated): {pad['message']}\n" in alone


def test_without_a_spec_it_is_the_defaults(tmp_path: Path) -> None:
    status, out, _ = preview(tmp_path, str(COCO))
    assert (status, out.splitlines()[0].split()) == (0, ["defaults"])
    assert "5000" in out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "spec.json: is not JSON"),
        ("[]", "spec.json: is not a JSON object"),
        ('{"world_size": 4}', "spec.json: batch_size: "),
        ('{"world_size": 4, "batch_size": 8, "tail": 1}', "spec.json: tail: "),
    ],
)
def test_what_is_wrong_is_told_in_a_line(tmp_path: Path, content: str, words: str) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(content)
    status, out, errors = preview(tmp_path, str(COCO), "--spec", str(spec))
    assert (status, out, errors.count("\n")) == (1, "", 1)
    assert words in errors


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("/none.csv", "/none.csv"),
        ("{tmp}/map.xyz", "map.xyz"),
        ("{tmp}/broken.csv", "--width-column"),
        ("{tmp}", "is a folder, not a map: make a map of its images: bucketline scan "),
    ],
)
def test_a_map_that_can_not_be_read(tmp_path: Path, file: str, words: str) -> None:
    (tmp_path / "map.xyz").write_text("")
    (tmp_path / "broken.csv").write_text("id,width\n1,2\n")
    status, out, errors = preview(tmp_path, file.replace("{tmp}", str(tmp_path)))
    assert (status, out, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("bucketline: ")
    assert words in errors


def test_too_few_images_for_the_defaults_and_what_would_do(tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("id,width,height\n1,640,480\n")
    status, out, errors = preview(tmp_path, str(tmp_path / "few.csv"))
    assert (status, out, errors.count("\n")) == (1, "", 1)
    assert (
        "few.csv: the defaults, 8 ranks with batches of 8 (for others: --spec FILE.json): batch_size: "
        in errors
    )


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The answer of one spec."""
    answer: dict[str, Any] = json.loads(preview(tmp_path_factory.mktemp("one"), str(COCO), "--json")[1])
    return answer


@pytest.mark.parametrize("width", [40, 80, 100, 240])
def test_the_table_fits_the_terminal(
    capsys: pytest.CaptureFixture[str], one: dict[str, Any], width: int
) -> None:
    answer = {**one, "previews": one["previews"] * 16}
    names = [f"{'a-very-long-name-of-a-spec' if number % 3 else 's'}-{number}" for number in range(16)]
    plan_costs.comparison_table(
        Console(width=width, markup=False, emoji=False, highlight=False), answer, names
    )
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(len(line) for line in lines) <= width
    assert out.count(comparison.shape(one["previews"][0]["stats"]["largest_shape"])) == 16
    assert sum(line.startswith("images ") for line in lines) == sum(line == "" for line in lines) + 1


def test_the_columns_of_the_file_may_be_named(tmp_path: Path) -> None:
    file = tmp_path / "sizes.csv"
    file.write_text("id,w,h,orientation,times\n" + "".join(f"{i},640,480,landscape,2\n" for i in range(500)))
    status, _, errors = preview(tmp_path, str(file))
    assert (status, "width" in errors) == (1, True)
    (tmp_path / "scratch").rmdir()
    named = ["--width-column", "w", "--height-column", "h", "--num-repeats-column", "times"]
    status, out, _ = preview(tmp_path, str(file), *named, "--orientation-column", "", "--json")
    assert status == 0
    assert json.loads(out)["previews"][0]["stats"]["num_samples"] == 1000


def test_a_spec_out_of_bounds_is_its_own_problem(tmp_path: Path, specs: list[str]) -> None:
    (tmp_path / "huge.json").write_text('{"world_size": 4, "batch_size": 80000}')
    (tmp_path / "several.json").write_text('{"maps": [{"map": "a"}], "world_size": 4, "batch_size": 8}')
    wrong = ["--spec", str(tmp_path / "huge.json"), "--spec", str(tmp_path / "several.json")]
    status, out, errors = preview(tmp_path, str(COCO), *wrong, *specs, "--json")
    answer = json.loads(out)
    assert (status, errors) == (1, "bucketline: cannot be met: huge, several, impossible\n")
    assert ["stats" in each for each in answer["previews"]] == [False, False, True, True, True, False]
    assert "batch_size" in answer["previews"][0]["problem"]["detail"]
    assert "one file is one map" in answer["previews"][1]["problem"]["detail"]
    (tmp_path / "scratch").rmdir()
    status, out, errors = preview(tmp_path, str(COCO), *wrong)
    assert (status, out, errors.count("\n")) == (1, "", 2)


def test_where_no_spec_can_be_met_the_status_says_so(tmp_path: Path) -> None:
    spec = tmp_path / "impossible.json"
    spec.write_text(json.dumps(SPECS["impossible"]))
    status, out, errors = preview(tmp_path, str(COCO), "--spec", str(spec))
    assert (status, out) == (1, "")
    assert "all images are pruned" in errors
    (tmp_path / "scratch").rmdir()
    status, out, _ = preview(tmp_path, str(COCO), "--spec", str(spec), "--json")
    assert (status, "problem" in json.loads(out)["previews"][0]) == (1, True)


def test_specs_that_can_all_be_met_are_a_success(tmp_path: Path, specs: list[str]) -> None:
    status, _, errors = preview(tmp_path, str(COCO), *specs[:-2])
    assert (status, errors) == (0, "")


def test_the_table_tells_what_prunes_and_how_far_off(tmp_path: Path) -> None:
    spec = tmp_path / "limited.json"
    spec.write_text(json.dumps({**SPECS["shift"], "assign": {"min_size": 400}}))
    _, out, _ = preview(tmp_path, str(COCO), "--spec", str(spec))
    lines = [line.split() for line in out.splitlines()]
    labels = [words[0] for words in lines]
    assert (labels.count("median"), labels.count("max"), labels.count("min_size")) == (2, 2, 1)
    assert "max_ar_error" not in labels
    counts = {words[0]: words[-1] for words in lines}
    assert counts["min_size"] == counts["pruned"] != "0"


def test_reasons_are_the_planners() -> None:
    assert comparison.PRUNED == PRUNED


@pytest.mark.parametrize("names", ["sdxl-fitted-with-{}-buckets", "sdxl-fitted-{}", "{}-fitted-of-coco"])
def test_four_specs_stand_in_eighty_columns(
    capsys: pytest.CaptureFixture[str], one: dict[str, Any], names: str
) -> None:
    """Names that do not fit are shortened but stay distinct; a single column has no best."""
    console = Console(width=80, markup=False, emoji=False, highlight=False)
    plan_costs.comparison_table(
        console, {**one, "previews": one["previews"] * 4}, [names.format(num) for num in (4, 8, 16, 32)]
    )
    head, *lines = capsys.readouterr().out.splitlines()
    assert len(set(head.split())) == 4
    assert sum(line.startswith("images ") for line in lines) == 1
    assert max(map(len, lines)) <= 80
    plan_costs.comparison_table(console, one, ["alone"])
    assert "*" not in capsys.readouterr().out


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    options = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "spec.json").write_text(json.dumps(SPECS["shift"]))
        options += ["--spec", str(tmp_path / folder / "spec.json")]
    _, out, _ = preview(tmp_path, str(COCO), *options)
    assert [name[-6:] for name in out.split()[:2]] == ["a/spec", "b/spec"]


def test_a_report_that_can_not_be_written(tmp_path: Path) -> None:
    spec = tmp_path / "impossible.json"
    spec.write_text(json.dumps(SPECS["impossible"]))
    report = tmp_path / "none" / "report.html"
    status, _, errors = preview(tmp_path, str(COCO), "--html", str(report))
    assert (status, errors.splitlines()) == (1, [f"bucketline: {report}: No such file or directory"])
    (tmp_path / "scratch").rmdir()
    kept = tmp_path / "kept.html"
    kept.write_text("as it was")
    status, _, _ = preview(tmp_path, str(COCO), "--spec", str(spec), "--html", str(kept))
    assert (status, kept.read_text()) == (1, "as it was")
