"""``bucketline run reports``: what workers could not use."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucketline_service.terminal import reports
from tests.cli.commands import run_here
from tests.server import ServerProcess
from tests.worlds import SMALL


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With run ``run``, of which 150 images were reported, some of them twice; and ``clean``."""
    server = ServerProcess(tmp_path_factory.mktemp("reports"))
    api = server.api()
    api.put_csv("small", SMALL, 201)
    for run in ("run", "clean"):
        api.put(f"/v1/runs/{run}", {"map": "small", "world_size": 2, "batch_size": 8}, 201)
    detail = "cannot identify image file, " + "x" * 100
    first = [{"id": id, "reason": "unreadable", "detail": detail} for id in range(150)]
    again = [{"id": id, "reason": "missing"} for id in range(3)]
    for step, images in ((1, first), (7, again)):
        body = {"rank": 1, "epoch": 0, "step": step, "images": images}
        api.ask("POST", "/v1/runs/run/reports", 200, json=body)
    yield server
    server.close()


def ask(server: ServerProcess, *arguments: str, status: int = 0) -> str:
    """Standard output, or standard error if it fails."""
    found, out, errors = run_here("run", "reports", *arguments, BUCKETLINE_URL=server.url)
    assert (found, bool(errors)) == (status, bool(status))
    return errors if status else out


def test_the_newest_are_shown_and_how_many_there_are(server: ServerProcess) -> None:
    head, *rows, last = ask(server, "run").splitlines()
    assert head.split() == ["id", "count", "reason", "epoch", "step", "rank", "last", "reported", "detail"]
    assert [int(row.split()[0]) for row in rows] == list(range(50, 150))
    assert rows[-1].split()[:6] == ["149", "1", "unreadable", "0", "1", "1"]
    assert rows[-1].endswith("x…")
    assert last == "the newest 100 of 150; -o FILE.csv writes all of them"
    assert len(ask(server, "run", "--most", "3").splitlines()) == 5
    assert ask(server, "run", "--most", "200").splitlines()[1].split()[:6] == [
        "0",
        "2",
        "missing",
        "0",
        "7",
        "1",
    ]


def test_json_has_all(server: ServerProcess) -> None:
    found = json.loads(ask(server, "run", "--json"))
    assert (len(found["reports"]), found["num_images"], found["num_not_kept"]) == (150, 150, 0)
    assert len(json.loads(ask(server, "run", "--json", "--most", "5"))["reports"]) == 5


def test_a_file_has_all(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    assert ask(server, "run", "-o", str(file)) == f"{file}: 150 images\n"
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [int(row["id"]) for row in rows] == list(range(150))
    twice, once = rows[0], rows[3]
    assert (twice["count"], twice["reason"], twice["detail"]) == ("2", "missing", "")
    assert [twice[name] for name in ("map", "first_step", "last_step", "last_rank")] == [
        "small",
        "1",
        "7",
        "1",
    ]
    assert len(once["detail"]) == 128
    assert file.read_text().splitlines()[1].startswith('0,"small","missing",2,"",0,1,1,"20')


def test_a_run_without_reports(server: ServerProcess, tmp_path: Path) -> None:
    assert ask(server, "clean") == "no image was reported\n"
    file = tmp_path / "bad.csv"
    assert ask(server, "clean", "-o", str(file)) == f"{file}: 0 images\n"
    assert len(file.read_text().splitlines()) == 1


def test_what_goes_wrong(server: ServerProcess, tmp_path: Path) -> None:
    assert "must name a file that ends in .csv" in ask(server, "run", "-o", "bad.parquet", status=1)
    assert "no run 'none'" in ask(server, "none", status=1)
    assert ask(server, "run", "-o", str(tmp_path / "no" / "bad.csv"), status=1).startswith("bucketline: ")


def test_several_maps_and_what_is_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    from bucketline_service.cli.output import console

    place = {"epoch": 0, "step": 0, "rank": 0, "at": 0.0}
    found: list[dict[str, Any]] = [
        {
            "number": 1,
            "id": 7,
            "map": name,
            "count": 1,
            "reason": "other",
            "detail": None,
            "first": place,
            "last": place,
        }
        for name in ("cats", "dogs")
    ]
    reports.listing(console(), {"num_images": 2, "num_not_kept": 1, "reports": found})
    head, cats, dogs, last = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["id", "map"]
    assert [cats.split()[1], dogs.split()[1]] == ["cats", "dogs"]
    assert last == "and 1 report of further images, which are not kept"
