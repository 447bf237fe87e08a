"""A file that is replaced is the old one or the new one, whole."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from bucketline_service import atomic_files
from bucketline_service.atomic_files import replace_bytes, replacing, sync_folder, sync_tree, synced


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_replaced_when_the_block_ends_and_not_before(tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["plan.json"]


def test_a_block_that_raises_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(b"old")

    def interrupted():
        with replacing(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["plan.json"]


def test_a_rename_that_fails_leaves_no_temporary_file(tmp_path):
    (tmp_path / "folder" / "file").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        replace_bytes(tmp_path / "folder", b"new")
    assert names(tmp_path) == ["folder"]


def test_the_temporary_name_may_be_given(tmp_path):
    (tmp_path / "incoming").mkdir()
    with replacing(tmp_path / "it", tmp_path / "incoming" / "fresh") as file:
        assert names(tmp_path / "incoming") == ["fresh"]
        file.write(b"new")
    assert (tmp_path / "it").read_bytes() == b"new"
    assert names(tmp_path / "incoming") == []


def test_content_is_synced_before_the_name_changes(tmp_path, monkeypatch):
    seen = []
    path = tmp_path / "it"

    def fsync(descriptor, sync=os.fsync):
        seen.append((os.fstat(descriptor).st_size, path.exists()))
        sync(descriptor)

    monkeypatch.setattr(atomic_files.os, "fsync", fsync)
    replace_bytes(path, b"four")
    assert seen == [(4, False)]
    (tmp_path / "folder").mkdir()
    sync_folder(tmp_path)
    sync_tree(tmp_path)
    assert len(seen) == 4  # the folder; then the file and the folder


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "it"
    contents = [bytes([letter]) * 10_000 for letter in b"abcdefgh"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda data: replace_bytes(path, data), contents * 4))
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["it"]


def test_a_new_file_takes_no_other_ones_place(tmp_path):
    with synced(tmp_path / "it") as file:
        file.write(b"new")
    with pytest.raises(FileExistsError), synced(tmp_path / "it"):
        pass
    assert (tmp_path / "it").read_bytes() == b"new"
