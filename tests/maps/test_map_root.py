"""Maps at a root that replicas share: a folder, and a bucket of a real S3 server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from bucketline_service.errors import BucketlineError, Conflict, Invalid, NotFound, StoreUnavailable
from bucketline_service.maps import MapStore, ResolutionMap, SharedMapStore, SharedRoot
from bucketline_service.maps.shared_root.map_names import CLAIM_LIFE_S, SharedMapNames
from bucketline_service.maps.shared_root.root import RootFile
from bucketline_service.maps.store import STAGING_LIFE_S
from tests.s3_server import ENVIRON, KEY, SECRET, S3Server

from .files import contents

NewReplica = Callable[..., SharedMapStore]

ROWS = "id,width,height,num_repeats,num_frames\na,640,480,1,1\nb,480,640,2.5,17\nc,512,512,0,33\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.csv"
    path.write_text(ROWS)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.csv"
    path.write_text("id,width,height\n7,64,64\n")
    return path


def objects(uri: str) -> list[str]:
    return [entry.path for entry in SharedRoot(uri).files("objects")]


def told(opened: ResolutionMap) -> object:
    return opened.digest, opened.histogram(), opened.optional, opened.id_kind, opened.num_images


EVERY_ROOT = pytest.mark.parametrize("root_uri", ["folder", "s3", "gs"], indirect=True)


@EVERY_ROOT
def test_what_one_puts_the_other_has(replica: NewReplica, source: Path) -> None:
    one, two = replica("a"), replica("b")
    put, created = one.put("map", source, "csv")
    assert created
    assert one.list() == two.list() != []
    assert two.here(put.digest) is None
    got = two.get("map")
    got.verify()
    assert told(got) == told(put) == told(two.here(put.digest) or put)
    assert got.optional["num_repeats"] == {"min": 0.0, "max": 2.5, "total": 3.5}
    again, created = two.put("map", source, "csv")
    assert (told(again), created) == (told(put), False)


def test_a_copy_is_what_the_map_is(replica: NewReplica, source: Path, tmp_path: Path) -> None:
    """Byte for byte; the files beside it were made from it."""
    MapStore(tmp_path / "alone").put("map", source, "csv")
    alone = {k: v for k, v in contents(tmp_path / "alone").items() if k.startswith("objects")}
    replica("a").put("map", source, "csv")
    replica("b").get("map")
    for name in ("a", "b"):
        copies = contents(tmp_path / f"copies-{name}")
        assert {k: v for k, v in copies.items() if k.startswith("objects")} == alone


def test_a_copy_that_is_there_needs_no_root(replica: NewReplica, source: Path, tmp_path: Path) -> None:
    digest = replica("a").put("map", source, "csv")[0].digest
    nowhere = SharedMapStore(tmp_path / "copies-a", SharedRoot(tmp_path.joinpath("none").as_uri()))
    assert nowhere.get_digest(digest).num_images == 3
    nowhere.check()
    for verb in (nowhere.list, nowhere.probe, lambda: nowhere.get("map"), lambda: nowhere.delete("map")):
        with pytest.raises(StoreUnavailable, match=r"the map root file://.*none does not exist"):
            verb()
    with pytest.raises(StoreUnavailable):
        nowhere.put("map", source, "csv")
    assert not (tmp_path / "none").exists()


def test_deleted_by_one_is_deleted_for_all(
    replica: NewReplica, root_uri: str, source: Path, other: Path, tmp_path: Path
) -> None:
    one, two = replica("a"), replica("b")
    before = contents(tmp_path / "copies-b")
    one.put("map", source, "csv")
    opened = two.get("map")
    one.delete("map")
    assert objects(root_uri) == []
    with pytest.raises(NotFound, match="map 'map' does not exist"):
        two.get("map")
    assert two.list() == []
    assert contents(tmp_path / "copies-b") == before
    opened.verify()  # what is open stays readable
    with pytest.raises(NotFound, match="a map with the digest"):
        two.get_digest(opened.digest)
    assert two.put("map", other, "csv")[1]
    assert one.get("map").num_images == 1


def test_two_names_of_one_content_do_not_take_it_from_each_other(
    replica: NewReplica, root_uri: str, source: Path
) -> None:
    one, two = replica("a"), replica("b")
    one.put("first", source, "csv")
    two.put("second", source, "csv")
    assert len(objects(root_uri)) == 2
    two.delete("first")
    assert replica("c").get("second").num_images == 3


# --- what came with damage ------------------------------------------------------------------------------------


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    """One bit of a width."""
    place = data.index((480).to_bytes(4, "little"))
    return data[:place] + bytes([data[place] ^ 2]) + data[place + 1 :]


def longer(data: bytes) -> bytes:
    return data + bytes(64)


def another(data: bytes) -> bytes:
    """A whole Arrow file of something else."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([("x", pa.int64())])) as writer:
        writer.write_batch(pa.record_batch({"x": [1]}))
    return bytes(sink.getvalue())


HARMS = [cut, flipped, longer, another, lambda data: b""]


@pytest.mark.parametrize(
    ("root_uri", "harm"),
    [
        *(("folder", harm) for harm in HARMS),
        ("s3", flipped),
        *(pytest.param("s3", harm, marks=pytest.mark.exhaustive) for harm in HARMS if harm is not flipped),
        *(pytest.param("gs", harm, marks=pytest.mark.exhaustive) for harm in HARMS),
    ],
    indirect=["root_uri"],
)
def test_a_damaged_object_is_refused_and_leaves_nothing(
    replica: NewReplica, root_uri: str, source: Path, tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    one, two = replica("a"), replica("b")
    before = contents(tmp_path / "copies-b")
    one.put("map", source, "csv")
    (path,) = objects(root_uri)
    sound = SharedRoot(root_uri).read(path)
    assert sound is not None
    SharedRoot(root_uri).write(path, harm(sound))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=rf"{path} is damaged: .*\. Put the map again") as caught:
            two.get("map")
        assert str(tmp_path / "copies-b") not in caught.value.detail
        assert contents(tmp_path / "copies-b") == before
    assert one.put("map", source, "csv")[1] is False  # which repairs it
    assert SharedRoot(root_uri).read(path) == sound
    assert two.get("map").num_images == 3


def test_an_object_that_is_gone(replica: NewReplica, root_uri: str, source: Path) -> None:
    replica("a").put("map", source, "csv")
    (path,) = objects(root_uri)
    SharedRoot(root_uri).delete(path)
    with pytest.raises(NotFound, match="a map with the digest"):
        replica("b").get("map")
    assert replica("b").put("map", source, "csv")[1] is False
    assert replica("c").get("map").num_images == 3


def test_a_copy_that_is_damaged_is_fetched_anew(replica: NewReplica, source: Path, tmp_path: Path) -> None:
    digest = replica("a").put("map", source, "csv")[0].digest
    copy = tmp_path / "copies-a" / "objects" / f"{digest}.arrow"
    copy.write_bytes(cut(copy.read_bytes()))
    replica("a").get_digest(digest).verify()


def test_a_record_that_is_damaged(replica: NewReplica, root_uri: str, source: Path) -> None:
    replica("a").put("map", source, "csv")
    (entry,) = SharedRoot(root_uri).files("names")
    SharedRoot(root_uri).write(entry.path, b"{")
    with pytest.raises(StoreUnavailable, match=r"names/map/.* is damaged: delete the map and put it again"):
        replica("b").list()
    replica("b").delete("map")
    assert replica("b").put("map", source, "csv")[1]


# --- processes that die ---------------------------------------------------------------------------------------

DIE = """
    import os, signal, sys
    from pathlib import Path
    from bucketline_service.maps import SharedMapStore, SharedRoot
    from bucketline_service.maps.shared_root import root

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    class Mortal(SharedRoot):
        num_pieces = 0

        def _go_on(self):
            self.num_pieces += 1
            if sys.argv[4] == "upload" and self.num_pieces == 3:
                die()

    root._STEP = 256
    store = SharedMapStore(Path(sys.argv[1]), Mortal(sys.argv[2]))
    if sys.argv[4] == "name":
        store._map_names.give = die
    store.put("map", Path(sys.argv[3]), "csv")
"""


@pytest.mark.parametrize(
    ("root_uri", "when"),
    [
        ("folder", "name"),
        ("s3", "upload"),
        pytest.param("folder", "upload", marks=pytest.mark.exhaustive),
        pytest.param("s3", "name", marks=pytest.mark.exhaustive),
        *(pytest.param("gs", when, marks=pytest.mark.exhaustive) for when in ("upload", "name")),
    ],
    indirect=["root_uri"],
)
def test_a_process_that_dies_on_the_way_leaves_no_half_map(
    replica: NewReplica, root_uri: str, source: Path, tmp_path: Path, when: str
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(DIE), tmp_path / "copies-dead", root_uri, source, when]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(objects(root_uri)) == (when == "name")
    late = replica("late", clock=lambda: 4e9)  # long after the death
    assert late.list() == []
    with pytest.raises(NotFound):
        late.get("map")
    assert late.put("map", source, "csv")[1]
    assert replica("b").get("map").num_images == 3


def test_what_the_dead_have_left_is_swept_when_old(root_uri: str, source: Path, tmp_path: Path) -> None:
    root = SharedRoot(root_uri)
    orphan = f"objects/{'0' * 64}/dead.arrow"
    root.write(orphan, b"x")
    (written,) = root.files("objects")
    for age_s, is_left in ((STAGING_LIFE_S - 60, True), (STAGING_LIFE_S + 60, False)):
        store = SharedMapStore(tmp_path / "copies", root, clock=lambda age_s=age_s: written.mtime_s + age_s)
        store.put(f"map{is_left}", source, "csv")
        assert (orphan in objects(root_uri)) == is_left
    assert len(store.list()) == len(objects(root_uri)) == 2
    if root.is_folder:
        left = tmp_path / "shared" / "incoming" / "dead"
        left.write_bytes(b"x")
        os.utime(left, (1, 1))
        store.put("another", source, "csv")
        assert not left.exists()


# --- who is first ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "root_uri", ["folder", "s3", pytest.param("gs", marks=pytest.mark.exhaustive)], indirect=True
)
def test_of_replicas_that_put_different_content_at_once_one_wins_each_name(
    replica: NewReplica, root_uri: str, tmp_path: Path
) -> None:
    num, num_names = 3, 2
    sources = [tmp_path / f"{number}.csv" for number in range(num)]
    for number, path in enumerate(sources):
        path.write_text(f"id,width,height\n{number},640,480\n")
    stores = [replica(f"r{number}") for number in range(num)]
    outcomes: dict[tuple[int, int], object] = {}
    start = threading.Barrier(num)

    def put_all(number: int) -> None:
        for name in range(num_names):
            start.wait()
            try:
                outcomes[name, number] = stores[number].put(f"map{name}", sources[number], "csv")[1]
            except BucketlineError as error:
                outcomes[name, number] = error

    threads = [threading.Thread(target=put_all, args=(number,)) for number in range(num)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in range(num_names):
        won = [number for number in range(num) if outcomes[name, number] is True]
        lost = [outcomes[name, number] for number in range(num) if number not in won]
        assert len(won) == 1, outcomes
        winner = stores[won[0]].get(f"map{name}")
        assert winner.ids(winner.find_many(won)) == won
        for each in lost:
            assert isinstance(each, Conflict), each
            assert each.extra["digest"] == winner.digest
    assert len(objects(root_uri)) == num_names
    assert not [entry for entry in SharedRoot(root_uri).files("names") if entry.path.endswith(".claim")]


class Bucket(SharedRoot):
    """A folder taken for an object store: nothing is renamed, and files can be given times."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.as_uri())
        self.is_folder = False
        self.folder = folder
        self.on_files: Callable[[], None] = lambda: None

    def files(self, under: str) -> list[RootFile]:
        self.on_files()
        return super().files(under)

    def write(self, path: str, data: bytes) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        super().write(path, data)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return Bucket(tmp_path)


def ticking() -> Callable[[], float]:
    """Each look is a second later."""
    seconds = iter(range(1000))
    return lambda: float(next(seconds))


def claims(bucket: Bucket) -> list[str]:
    return sorted(path.stem for path in bucket.folder.glob("names/map/*.claim"))


def test_the_claim_that_sorts_first_goes_on(bucket: Bucket) -> None:
    """The other one, seen while it claims, withdraws."""
    bucket.write("names/map/b-2.claim", b"")
    looks = 0

    def withdraw() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            bucket.delete("names/map/b-2.claim")

    bucket.on_files = withdraw
    assert SharedMapNames(bucket).give("map", "a-1", {}) == "a-1"
    assert looks == 3
    assert claims(bucket) == []


def test_the_claim_that_sorts_later_withdraws_and_hears_who_won(bucket: Bucket) -> None:
    bucket.write("names/map/a-1.claim", b"")
    seen: list[list[str]] = []

    def decide() -> None:
        seen.append(claims(bucket))
        if len(seen) == 2:
            bucket.write("names/map/a-1.json", b"{}")

    bucket.on_files = decide
    assert SharedMapNames(bucket).give("map", "b-2", {}) == "a-1"
    assert seen == [["a-1", "b-2"], ["a-1", "b-2"]]
    assert claims(bucket) == ["a-1"]


def test_a_claim_that_was_given_up_leaves_the_name(bucket: Bucket) -> None:
    bucket.write("names/map/a-1.claim", b"")
    looks = 0

    def give_up() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            bucket.delete("names/map/a-1.claim")

    bucket.on_files = give_up
    assert SharedMapNames(bucket).give("map", "b-2", {}) == "b-2"


@pytest.mark.parametrize("rival", ["a-1", "c-3"])
def test_who_does_not_decide_is_told_of_and_not_overruled(bucket: Bucket, rival: str) -> None:
    bucket.write(f"names/map/{rival}.claim", b"")
    with pytest.raises(StoreUnavailable, match="giving the name 'map' to a map"):
        SharedMapNames(bucket, ticking()).give("map", "b-2", {})
    assert claims(bucket) == [rival]
    assert not list(bucket.folder.glob("names/map/*.json"))


@pytest.mark.parametrize("rival", ["a-1", "c-3"])
def test_a_claim_of_the_dead_is_taken_away(bucket: Bucket, rival: str) -> None:
    bucket.write(f"names/map/{rival}.claim", b"")
    path = bucket.folder / "names" / "map" / f"{rival}.claim"
    long_ago_s = path.stat().st_mtime - CLAIM_LIFE_S - 60
    os.utime(path, (long_ago_s, long_ago_s))
    assert SharedMapNames(bucket).give("map", "b-2", {}) == "b-2"
    assert claims(bucket) == []


def test_a_claim_that_was_taken_for_dead_is_not_acted_upon(bucket: Bucket) -> None:
    """The process was paused: another one has removed its claim, and may have its own by now."""
    looks = 0

    def take_away() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            bucket.delete("names/map/b-2.claim")
            bucket.write("names/map/a-1.claim", b"")
        if looks == 3:
            bucket.write("names/map/a-1.json", b"{}")

    bucket.on_files = take_away
    assert SharedMapNames(bucket).give("map", "b-2", {}) == "a-1"


def test_who_has_no_claim_any_more_claims_again(bucket: Bucket) -> None:
    seen: list[list[str]] = []

    def take_away() -> None:
        if not seen:
            bucket.delete("names/map/b-2.claim")
        seen.append(claims(bucket))

    bucket.on_files = take_away
    assert SharedMapNames(bucket).give("map", "b-2", {}) == "b-2"
    assert seen == [[], ["b-2"]]


# --- the URI, and what is never told of it --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("shared/maps", "URI has empty scheme"),
        ("", "empty"),
        ("ftp://user:s3cret@host/maps", "Unrecognized filesystem type"),
        ("s3://key:s3cret@bucket/maps?secret=s3cret", "Unexpected query parameter"),
        ("s3://key:s3cret @bucket", "Cannot parse URI"),
        ("s3://", "bucket"),
        ("file:///", "must name a bucket or folder"),
    ],
)
def test_a_uri_that_is_none(uri: str, told: str) -> None:
    with pytest.raises(Invalid, match=told) as caught:
        SharedRoot(uri)
    assert caught.value.field == "map_root"
    assert "Give s3://bucket/prefix, gs://bucket/prefix or file:///folder" in caught.value.detail
    assert "s3cret" not in caught.value.detail


def test_a_root_shows_no_secret(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    with_keys = s3_server.uri("none").replace("s3://", f"s3://{KEY}:{SECRET}@")
    root = SharedRoot(with_keys)
    assert root.shown == "s3://none/maps"
    for verb in (root.probe, lambda: root.files("names"), lambda: root.write("x", b"")):
        with pytest.raises(StoreUnavailable, match="the map root s3://none/maps") as caught:
            verb()
        assert not {KEY, SECRET} & set(caught.value.detail.split("'"))
        assert SECRET not in caught.value.detail + repr(caught.value.extra)


def test_an_object_store_that_does_not_listen() -> None:
    root = SharedRoot(
        "s3://me:testing-s3cret@bucket/maps?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    )
    with pytest.raises(
        StoreUnavailable, match=r"the map root s3://bucket/maps cannot be used: .*connect"
    ) as caught:
        root.files("names")
    assert "s3cret" not in caught.value.detail


def test_what_is_copied_ends_with_the_process(replica: NewReplica, root_uri: str, source: Path) -> None:
    store = replica("a")
    store.close()
    with pytest.raises(StoreUnavailable, match="the coordinator is shutting down"):
        store.put("map", source, "csv")
    assert objects(root_uri) == []
