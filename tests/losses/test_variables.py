"""What is trained inside a loss, at any depth: found, trained, saved, listed, and left out of weight decay."""

import warnings
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest

import keras_tfcl
import keras_tfcl.testing
from helpers.models import contrastive_model, dense_encoder
from keras_tfcl.losses.loss_variables import layers_of_loss, variables_of_loss

VIEWS = tuple(np.random.default_rng(n).normal(size=(12, 5)).astype("float32") for n in range(2))
registered = keras.saving.register_keras_serializable(package="test_variables")


@registered
class Halved(keras_tfcl.Scaling):
    """A scaling of one's own around another one."""

    def __init__(self, inner=None):
        self.inner = inner or keras_tfcl.LearnableTemperature(0.2)

    def __call__(self, similarity):
        return 0.5 * self.inner(similarity)

    def get_config(self):
        return {"inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["inner"]))


@registered
class Gain(keras_tfcl.Scaling):
    """Holds bare variables, in a dictionary in a list."""

    def __init__(self):
        self.held = [{"gain": keras.Variable(5.0, name="gain"), "fixed": keras.Variable(1.0, trainable=False)}]

    def __call__(self, similarity):
        gain = keras.ops.convert_to_tensor(self.held[0]["gain"] * self.held[0]["fixed"])
        return similarity * keras.ops.cast(gain, similarity.dtype)


@registered
class Softened(keras_tfcl.Negatives):
    """A guard around other negatives, with a temperature of its own in a tuple."""

    def __init__(self):
        self.parts = (keras_tfcl.negatives.get("all"), keras_tfcl.LearnableTemperature(0.5))

    def log_sum(self, logits, pairs, lowest):
        return self.parts[0].log_sum(self.parts[1](logits) / 2, pairs, lowest)


def loss_of(name: str) -> keras_tfcl.ContrastiveLoss:
    return {
        "scaling": lambda: keras_tfcl.ContrastiveLoss(Halved()),
        "twice nested": lambda: keras_tfcl.ContrastiveLoss(Halved(Halved())),
        "variables": lambda: keras_tfcl.ContrastiveLoss(Gain()),
        "negatives": lambda: keras_tfcl.ContrastiveLoss(0.2, negatives=Softened()),
        "both": lambda: keras_tfcl.ContrastiveLoss(Halved(), negatives=Softened()),
    }[name]()


TRAINED = {"scaling": 1, "twice nested": 1, "variables": 1, "negatives": 1, "both": 2}


def build(loss: Any, optimizer: Any, eager: bool = False) -> keras_tfcl.ContrastiveModel:
    options = {"run_eagerly": eager}
    return contrastive_model(
        lambda: dense_encoder(5, 4), optimizer=optimizer, loss=loss, compile_options=options, seed=1
    )


def fit(model: keras_tfcl.ContrastiveModel) -> list[float]:
    return model.fit(VIEWS, batch_size=6, shuffle=False, verbose=0).history["loss"]


@pytest.mark.parametrize("name", TRAINED)
def test_trained_and_resumed(name, tmp_path):
    """Each variable moves, and a loaded run continues with the losses of one that never stopped."""
    loss = loss_of(name)
    model = build(loss, keras.optimizers.Adam(0.05), eager=name != "both")  # once compiled
    variables = variables_of_loss(loss)
    before = [np.array(variable) for variable in variables]
    fit(model)
    moved = [bool((np.array(v) != start).all()) for v, start in zip(variables, before, strict=True)]
    assert moved == [variable.trainable for variable in variables]
    assert sum(moved) == TRAINED[name]
    assert len(model.trainable_variables) == 2 + TRAINED[name]

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for variable, copy in zip(variables, variables_of_loss(loaded.loss), strict=True):
        np.testing.assert_array_equal(copy, variable)
    np.testing.assert_allclose(fit(loaded), fit(model), rtol=1e-5)


def test_gradient_of_a_nested_temperature():
    """One step of gradient descent against a central difference in float64."""
    loss = loss_of("scaling")
    model = build(loss, keras.optimizers.SGD(0.1))
    kernel = model.encoder.layers[-1].kernel.numpy().astype("float64")
    z = np.stack([view.astype("float64") @ kernel for view in VIEWS], axis=1).reshape(24, 4)
    z /= np.linalg.norm(z, axis=1, keepdims=True)

    def infonce(log_scale):
        logits = 0.5 * np.exp(log_scale) * z @ z.T
        np.fill_diagonal(logits, -np.inf)
        positive = logits[np.arange(24), np.arange(24) ^ 1]
        return (np.log(np.exp(logits).sum(1)) - positive).mean()

    start, step = np.log(1 / 0.2), 1e-5
    gradient = (infonce(start + step) - infonce(start - step)) / (2 * step)
    model.fit(VIEWS, batch_size=12, shuffle=False, verbose=0)
    assert float(loss.scaling.inner.log_scale) == pytest.approx(start - 0.1 * gradient, abs=1e-5)


def test_summary_lists_them(capsys):
    model = build(loss_of("both"), "sgd")
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert text.count("LearnableTemperature") == 2
    assert "Trainable params: 26" in text  # kernel 5 x 4, bias 4, two temperatures
    lines.clear()
    build(loss_of("variables"), "sgd").summary(print_fn=lines.append)
    assert "LossVariables" in "\n".join(lines)


def test_compiled_again_with_another_loss():
    """The variables of the first loss leave the model."""
    model = build(loss_of("variables"), "sgd")
    model.compile("sgd", loss=loss_of("scaling"))
    assert [v.name for v in model.trainable_variables] == ["kernel", "bias", "log_scale"]
    model.compile("sgd", loss="infonce")
    assert len(model.trainable_variables) == 2


def test_what_is_found_and_how_often():
    temperature = keras_tfcl.LearnableTemperature()

    @dataclass(slots=True)
    class Slotted:
        inner: Any

    holder = Slotted([temperature, {"again": temperature}])
    holder_of_itself = Slotted(None)
    holder_of_itself.inner = (holder, holder_of_itself, temperature.log_scale)
    assert layers_of_loss(holder_of_itself) == [temperature]
    assert variables_of_loss(keras_tfcl.InfoNCE(0.1)) == []


# Weight decay


def decayed(variable: float, rate: float, decay: float) -> float:
    return variable * (1 - rate * decay)


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "loss scaling"])
@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_temperatures_do_not_decay(kind, wrapped):
    """With gradients of zero only weight decay moves a variable: `w <- w (1 - rate * decay)`."""
    loss = keras_tfcl.SigmoidContrastiveLoss(scale=7.0, bias=-3.0)
    optimizer = getattr(keras.optimizers, kind)(0.1, weight_decay=0.5)
    model = build(loss, keras.optimizers.LossScaleOptimizer(optimizer) if wrapped else optimizer)
    kernel = model.encoder.layers[-1].kernel.numpy()
    zeros = [keras.ops.zeros_like(variable) for variable in model.trainable_variables]
    model.optimizer.apply(zeros, model.trainable_variables)
    np.testing.assert_allclose(model.encoder.layers[-1].kernel, decayed(kernel, 0.1, 0.5), rtol=1e-5)
    assert float(loss.logits.log_scale) == pytest.approx(np.log(7.0), rel=1e-6)
    assert float(loss.logits.bias) == pytest.approx(-3.0, rel=1e-6)


class Centres(keras_tfcl.losses.EmbeddingLoss):
    def __init__(self):
        super().__init__()
        self.centres = [keras.Variable(np.ones((3, 4), "float32"), name="centres")]
        self.scale = {"scale": keras.Variable(2.0, name="scale")}


@pytest.mark.parametrize("by", ["name", "variable"])
def test_exclusions_of_the_user_stay_and_a_matrix_decays(by):
    loss, dense = Centres(), keras.layers.Dense(4, bias_initializer="ones")
    encoder = keras.Sequential([keras.Input((5,)), dense])
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(
        **{"name": {"var_names": ["kernel"]}, "variable": {"var_list": [dense.kernel]}}[by]
    )
    model = keras_tfcl.ContrastiveModel(encoder)
    model.compile(optimizer, loss)
    kernel = dense.kernel.numpy()
    model.optimizer.apply([keras.ops.zeros_like(v) for v in model.trainable_variables], model.trainable_variables)
    np.testing.assert_array_equal(dense.kernel, kernel)
    np.testing.assert_allclose(dense.bias, decayed(np.ones(4), 0.1, 0.5), rtol=1e-5)
    np.testing.assert_allclose(loss.centres[0], decayed(np.ones((3, 4)), 0.1, 0.5), rtol=1e-5)
    assert float(loss.scale["scale"]) == 2.0


def test_temperatures_do_not_decay_after_loading(tmp_path):
    model = build(loss_of("scaling"), keras.optimizers.AdamW(0.1, weight_decay=0.5))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.optimizer.apply([keras.ops.zeros_like(v) for v in loaded.trainable_variables], loaded.trainable_variables)
    assert float(loaded.loss.scaling.inner.temperature) == pytest.approx(0.2, rel=1e-6)


# In a plain Keras model


def plain(loss: Any, **options: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)], name="tower")
    model.compile("sgd", loss=loss, **options)
    return model


@pytest.mark.parametrize(
    "options",
    [{}, {"run_eagerly": True}, pytest.param({"jit_compile": True}, marks=pytest.mark.slow)],
    ids=["graph", "eager", "xla"],
)
def test_a_plain_model_says_once_that_it_does_not_train_the_temperature(options):
    model = plain(keras_tfcl.ContrastiveLoss(Halved(keras_tfcl.LearnableTemperature(name="tau"))), **options)
    with pytest.warns(UserWarning, match=r"learns tau/log_scale .*temperature.*Sequential `tower`") as caught:
        model.fit(VIEWS[0], np.arange(12) % 3, verbose=0)
        model.fit(VIEWS[0], np.arange(12) % 3, batch_size=6, verbose=0)
    assert len(caught) == 1
    assert "ContrastiveModel" in str(caught[0].message)


def test_the_remedies_of_that_warning():
    for loss in (keras_tfcl.ContrastiveLoss(keras_tfcl.LearnableTemperature()), keras_tfcl.SigmoidContrastiveLoss()):
        model = plain(loss, run_eagerly=True)
        with pytest.warns(UserWarning, match="log_scale"):
            model.train_on_batch(VIEWS[0], np.arange(12) % 3)
        trained = keras_tfcl.ContrastiveModel(model)
        trained.compile(keras.optimizers.SGD(0.1), loss=loss, run_eagerly=True)
        before = [np.array(variable) for variable in variables_of_loss(loss)]
        fit(trained)
        assert all(np.array(v) != start for v, start in zip(variables_of_loss(loss), before, strict=True))
    plain(keras_tfcl.InfoNCE(temperature=0.1)).fit(VIEWS[0], np.arange(12) % 3, verbose=0)


def test_who_trains_or_only_evaluates_is_not_warned():
    loss = keras_tfcl.ContrastiveLoss(keras_tfcl.LearnableTemperature())

    class Owner(keras.Model):
        """Tracks the temperature, so that Keras' own training step trains it."""

        def __init__(self):
            super().__init__()
            self.dense, self.temperature = keras.layers.Dense(4), loss.scaling

        def call(self, x):
            return self.dense(x)

    owner = Owner()
    owner.compile(keras.optimizers.SGD(0.5), loss=loss)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        owner.fit(VIEWS[0], np.arange(12) % 3, verbose=0)
        plain(loss, run_eagerly=True).evaluate(VIEWS[0], np.arange(12) % 3, verbose=0)
        loss(np.arange(12) % 3, VIEWS[0])
    assert float(loss.scaling.temperature) != pytest.approx(0.07, rel=1e-6)


# The conformance suite


def test_conformance():
    assert keras_tfcl.testing.check_loss(loss_of("variables"), only=["variables"]) == {"variables": "passed"}


@registered
class Steeper(keras_tfcl.LearnableTemperature):
    """Claims to be linear, and is not."""

    linear = True

    def call(self, similarity):
        return super().call(similarity + similarity**3)


@registered
class Power(keras_tfcl.Scaling):
    """Is linear for as long as its exponent is 1."""

    linear = True

    def __init__(self, exponent=1.0):
        self.exponent = keras.Variable(exponent, name="exponent", dtype="float32")

    def __call__(self, similarity):
        exponent = keras.ops.cast(self.exponent, similarity.dtype)
        return 5 * keras.ops.sign(similarity) * keras.ops.maximum(keras.ops.abs(similarity), 1e-9) ** exponent

    def get_config(self):
        return {"exponent": float(self.exponent)}


@pytest.mark.parametrize("make", [Steeper, lambda: keras_tfcl.CosineMargin(Steeper()), lambda: Power(2.0)])
def test_a_scaling_that_is_not_linear_must_not_say_so(make):
    with pytest.raises(ValueError, match=r"`linear = True` says .* Received: .* at the cosines -1, -0.5, 0.25, 1"):
        keras_tfcl.ContrastiveLoss(make())


def test_conformance_finds_what_is_linear_only_for_a_while():
    with pytest.raises(AssertionError, match=r"differ in a variable's gradient. The scaling says `linear = True`"):
        keras_tfcl.testing.check_loss(keras_tfcl.ContrastiveLoss(Power()), only=["block_size"])


@registered
class Hidden(keras_tfcl.Scaling):
    """Keeps its temperature where no model can find it."""

    def __init__(self):
        temperature = keras_tfcl.LearnableTemperature()
        self.scale = lambda similarity: temperature(similarity)

    def __call__(self, similarity):
        return self.scale(similarity)


def test_conformance_finds_hidden_variables():
    with pytest.raises(AssertionError, match=r"no model finds the variables \['learnable_temperature/log_scale"):
        keras_tfcl.testing.check_loss(keras_tfcl.ContrastiveLoss(Hidden()), only=["variables"])
