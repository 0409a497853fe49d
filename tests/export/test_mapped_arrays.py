"""Arrays that are mapped from a file into memory."""

import numpy as np
import pytest

from keras_tfcl.atomic_write import atomic_write
from keras_tfcl.cli.options import read_rows
from keras_tfcl.export import InputError
from keras_tfcl.export.runtime.mapped_arrays import map_npy

ARRAYS = {
    "rows": np.arange(6.0).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "none": np.empty((0, 4), "uint8"),
    "one": np.float32(3),
    "big-endian": np.arange(3, dtype=">i4"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_as_it_was_saved(name, tmp_path):
    np.save(tmp_path / "x.npy", ARRAYS[name])
    found, expected = map_npy(tmp_path / "x.npy"), np.load(tmp_path / "x.npy")
    np.testing.assert_array_equal(found, expected, strict=True)
    assert found.flags.f_contiguous == expected.flags.f_contiguous


def test_what_is_no_array_of_numbers_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.array([{}], object), allow_pickle=True)
    objects = path.read_bytes()
    np.save(path, np.arange(9))
    for content in (objects, path.read_bytes()[:-1], path.read_bytes()[:20], b"text", b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"Expected a \.npy file of numbers"):
            read_rows(path)


def test_a_file_that_is_replaced_while_it_is_opened(tmp_path, monkeypatch):
    path, memmap = tmp_path / "x.npy", np.memmap

    def replace_then_map(*arguments, **options):
        with atomic_write(path) as draft:
            np.save(draft, np.zeros((100, 5)))
        return memmap(*arguments, **options)

    np.save(path, ARRAYS["rows"])
    monkeypatch.setattr(np, "memmap", replace_then_map)
    np.testing.assert_array_equal(read_rows(path), ARRAYS["rows"])
