from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from bucketline_service.errors import Conflict, Invalid, NotFound, StoreUnavailable, TooLarge
from bucketline_service.maps import MapInfo, MapStore
from bucketline_service.maps.store import STAGING_LIFE_S

from .files import contents

COCO = Path(__file__).parents[2] / "service" / "bucketline_service" / "data" / "coco-5k.csv"


def csv(path: Path, *rows: str) -> Path:
    path.write_text("id,width,height\n" + "".join(row + "\n" for row in rows))
    return path


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return csv(tmp_path / "one.csv", "1,640,480")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return csv(tmp_path / "two.csv", "1,640,480", "2,480,640")


def test_a_real_map(any_store: MapStore) -> None:
    opened, created = any_store.put("coco", COCO, "csv")
    assert created
    assert opened.num_images == 5000
    expected = np.loadtxt(COCO, np.int64, delimiter=",", skiprows=1)
    assert np.array_equal(np.stack([opened.int_ids, opened.widths, opened.heights], axis=1), expected)
    assert np.array_equal(opened.find_many(expected[::-1, 0]), np.arange(5000)[::-1])
    opened.verify()


def test_the_digest_is_fixed(any_store: MapStore, two: Path, tmp_path: Path) -> None:
    """It names maps in every store there is: it must never change."""
    sizes = struct.pack("<q", 2) + struct.pack("<II", 640, 480) + struct.pack("<II", 480, 640)
    ints = hashlib.sha256(b"bucketline map 1\nint64\n" + sizes + struct.pack("<qq", 1, 2)).hexdigest()
    assert ints == "9edd136c6dcd4a2c7f3aa410e8edcdc035cd3d1e8820a7f620fd4f7c46c54313"
    assert any_store.put("ints", two, "csv")[0].digest == ints
    text = csv(tmp_path / "text.csv", "a,640,480", "é,480,640")
    ids = struct.pack("<qq", 1, 3) + "aé".encode()
    expected = hashlib.sha256(b"bucketline map 1\nstring\n" + sizes + ids).hexdigest()
    assert any_store.put("text", text, "csv")[0].digest == expected


def test_the_digest_depends_on_order_sizes_ids_and_kind(store: MapStore, tmp_path: Path) -> None:
    files = [
        ("csv", "id,width,height\n1,2,3\n4,5,6\n"),
        ("csv", "id,width,height\n4,5,6\n1,2,3\n"),
        ("csv", "id,width,height\n1,3,2\n4,5,6\n"),
        ("csv", "id,width,height\n1,2,3\n7,5,6\n"),
        ("csv", "id,width,height\nab,2,3\nc,5,6\n"),
        ("csv", "id,width,height\na,2,3\nbc,5,6\n"),
        ("jsonl", '{"id": "1", "width": 2, "height": 3}\n{"id": "4", "width": 5, "height": 6}\n'),
    ]
    digests = set()
    for number, (format, text) in enumerate(files):
        (tmp_path / "file").write_text(text)
        digests.add(store.put(f"map{number}", tmp_path / "file", format)[0].digest)
    assert len(digests) == len(files)


def test_the_same_content_again_changes_nothing(
    any_store: MapStore, root: Path, one: Path, tmp_path: Path
) -> None:
    first, created = any_store.put("map", one, "csv")
    assert created
    before = contents(root)
    second, created = any_store.put("map", one, "text/csv; charset=utf-8")
    assert not created
    assert second.digest == first.digest
    (tmp_path / "one.jsonl").write_text('{"id": 1, "width": 640.0, "height": 480}')
    assert any_store.put("map", tmp_path / "one.jsonl", "jsonl")[1] is False
    assert contents(root) == before


def test_other_content_under_a_taken_name_is_a_conflict(
    any_store: MapStore, root: Path, one: Path, two: Path
) -> None:
    first, _ = any_store.put("map", one, "csv")
    before = contents(root)
    with pytest.raises(
        Conflict, match=r"map 'map' already exists, with other content \(1 images\)"
    ) as caught:
        any_store.put("map", two, "csv")
    assert caught.value.extra["digest"] == first.digest
    assert contents(root) == before
    assert any_store.get("map").num_images == 1


def test_get_and_list(any_store: MapStore, one: Path, two: Path, tmp_path: Path) -> None:
    assert any_store.list() == []
    text = csv(tmp_path / "text.csv", "a,1,1")
    for name, path in (("b", two), ("a", one), ("a.json", text)):
        any_store.put(name, path, "csv")
    infos = any_store.list()
    assert [(info.name, info.num_images, info.id_kind) for info in infos] == [
        ("a", 1, "int64"),
        ("a.json", 1, "string"),
        ("b", 2, "int64"),
    ]
    for info in infos:
        assert any_store.get(info.name).digest == info.digest
        assert any_store.get_digest(info.digest).digest == info.digest


def test_created_at_is_the_clock_s(root: Path, one: Path) -> None:
    store = MapStore(root, clock=lambda: 1_600_000_000.5)
    digest = store.put("map", one, "csv")[0].digest
    assert store.list() == [MapInfo("map", digest, 1, "int64", "2020-09-13T12:26:40+00:00")]


def test_an_unknown_name_is_told_some_that_are_known(any_store: MapStore, one: Path) -> None:
    with pytest.raises(NotFound, match=r"map 'x' does not exist\. Maps are: none"):
        any_store.get("x")
    for number in range(7):
        any_store.put(f"map{number}", one, "csv")
    with pytest.raises(NotFound, match=r"map0, map1, map2, map3, map4 and 2 more") as caught:
        any_store.get("x")
    assert caught.value.extra["known"] == ["map0", "map1", "map2", "map3", "map4"]
    with pytest.raises(NotFound, match="map 'x' does not exist"):
        any_store.delete("x")


@pytest.mark.parametrize("digest", ["0" * 64, "", "../names/a", "x" * 64])
def test_an_unknown_digest(any_store: MapStore, digest: str) -> None:
    with pytest.raises(NotFound, match="a map with the digest"):
        any_store.get_digest(digest)


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "x" * 200])
def test_a_name_that_is_none_is_refused_everywhere(any_store: MapStore, one: Path, name: str) -> None:
    for verb in (
        lambda: any_store.put(name, one, "csv"),
        lambda: any_store.get(name),
        lambda: any_store.delete(name),
    ):
        with pytest.raises(Invalid, match="must be a valid name"):
            verb()


def test_a_source_that_is_not_there(any_store: MapStore, tmp_path: Path) -> None:
    for path in (tmp_path / "nope.csv", tmp_path):
        with pytest.raises(Invalid, match="does not exist"):
            any_store.put("map", path, "csv")


def test_deleting_takes_the_content_with_its_last_name(
    any_store: MapStore, root: Path, one: Path, two: Path
) -> None:
    empty = contents(root)
    opened, _ = any_store.put("a", one, "csv")
    other, _ = any_store.put("other", two, "csv")
    assert any_store.put("b", one, "csv")[1]
    any_store.delete("a")
    assert any_store.get("b").digest == opened.digest
    any_store.delete("b")
    with pytest.raises(NotFound):
        any_store.get_digest(opened.digest)
    assert any_store.get("other").digest == other.digest
    any_store.delete("other")
    assert contents(root) == empty
    assert opened.ids(np.array([0])) == [1]  # what is open stays readable
    assert any_store.put("a", two, "csv")[1]  # and the name is free


def test_more_images_than_the_limit(root: Path, one: Path, two: Path) -> None:
    store = MapStore(root, max_images=1)
    store.put("one", one, "csv")
    before = contents(root)
    with pytest.raises(TooLarge, match="at most 1 images"):
        store.put("two", two, "csv")
    assert contents(root) == before


def test_what_a_dead_upload_left_is_swept_when_old(root: Path, one: Path) -> None:
    MapStore(root).put("map", one, "csv")
    before = contents(root)
    for name, age_s in (("old", STAGING_LIFE_S + 60), ("young", STAGING_LIFE_S - 3600)):
        (root / "staging" / name).mkdir()
        (root / "staging" / name / "ids").write_bytes(b"x")
        written_s = (root / "names" / "map.json").stat().st_mtime - age_s
        os.utime(root / "staging" / name, (written_s, written_s))
    MapStore(root)
    assert contents(root) == before | {"staging/young/": b"", "staging/young/ids": b"x"}


def test_a_name_whose_file_is_damaged(store: MapStore, root: Path, one: Path) -> None:
    store.put("map", one, "csv")
    (root / "names" / "map.json").write_bytes(b"{")
    for verb in (store.list, lambda: store.get("map"), lambda: store.put("map", one, "csv")):
        with pytest.raises(StoreUnavailable, match=r"map\.json is damaged: delete the map and put it again"):
            verb()
    store.delete("map")
    assert store.put("map", one, "csv")[1]


def test_an_object_that_lost_its_name_is_adopted(store: MapStore, root: Path, one: Path) -> None:
    """As a crash between the two moves leaves it."""
    store.put("map", one, "csv")
    before = contents(root)
    (root / "names" / "map.json").unlink()
    assert store.put("map", one, "csv")[1]
    after = contents(root)
    assert after.keys() == before.keys()
    assert {k: v for k, v in after.items() if "objects" in k} == {
        k: v for k, v in before.items() if "objects" in k
    }


def test_a_root_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        StoreUnavailable, match=r"cannot store maps in .*file/maps: Not a directory"
    ) as caught:
        MapStore(tmp_path / "file" / "maps")
    assert caught.value.extra["directory"] == str(tmp_path / "file" / "maps")


def test_a_root_that_went_away(store: MapStore, root: Path, one: Path) -> None:
    (root / "staging").rmdir()
    with pytest.raises(StoreUnavailable, match=r"cannot store maps in .*No such file or directory"):
        store.put("map", one, "csv")


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from bucketline_service.errors import StoreUnavailable
    from bucketline_service.maps import MapStore

    store = MapStore(Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
    try:
        store.put("map", Path(sys.argv[2]), "csv")
    except StoreUnavailable as error:
        sys.exit(0 if "cannot store maps in " + sys.argv[1] + ": File too large" in str(error) else str(error))
    sys.exit("was stored")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes there to stand for a full disk")
@pytest.mark.parametrize(
    "limit_bytes",
    [60_000, *(pytest.param(each, marks=pytest.mark.exhaustive) for each in (100, 10_000, 30_000))],
)
def test_a_disk_that_fills_up_at_any_point_leaves_nothing(
    store: MapStore, root: Path, limit_bytes: int
) -> None:
    """The kernel refuses to write on, as it does on a full disk: in a column, in the object."""
    before = contents(root)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), root, COCO, str(limit_bytes)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert contents(root) == before


RACE = """
    import sys
    from pathlib import Path
    from bucketline_service.errors import Conflict
    from bucketline_service.maps import MapStore

    store = MapStore(Path(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    won = []
    for number in range(6):
        try:
            store.put(f"map{number}", Path(sys.argv[2]), "csv")
            won.append(number)
        except Conflict:
            pass
    print(*won)
"""


def test_of_two_processes_with_different_content_one_wins_each_name(
    store: MapStore, root: Path, one: Path, two: Path
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(RACE), root]
    racers = [
        subprocess.Popen([*command, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for path in (one, two)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [set(map(int, racer.communicate()[0].split())) for racer in racers]
    assert won[0] | won[1] == set(range(6))
    assert not won[0] & won[1]
    for number in range(6):
        assert store.get(f"map{number}").num_images == (1 if number in won[0] else 2)


def test_stores_that_put_and_delete_the_same_content_at_once_do_not_take_it_from_each_other(
    store: MapStore, root: Path, two: Path
) -> None:
    before = contents(root)

    def churn(mine: str, others: str) -> None:
        own = MapStore(root)
        for _ in range(8):
            own.put(mine, two, "csv")[0].verify()
            with suppress(NotFound):
                own.get(others).verify()
            own.delete(mine)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(churn, "ab", "ba"))
    assert contents(root) == before


def test_a_name_s_file_is_plain_json(store: MapStore, root: Path, one: Path) -> None:
    digest = store.put("map", one, "csv")[0].digest
    about = json.loads((root / "names" / "map.json").read_bytes())
    assert about.pop("created_at").endswith("+00:00")
    assert about == {"name": "map", "digest": digest, "num_images": 1, "id_kind": "int64"}
