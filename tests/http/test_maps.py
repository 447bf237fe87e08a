from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from tests.checked import Api
from tests.worlds import SMALL, World


def test_a_map_is_put_once_and_looked_at(api: Api) -> None:
    first = api.put_csv("m", SMALL, 201)
    assert (first["map"], first["num_images"], first["id_kind"]) == ("m", 200, "int64")
    assert api.put_csv("m", SMALL, 200) == first
    assert api.get("/v1/maps")["maps"] == [first]
    detail = api.get("/v1/maps/m")
    assert {name: detail[name] for name in first} == first
    assert sum(detail["histogram"]["aspect"]["num_images"]) == 200


def test_other_content_under_a_taken_name_is_a_conflict(api: Api) -> None:
    first = api.put_csv("m", SMALL, 201)
    problem = api.put_csv("m", SMALL + "200,512,512\n", 409)
    assert problem["code"] == "conflict"
    assert api.get("/v1/maps")["maps"] == [first]


@pytest.mark.parametrize("path", ["/v1/maps/none", "/v1/maps/no%20name", "/v1/maps/%00"])
def test_an_unknown_map(api: Api, path: str) -> None:
    assert api.ask("GET", path).status_code in (404, 422)
    assert api.ask("DELETE", path).status_code in (404, 422)


@pytest.mark.parametrize("name", ["no%20name", ".hidden", "x" * 129, "%C3%A9"])
def test_a_name_that_can_be_none(api: Api, name: str) -> None:
    assert api.put_csv(name, SMALL, 422)["field"] == "map"


def test_a_map_goes_when_no_run_uses_it(api: Api) -> None:
    api.put_csv("m", SMALL, 201)
    api.put("/v1/runs/run", {"map": "m", "world_size": 1, "batch_size": 8}, 201)
    problem = api.ask("DELETE", "/v1/maps/m", 409).json()
    assert (problem["code"], problem["runs"]) == ("conflict", ["run"])
    api.ask("DELETE", "/v1/runs/run", 204)
    api.ask("DELETE", "/v1/maps/m", 204)
    assert api.ask("DELETE", "/v1/maps/m").status_code == 404
    assert api.get("/v1/maps") == {"maps": []}


def test_a_map_that_counts_as_valid_ids_is_in_use(api: Api) -> None:
    api.put_csv("m", SMALL, 201)
    api.put_csv("part", "".join(SMALL.splitlines(keepends=True)[:101]), 201)
    spec = {"map": "m", "world_size": 1, "batch_size": 8, "valid_ids": "part"}
    api.put("/v1/runs/run", spec, 201)
    assert api.ask("DELETE", "/v1/maps/part").status_code == 409


@pytest.mark.parametrize(
    ("content_type", "body", "field"),
    [
        ("", SMALL, "Content-Type"),
        ("image/png", SMALL, "format"),
        ("text/csv", "", "file"),
        ("text/csv", "id,width\n1,2\n", "height"),
        ("text/csv", "id,width,height\n1,512,0\n", "height"),
        ("text/csv", "id,width,height\n1,512,512\n1,512,512\n", "id"),
        ("application/vnd.apache.parquet", "PAR1 nonsense", "file"),
        ("application/x-npz", "PK\x03\x04 nonsense", "file"),
    ],
)
def test_a_refused_upload_leaves_nothing(
    shared_world: World, api: Api, content_type: str, body: str, field: str
) -> None:
    def files() -> set[Path]:
        return {path for path in shared_world.data_dir.rglob("*") if path.is_file() and path.name != "lock"}

    before = files()
    headers = {"Content-Type": content_type} if content_type else {}
    problem = api.ask("PUT", "/v1/maps/m", 422, content=body, headers=headers).json()
    assert problem["field"] == field
    assert api.get("/v1/maps") == {"maps": []}
    assert files() == before


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("text/csv", "id;key;w;h\n", "the columns are 'id', 'key', 'w', 'h'"),
        ("text/csv", "id\tkey\tw\th\n", "the columns are 'id', 'key', 'w', 'h'"),
        ("text/csv", "id,width,height\n7.0,1,2\n", "got the floating-point number '7.0'"),
        (
            "text/csv",
            "id,width,height\n7,,2\n",
            "Pass skip_missing_sizes=true to leave out the rows without a size",
        ),
        ("application/x-tar", "x" * 600, "cannot be read as tar"),
        ("text/csv", "id,key,w,h\n", "id_column, width_column and height_column"),
        ("application/vnd.apache.parquet", "PAR1 nonsense", ". It may be truncated"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_well(
    shared_api: Api, content_type: str, body: str, words: str
) -> None:
    headers = {"Content-Type": content_type}
    detail = shared_api.ask("PUT", "/v1/maps/m", 422, content=body, headers=headers).json()["detail"]
    assert words in detail
    assert ".." not in detail


def test_columns_by_name(api: Api) -> None:
    body, headers = "key,w,h\na,512,512\n", {"Content-Type": "text/csv"}
    params = {"id_column": "key", "width_column": "w", "height_column": "h"}
    assert (
        api.ask("PUT", "/v1/maps/m", 201, content=body, headers=headers, params=params).json()["id_kind"]
        == "string"
    )
    problem = api.ask(
        "PUT", "/v1/maps/n", 422, content=body, headers=headers, params={"id_column": "no"}
    ).json()
    assert "no" in problem["detail"]


RICH = "id,width,height,exif_orientation,repeats,frames\n1,640,480,6,2.5,\n2,640,480,,,121\n3,640,480,1,0,1\n"


def test_optional_columns_are_shown(api: Api) -> None:
    first = api.put_csv("rich", RICH, 201)
    assert first["num_repeats"] == {"min": 1, "max": 3.5, "total": 5.5}
    assert first["num_frames"] == {"min": 1, "max": 121}
    assert api.put_csv("rich", RICH, 200) == first
    plain = api.put_csv("plain", SMALL, 201)
    assert (plain["num_repeats"], plain["num_frames"]) == (None, None)
    assert first.pop("notes")
    assert api.get("/v1/maps")["maps"] == [plain, first]
    detail = api.get("/v1/maps/rich")
    assert {name: detail[name] for name in first} == first
    assert detail["histogram"]["width"] == {"min_px": 480, "max_px": 640}


def test_optional_columns_by_name_or_not_at_all(api: Api) -> None:
    body = "id,width,height,orientation,turn,often,length\n1,640,480,landscape,6,2,9\n"
    headers = {"Content-Type": "text/csv"}
    problem = api.put_csv("m", body, 422)
    assert (problem["field"], problem["row"], problem["line"]) == ("orientation", 1, 2)
    assert "got 'landscape'" in problem["detail"]
    assert "To ignore the column, pass orientation_column with an empty name" in problem["detail"]

    def put(name: str, **params: str) -> dict[str, object]:
        api.ask("PUT", f"/v1/maps/{name}", 201, content=body, headers=headers, params=params)
        shown: dict[str, object] = api.get(f"/v1/maps/{name}")
        return shown

    shown = put("none", orientation_column="")
    assert (shown["num_repeats"], shown["num_frames"]) == (None, None)
    named = {"orientation_column": "turn", "num_repeats_column": "often", "num_frames_column": "length"}
    shown = put("named", **named)
    assert shown["num_repeats"] == {"min": 2, "max": 2, "total": 2}
    assert shown["num_frames"] == {"min": 9, "max": 9}
    assert shown["histogram"]["width"] == {"min_px": 480, "max_px": 480}  # type: ignore[index]


NOTES: list[tuple[str, dict[str, str], list[str]]] = [
    ("id,width,height,num_repeats", {}, []),
    (
        "id,width,height,repeats",
        {},
        ["'repeats' is read as additional repeats", "0 is once", "rename it to num_repeats"],
    ),
    ("id,width,height, repeats", {}, ["'repeats' is read as additional repeats"]),
    (
        "id,width,height,repeats",
        {"num_repeats_column": "repeats"},
        ["'repeats' is read as additional repeats"],
    ),
    ("id,width,height,repeats", {"num_repeats_column": ""}, []),
    ("id,width,height,often", {"num_repeats_column": "often"}, []),
    (
        "id,original_width,original_height,x",
        {},
        ["sizes are those of the original images, from original_width"],
    ),
    ("id,WIDTH,HEIGHT,x", {}, ["sizes are those of the original images, from WIDTH and HEIGHT"]),
]


@pytest.mark.parametrize(("header", "params", "words"), NOTES)
def test_a_put_says_how_columns_were_read(
    api: Api, header: str, params: dict[str, str], words: list[str]
) -> None:
    body = f"{header}\n1,640,480,2\n"
    for status in (201, 200):
        request = {"content": body, "headers": {"Content-Type": "text/csv"}, "params": params}
        answer = api.ask("PUT", "/v1/maps/m", status, **request).json()
        assert len(answer.get("notes", [])) == bool(words)
        for word in words:
            assert word in answer["notes"][0]
    assert "notes" not in api.get("/v1/maps/m")


def test_without_roots_no_file_is_read(api: Api) -> None:
    problem = api.put("/v1/maps/m", {"uri": "small.csv"}, 422)
    assert "--map-source" in problem["detail"]


def test_half_a_surrogate_pair_is_no_defect(api: Api) -> None:
    headers = {"Content-Type": "application/json"}
    body = b'{"\\ud800": "\\ud800", "uri": "\\ud800"}'
    for path in ("/v1/maps/m", "/v1/runs/run"):
        api.ask("PUT", path, 422, content=body, headers=headers)


LINES = '{"id": 1, "width": 640, "height": 480}\n{"id": 2, "width": null, "height": 5}\n'


@pytest.mark.parametrize(
    "content_type", ["application/jsonl", "application/x-ndjson", "application/jsonl; charset=utf-8"]
)
def test_json_lines_are_not_taken_for_a_uri(api: Api, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    whole = LINES.splitlines()[0]
    assert api.ask("PUT", "/v1/maps/m", 201, content=whole, headers=headers).json()["num_images"] == 1


def test_rows_without_a_size_are_skipped_and_counted(api: Api) -> None:
    headers = {"Content-Type": "application/x-ndjson"}
    problem = api.ask("PUT", "/v1/maps/m", 422, content=LINES, headers=headers).json()
    assert (problem["field"], problem["row"]) == ("width", 2)
    params = {"skip_missing_sizes": "true"}
    answer = api.ask("PUT", "/v1/maps/m", 201, content=LINES, headers=headers, params=params).json()
    assert (answer["num_images"], answer["num_skipped"]) == (1, 1)
    again = api.ask("PUT", "/v1/maps/m", 200, content=LINES.splitlines()[0], headers=headers).json()
    assert again == {name: value for name, value in answer.items() if name != "num_skipped"}
    problem = api.ask(
        "PUT", "/v1/maps/n", 422, content=LINES, headers=headers, params={"skip_missing_sizes": "?"}
    )
    assert problem.json()["field"] == "skip_missing_sizes"


def test_an_upload_in_json_lines_may_be_longer_than_a_spec(world: World) -> None:
    replica = world.replica(max_json_bytes=1000)
    lines = "".join(f'{{"id": {i}, "width": 640, "height": 480}}\n' for i in range(100))
    for content_type in ("application/jsonl", "application/x-ndjson"):
        headers = {"Content-Type": content_type}
        assert replica.send("PUT", "/v1/maps/m", content=lines, headers=headers).status_code in (200, 201)


def test_a_malformed_npz_header_names_its_array(api: Api) -> None:
    """Each of these raises a different error in numpy."""
    headers = {"Content-Type": "application/x-npz"}
    for header in (
        "'''",
        "{[]: 1}",
        "(" * 500,
        "{'descr': 'T', 'fortran_order': False, 'shape': (1,)}",
        "9" * 5000,
    ):
        body = io.BytesIO()
        with zipfile.ZipFile(body, "w") as archive:
            start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
            for name in ("id", "width", "height"):
                archive.writestr(f"{name}.npy", start)
        problem = api.ask("PUT", "/v1/maps/m", 422, content=body.getvalue(), headers=headers).json()
        assert problem["code"] == "invalid"
        assert "array 'id'" in problem["detail"] or problem["field"] == "id"
