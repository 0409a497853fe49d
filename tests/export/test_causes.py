"""Errors that name the true cause, and remedies that work when they are followed to the letter."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.onnx_files import run
from keras_tfcl.export import ModelOutputError, NonFiniteError, UnsupportedLayerError, UnsupportedOpError, export_onnx
from keras_tfcl.export import export as exporter
from keras_tfcl.export.keras_to_onnx.golden_inputs import Golden, make_golden_inputs, rounding_noise
from keras_tfcl.export.keras_to_onnx.kernel_logs import kernel_logs_held_back
from keras_tfcl.export.keras_to_onnx.source import read_source

layers, ops = keras.layers, keras.ops


def follow(remedy, **names):
    """Run the code of a remedy and return what its last expression gives."""
    *statements, expression = remedy.split("; ")
    scope = {"keras": keras, **names}
    for statement in statements:
        exec(statement, scope)
    return eval(expression, scope)


class Tower(keras.Model):
    """A model whose attributes are called as those of a ContrastiveModel, and mean something else."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.projector = layers.Dense(5, activation="tanh"), layers.Dense(3)

    def call(self, x, training=False):
        return self.projector(self.encoder(x - 1.5)) * (9.0 if training else 1.0)


def test_a_model_is_its_call_whatever_its_attributes_are_called(tmp_path):
    model = Tower()
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    model(x)
    report = export_onnx(model, tmp_path / "encoder.onnx", normalize=False)
    inner, bias, outer, last = (np.asarray(weight, "float64") for weight in model.get_weights())
    np.testing.assert_allclose(
        run(tmp_path / "encoder.onnx", x), np.tanh((x - 1.5) @ inner + bias) @ outer + last, atol=1e-5
    )
    assert report.projector == "none"
    with pytest.raises(ValueError, match=r"Received: Tower, which is exported as model\(x\)"):
        export_onnx(model, tmp_path / "encoder.onnx", projector=True)


def test_a_contrastive_model_without_projector(tmp_path):
    encoder = keras.Sequential([keras.Input((6,)), layers.Dense(5)])
    model = keras_tfcl.ContrastiveModel(encoder)
    assert export_onnx(model, tmp_path / "encoder.onnx").dimension == 5
    if model.projector is None:
        with pytest.raises(ValueError, match="projector=None"):
            export_onnx(model, tmp_path / "encoder.onnx", projector=True)


def recurrent(wrap):
    return keras.Sequential(
        [
            keras.Input(batch_shape=(4, 5, 3)),
            wrap(layers.LSTM(4, stateful=True, return_sequences=True)),
            keras.Sequential([layers.GRU(3, stateful=True)], name="inner"),
        ]
    )


@pytest.mark.parametrize("wrap", [lambda layer: layer, layers.Bidirectional], ids=["plain", "bidirectional"])
def test_a_stateful_rnn_and_its_remedy(wrap, tmp_path):
    model = recurrent(wrap)
    with pytest.raises(UnsupportedLayerError, match=r"keeps no state.*stateful=True") as caught:
        export_onnx(model, tmp_path / "encoder.onnx")
    assert list(tmp_path.iterdir()) == []
    for statement in re.search(r"Turn it off: (.*)\.$", str(caught.value)).group(1).split("; "):
        exec(statement, {"model": model})
    assert export_onnx(model, tmp_path / "encoder.onnx").matches


class Counts(layers.Layer):
    """Adds how often it was called."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x, training=False):
        self.calls.assign(self.calls + 1.0)
        return x + self.calls


def test_a_weight_that_a_call_changes(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), Counts(name="culprit")])
    before = model.layers[-1].calls.numpy()
    with pytest.raises(UnsupportedLayerError, match=r"`sequential\w*/culprit/calls`.*`if training:`"):
        export_onnx(model, tmp_path / "encoder.onnx")
    assert model.layers[-1].calls.numpy() == before


def test_every_layer_with_weights_that_are_nan_is_named(tmp_path):
    ids = keras.Input((4,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(9, 2, name="second")(ids))
    model = keras.Model(ids, layers.Dense(3, name="first")(layers.Dense(3, name="good")(x)))
    model.get_layer("first").bias.assign([0.0, np.nan, 0.0])
    with pytest.raises(
        NonFiniteError, match=r"NaN or infinity in `first` \(Dense\): training has diverged.*load_weights"
    ) as caught:
        export_onnx(model, tmp_path / "encoder.onnx")
    assert "good" not in str(caught.value)
    table = model.get_layer("second").embeddings
    table.assign(np.where(np.arange(9)[:, None] == 7, np.nan, table))  # one row that random ids may miss
    with pytest.raises(NonFiniteError, match=r"`second` \(Embedding\), `first` \(Dense\)"):
        export_onnx(model, tmp_path / "encoder.onnx")


def test_inside_a_graph(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with tf.Graph().as_default(), pytest.raises(RuntimeError, match=r"must run eagerly.*tf\.Graph\(\)"):
        export_onnx(model, tmp_path / "encoder.onnx")

    @tf.function(autograph=False)
    def export():
        export_onnx(model, tmp_path / "encoder.onnx")

    with pytest.raises(RuntimeError, match=r"must run eagerly.*`tf\.function`"):
        export()
    assert export_onnx(model, tmp_path / "encoder.onnx").matches


class GivesSeveral(keras.Model):
    """Declares neither inputs nor outputs."""

    def __init__(self, outputs):
        super().__init__()
        self.dense, self.outputs_of = layers.Dense(3), outputs

    def call(self, x):
        return self.outputs_of(self.dense(x))


def functional(shape, outputs):
    x = keras.Input(shape)
    return keras.Model(x, outputs(x))


OUTPUTS = {
    "a dict": lambda: functional((4,), lambda x: {"a": layers.Dense(2)(x), "b": layers.Dense(3)(x)}),
    "a list": lambda: functional((4,), lambda x: [layers.Dense(2)(x), layers.Dense(3)(x)]),
    "a sequence": lambda: functional((7, 4), layers.Dense(3)),
    "an image": lambda: functional((7, 7, 4), layers.Dense(3)),
    "an image of a Sequential": lambda: keras.Sequential([keras.Input((7, 7, 4)), layers.Dense(3)]),
    "a video": lambda: functional((3, 7, 7, 4), layers.Dense(3)),
    "a number a row": lambda: functional((4,), lambda x: ops.sum(layers.Dense(3)(x), axis=-1)),
    "integers": lambda: functional((4,), lambda x: ops.cast(layers.Dense(3)(x), "int32")),
    "a dict of a subclassed model": lambda: GivesSeveral(lambda y: {"a": y, "b": 2 * y}),
    "a tuple of a subclassed model": lambda: GivesSeveral(lambda y: (y, 2 * y)),
}


@pytest.mark.parametrize("build", OUTPUTS.values(), ids=OUTPUTS)
def test_the_remedy_of_a_wrong_output_exports(build, tmp_path):
    model = build()
    samples = None if hasattr(model, "inputs") else np.ones((2, 4), "float32")
    with pytest.raises(ModelOutputError, match=r"one float embedding \(batch, D\)\. Received: ") as caught:
        export_onnx(model, tmp_path / "encoder.onnx", samples=samples)
    remedy = re.search(r"(?:Choose one|Pool or flatten it|Give floats): (.*)\.$", str(caught.value)).group(1)
    mended = follow(remedy.replace("keras.Input(shape, dtype=...)", "keras.Input((4,))"), model=model)
    assert export_onnx(mended, tmp_path / "encoder.onnx").matches


def test_an_embedding_whose_length_follows_the_size_of_the_input(tmp_path):
    flatten = layers.Lambda(lambda x: ops.reshape(x, (-1, 3 * ops.shape(x)[1])), output_shape=(None,))
    model = keras.Sequential([keras.Input((None, 3)), flatten])
    with pytest.raises(ModelOutputError, match=r"embeddings of one length.*Pool over the free dimensions"):
        export_onnx(model, tmp_path / "encoder.onnx")


def recorded_ids(monkeypatch, model, path):
    """Export, and return all integers that the file was compared on."""
    seen = []
    original = exporter.check_file

    def check_file(path, onnx_model, source, golden, normalize):
        seen.extend(values.ravel() for batch in golden for values in batch.inputs)
        return original(path, onnx_model, source, golden, normalize)

    monkeypatch.setattr(exporter, "check_file", check_file)
    export_onnx(model, path)
    return np.concatenate(seen)


def test_ids_stay_in_the_vocabulary(monkeypatch, tmp_path):
    """The last id that has a vector is tried, none beyond, whatever other Embedding the model holds."""
    ids = keras.Input((None,), dtype="int32")
    embedded = layers.Embedding(300, 4)(ids) + layers.Embedding(70, 4)(ops.cumsum(ops.ones_like(ids), axis=1) - 1)
    model = keras.Model(ids, layers.GlobalAveragePooling1D()(embedded))
    seen = recorded_ids(monkeypatch, model, tmp_path / "encoder.onnx")
    assert (seen.min(), seen.max()) == (0, 299)


def test_any_integer_is_tried_where_a_remainder_comes_first(monkeypatch, tmp_path):
    ids = keras.Input((5,), dtype="int32")
    model = keras.Model(ids, layers.Flatten()(layers.Embedding(7, 4)(ids % 7)))
    seen = recorded_ids(monkeypatch, model, tmp_path / "encoder.onnx")
    assert seen.min() < -100_000
    assert seen.max() > 100_000
    assert {-1, 0, 1, 6} <= set(seen.tolist())


def test_an_embedding_that_is_rounding_noise_is_told_apart(tmp_path):
    """Behind a group normalization a constant image is 0 / 0 but for rounding; a random one is not."""
    model = keras.Sequential(
        [
            keras.Input((40, 40, 3)),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.MaxPooling2D(),
            layers.GroupNormalization(1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, bias_initializer="ones"),
        ]
    )
    assert export_onnx(model, tmp_path / "encoder.onnx", normalize=False).matches
    source = read_source(model, projector=False)
    usual, edges = make_golden_inputs(source, normalize=False)[1:3]
    assert edges.edge
    constant = np.ptp(edges.inputs[0], axis=(1, 2, 3)) == 0
    noise = rounding_noise(source, edges, normalize=False)
    assert constant.sum() >= 3
    assert noise[constant].max() > 10 * rounding_noise(source, usual, normalize=False).max()
    assert "call" not in vars(model.layers[0])


def test_digits_that_the_model_loses_are_rounding_noise():
    """TensorFlow adds 60,000 equal numbers one after another, and is off by more than the tolerance of a file."""
    model = keras.Sequential([keras.Input((60_000, 4)), layers.GlobalAveragePooling1D()])
    constant = np.full((1, 60_000, 4), 0.43, "float32")
    reference = model(constant).numpy()
    lost = np.abs(reference - 0.43).max()
    assert lost > 1e-4 * 0.43
    edge = Golden((constant,), reference, "a constant", edge=True)
    assert rounding_noise(read_source(model, projector=False), edge, normalize=False) == pytest.approx([lost], rel=1e-3)


class Branches(keras.layers.Layer):
    def call(self, x):
        return x if ops.sum(x) > 0 else -x

    def compute_output_shape(self, shape):
        return shape


def test_python_code_on_values_is_refused_without_advice_that_does_not_help(tmp_path):
    model = keras.Sequential([keras.Input((4,)), Branches(name="branches")])
    with pytest.raises(UnsupportedOpError, match=r"`branches` \(Branches\)\. Use keras\.ops alone") as caught:
        export_onnx(model, tmp_path / "encoder.onnx", samples=np.ones((2, 4), "float32"))
    assert "autograph" not in str(caught.value).lower()


KERNEL_LOG = """
import sys
import keras
from keras_tfcl.export import export_onnx

x = keras.Input((None,), dtype="int32")
export_onnx(keras.Model(x, keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(40, 8)(x))), sys.argv[1])
"""


@pytest.mark.slow
def test_ids_that_the_model_rejects_are_tried_in_silence(tmp_path):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}
    command = [sys.executable, "-c", KERNEL_LOG, str(tmp_path / "encoder.onnx")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "INVALID_ARGUMENT" not in done.stderr


def test_only_the_logs_of_kernels_are_held_back(capfd):
    with kernel_logs_held_back():
        os.write(2, b"W0000 00:00:17.36 1921 local_rendezvous.cc:412] aborting with status: INVALID_ARGUMENT\nmine\n")
    assert capfd.readouterr().err == "mine\n"


def test_kernel_logs_need_no_open_stderr():
    kept = {descriptor: os.dup(descriptor) for descriptor in (0, 2)}  # a service may close them all
    for descriptor in kept:
        os.close(descriptor)
    try:
        with kernel_logs_held_back():
            pass
    finally:
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)
