"""Optional columns through the command line and the operator's client, to a coordinator and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bucketline import Operator
from tests.cli.commands import run_here
from tests.server import ServerProcess

RICH = "id,width,height,orientation,often,frames\n1,640,480,landscape,2.5,\n2,640,480,portrait,0,121\n"


def ask(server: ServerProcess, *arguments: str) -> tuple[int, str, str]:
    return run_here(*arguments, BUCKETLINE_URL=server.url)


@pytest.mark.usefixtures("operator")
def test_columns_are_named_or_left_out_and_shown(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "rich.csv"
    file.write_text(RICH)
    status, _, errors = ask(server, "map", "put", "m", str(file))
    assert status == 1
    assert "To ignore the column, pass --orientation-column with an empty name" in errors
    columns = ["--orientation-column", "", "--num-repeats-column", "often"]
    status, out, errors = ask(server, "map", "put", "m", str(file), *columns)
    assert (status, errors) == (0, "")
    shown = ["num_repeats 0 to 2.5: 2.5 images an epoch", "num_frames 1 to 121"]
    assert out.splitlines()[1:] == shown
    assert ask(server, "map", "show", "m")[1].splitlines()[1:3] == shown
    document = json.loads(ask(server, "map", "show", "m", "--json")[1])
    assert document["num_repeats"] == {"min": 0, "max": 2.5, "total": 2.5}
    columns[-1] = ""
    out = ask(server, "map", "put", "still", str(file), *columns, "--num-frames-column", "")[1]
    assert len(out.splitlines()) == 1


def test_the_client_names_them_as_it_does_the_others(operator: Operator) -> None:
    columns = {"orientation": "", "num_repeats": "often", "num_frames": "frames"}
    about = operator.put_map("client", RICH.encode(), format="csv", columns=columns)
    assert about["num_repeats"] == {"min": 0, "max": 2.5, "total": 2.5}
    assert about["num_frames"] == {"min": 1, "max": 121}
