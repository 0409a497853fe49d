import functools

import pytest


@pytest.fixture
def tfds(monkeypatch, tmp_path):
    """tensorflow_datasets that keeps what it prepares in this test's folder."""
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(tfds, "builder", functools.partial(tfds.builder, data_dir=str(tmp_path)))
    return tfds
