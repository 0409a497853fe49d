import pytest

from keras_tfcl.export import quantized_model


@pytest.fixture(autouse=True)
def latency_of_three_runs(monkeypatch):
    """A report measures each of two models for half a second, which tests of its other figures need not wait for."""
    monkeypatch.setattr(quantized_model, "_SECONDS", 0.0)
