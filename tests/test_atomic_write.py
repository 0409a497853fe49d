import os

import pytest

from keras_tfcl.atomic_write import write_atomically


def test_replaces_the_file_and_creates_its_folder(tmp_path):
    for content in (b"old", b"new"):
        write_atomically(tmp_path / "deep" / "file.txt", content)
    assert (tmp_path / "deep" / "file.txt").read_bytes() == b"new"
    assert os.listdir(tmp_path / "deep") == ["file.txt"]


def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path, monkeypatch):
    write_atomically(tmp_path / "file.txt", b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "file.txt", b"new")
    assert os.listdir(tmp_path) == ["file.txt"] and (tmp_path / "file.txt").read_bytes() == b"old"
