import errno
import os
import threading

import pytest

from keras_tfcl.atomic_write import write_atomically


def test_replaces_the_file_and_creates_its_folder(tmp_path):
    for content in (b"old", b"new"):
        write_atomically(tmp_path / "deep" / "file.txt", content)
    assert (tmp_path / "deep" / "file.txt").read_bytes() == b"new"
    assert os.listdir(tmp_path / "deep") == ["file.txt"]


def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path, monkeypatch):
    write_atomically(tmp_path / "file.txt", b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match=r"No space left on device for .*file\.txt\. It was not written"):
        write_atomically(tmp_path / "file.txt", b"new")
    assert os.listdir(tmp_path) == ["file.txt"] and (tmp_path / "file.txt").read_bytes() == b"old"


def test_writers_at_the_same_time_leave_the_whole_file_of_one_and_nothing_else(tmp_path):
    errors = []

    def write(value):
        try:
            for _ in range(100):
                write_atomically(tmp_path / "file.txt", bytes([value]) * 10_000)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (tmp_path / "file.txt").read_bytes()
    assert not errors and len(content) == 10_000 and len(set(content)) == 1
    assert os.listdir(tmp_path) == ["file.txt"]


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    left = tmp_path / ".file.txt.0123456789abcdef.tmp"
    left.mkdir()
    (left / "file.txt").write_bytes(b"half")
    write_atomically(tmp_path / "file.txt", b"new")
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_file_that_is_there_can_be_kept(tmp_path):
    """As of two processes that begin a run: one record, whose lock both of them see."""
    for content in (b"first", b"second"):
        write_atomically(tmp_path / "file.txt", content, replace=False)
    assert os.listdir(tmp_path) == ["file.txt"] and (tmp_path / "file.txt").read_bytes() == b"first"


def test_paths_that_are_not_unicode_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be Unicode\. Received: '.*\\udcff/run\.json'"):
        write_atomically(tmp_path / "\udcff" / "run.json", b"")
