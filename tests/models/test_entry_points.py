"""Every way into the model means one thing: inputs x choices of the model x entry points, against NumPy loops."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.augmenters import Noise
from helpers.batches import unit
from helpers.models import contrastive_model, dense_encoder
from keras_tfcl.models.class_weight import weights_of_classes

RNG = np.random.default_rng(5)
B, D, RATE, TEMPERATURE = 6, 4, 0.3, 0.4
X = RNG.normal(size=(B, 5)).astype("float32")
LABELS = np.array([0, 1, 0, 2, 1, 0])
KERNEL = RNG.normal(size=(5, D)).astype("float32")


def made_views(step, samples=X, seed=3):
    return tuple(Noise().augment(samples, np.array([seed, 2 * step + view])).numpy() for view in range(2))


def batched(element):
    return tf.data.Dataset.from_tensors(element)


# name: x of one batch, x of a data set (or what makes one of y), the views that come of it in a step
READY = (X, RNG.normal(size=X.shape).astype("float32"))
INPUTS = {"samples": (X, made_views), "views": (READY, lambda step: READY)}
# name: arguments of the model, who is whose positive, and whether arrays take y
CHOICES = {
    "in batch": {},
    "labels": {"supervised": True},
    "momentum": {"momentum": 0.8},
    "queue": {"momentum": 0.8, "queue_size": 24},
    "bank": {"momentum": 0.6, "queue_size": B, "queue": "instances"},
}


def build(choice="in batch", compile_options=None, eager=True, **options):
    metrics = [keras_tfcl.ContrastiveAccuracy()]
    return contrastive_model(
        dense_encoder(5, kernel=KERNEL),
        optimizer=keras.optimizers.SGD(RATE),
        loss=keras_tfcl.InfoNCE(TEMPERATURE),
        compile_options={"run_eagerly": eager, "metrics": metrics, **(compile_options or {})},
        seed=3,
        augmenter=Noise(),
        **CHOICES[choice],
        **options,
    )


def loss_of(choice, views, kernel, old_kernel, weight=None, training=True):
    """The loss of a first step: double loops in float64. `old_kernel`: of keys and bank, which get no gradient."""
    z = unit(np.stack(views, 1).astype("float64") @ kernel)
    keys = unit(np.stack(views, 1).astype("float64") @ old_kernel)
    weight = np.ones(B) if weight is None else weight
    if choice == "bank" and training:
        entries = unit(keys.mean(1))
        logits = z @ entries.T / TEMPERATURE  # (B, V, B)
        losses = np.log(np.exp(logits).sum(-1)) - np.stack([logits[i, :, i] for i in range(B)])
        return (losses * weight[:, None]).mean()
    others = keys if choice in ("momentum", "queue") else z
    labels = LABELS if choice == "labels" else np.arange(B)
    total, anchors = 0.0, 0
    for i in range(B):
        for v in range(2):
            pairs = [(j, w) for j in range(B) for w in range(2) if (j, w) != (i, v)]
            logits = np.array([z[i, v] @ others[pair] / TEMPERATURE for pair in pairs])
            positive = np.array([labels[j] == labels[i] for j, _ in pairs])
            total += weight[i] * (np.log(np.exp(logits).sum()) - logits[positive].mean())
            anchors += 1
    return total / anchors


def kernel_after(choice, views, weight=None):
    """One step of gradient descent, by central differences."""
    start = KERNEL.astype("float64")
    old = start if choice in ("momentum", "queue", "bank") else None
    gradient = np.zeros_like(start)
    for index in np.ndindex(*start.shape):
        value = []
        for change in (1e-5, -1e-5):
            moved = start.copy()
            moved[index] += change
            value.append(loss_of(choice, views, moved, moved if old is None else old, weight))
        gradient[index] = (value[0] - value[1]) / 2e-5
    return start - RATE * gradient


@pytest.mark.parametrize(
    ("choice", "source"), [*((choice, "samples") for choice in CHOICES), ("in batch", "views"), ("bank", "views")]
)
def test_every_entry_point(choice, source):
    x, views_of = INPUTS[source]
    views = views_of(0)
    batch_y = {"labels": LABELS, "bank": np.arange(B)}.get(choice)
    array_y = LABELS if choice == "labels" else None
    dataset = batched((x,) if batch_y is None else (x, batch_y))
    expected, kernel = loss_of(choice, views, KERNEL, KERNEL), kernel_after(choice, views)
    settings = {"verbose": 0, "shuffle": False}
    trained = {
        "fit": lambda model: model.fit(x, array_y, batch_size=B, **settings).history["loss"][0],
        "fit of a data set": lambda model: model.fit(dataset, **settings).history["loss"][0],
        "train_on_batch": lambda model: model.train_on_batch(x, batch_y)[0],
        "train_on_batch, dict": lambda model: model.train_on_batch(x, batch_y, return_dict=True)["loss"],
    }
    for name, call in trained.items():
        model = build(choice)
        assert call(model) == pytest.approx(expected, rel=1e-4), name
        np.testing.assert_allclose(model.encoder.layers[-1].kernel, kernel, rtol=1e-3, atol=1e-4, err_msg=name)
    model = build(choice)
    expected = loss_of(choice, views, KERNEL, KERNEL, training=False)
    before = [np.array(variable.value) for variable in model.variables]
    evaluated = {
        "evaluate": model.evaluate(x, array_y, batch_size=B, verbose=0)[0],
        "evaluate of a data set": model.evaluate(dataset, verbose=0)[0],
        "test_on_batch": model.test_on_batch(x, array_y)[0],
        "test_on_batch, dict": model.test_on_batch(x, array_y, return_dict=True)["loss"],
    }
    for name, value in evaluated.items():
        assert value == pytest.approx(expected, rel=1e-4), name
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.value, value)
    predicted = [model.predict(x, verbose=0), model.predict_on_batch(x), model.predict(dataset, verbose=0)]
    for features in predicted:
        assert isinstance(features, tuple) == isinstance(x, tuple)
        for part, given in zip(*[value if isinstance(x, tuple) else [value] for value in (features, x)], strict=True):
            np.testing.assert_allclose(part, unit(given @ KERNEL), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("choice", ["in batch", "labels", "queue", "bank"])
def test_weights(choice):
    """loss_weights scale the loss, sample_weight and class_weight its anchors, in every entry point."""
    weight = np.array([0.5, 2.0, 1.0, 0.0, 3.0, 1.0])
    batch_y = np.arange(B) if choice == "bank" else LABELS
    array_y = None if choice == "bank" else LABELS
    model = build(choice, {"loss_weights": 0.25})
    assert model.train_on_batch(READY, batch_y)[0] == pytest.approx(
        loss_of(choice, READY, KERNEL, KERNEL) / 4, rel=1e-4
    )
    expected, kernel = loss_of(choice, READY, KERNEL, KERNEL, weight), kernel_after(choice, READY, weight)
    settings = {"batch_size": B, "shuffle": False, "verbose": 0}
    for name, call in {
        "fit": lambda model: model.fit(READY, array_y, sample_weight=weight, **settings).history["loss"][0],
        "train_on_batch": lambda model: model.train_on_batch(READY, batch_y, weight)[0],
    }.items():
        model = build(choice)
        assert call(model) == pytest.approx(expected, rel=1e-4), name
        np.testing.assert_allclose(model.encoder.layers[-1].kernel, kernel, rtol=1e-3, atol=1e-4, err_msg=name)
    expected = loss_of(choice, READY, KERNEL, KERNEL, weight, training=False)
    model = build(choice)
    assert model.evaluate(READY, LABELS, sample_weight=weight, batch_size=B, verbose=0)[0] == pytest.approx(expected)
    assert model.test_on_batch(READY, LABELS, weight)[0] == pytest.approx(expected)
    class_weight = {0: 2.0, 2: 0.5}
    expected = loss_of(choice, READY, KERNEL, KERNEL, np.array([2.0, 1.0, 2.0, 0.5, 1.0, 2.0]))
    dataset = batched((READY, batch_y))
    for call in (
        lambda model: model.fit(READY, array_y, class_weight=class_weight, **settings).history["loss"][0],
        lambda model: model.fit(dataset, class_weight=class_weight, verbose=0).history["loss"][0],
        lambda model: model.train_on_batch(READY, batch_y, class_weight=class_weight)[0],
    ):
        if choice == "bank":
            with pytest.raises(ValueError, match=r"holds the numbers of the samples.*Pass sample_weight"):
                call(build(choice))
        else:
            assert call(build(choice)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("choice", ["in batch", "queue"])
def test_single_batches_make_the_run_that_fit_makes(choice):
    """Views follow the step, and so do momentum encoder and queue; also when `fit` runs several steps at a time."""
    model = build(choice, {"steps_per_execution": 2}, eager=False)
    losses = model.fit(batched(X).repeat(4), verbose=0).history["loss"]
    single = build(choice)
    steps = [single.train_on_batch(X)[0] for _ in range(4)]
    assert np.mean(steps) == pytest.approx(losses[0], rel=1e-4)
    for one, other in zip(single.weights, model.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert steps[0] == pytest.approx(loss_of(choice, made_views(0), KERNEL, KERNEL), rel=1e-4)


def test_two_encoders():
    encoders = [keras.Sequential([keras.Input((5,)), keras.layers.Dense(D)]) for _ in range(2)]
    model = keras_tfcl.ContrastiveModel(tuple(encoders), seed=0)
    model.compile(keras.optimizers.SGD(0.0), keras_tfcl.InfoNCE(TEMPERATURE), run_eagerly=True)
    expected = model.fit(READY, batch_size=B, verbose=0).history["loss"][0]
    assert model.train_on_batch(READY) == pytest.approx(expected)
    assert model.test_on_batch(READY) == pytest.approx(model.evaluate(READY, verbose=0))
    for features in (model.predict_on_batch(READY), model.predict(READY, verbose=0)):
        for part, encoder, x in zip(features, encoders, READY, strict=True):
            np.testing.assert_allclose(part, unit(encoder(x).numpy()), rtol=1e-5, atol=1e-6)


def test_weights_of_classes():
    found = weights_of_classes(np.array([[7], [-1], [7], [3]]), {7: 2.0, 3: 0.0})
    np.testing.assert_array_equal(found, [2.0, 1.0, 2.0, 0.0])


def export_encoders():
    tokens = keras.Input((None,), dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 4)(tokens))
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    joined = keras.layers.Dense(4)(keras.layers.Concatenate()([left, right]))
    sample = {"left": X[:, :3], "right": X[:, :2]}
    dense = keras.Sequential([keras.Input((5,)), keras.layers.Dense(D), keras.layers.BatchNormalization()])
    return {
        "Sequential": (dense, X),
        "tokens": (keras.Model(tokens, pooled), np.arange(12, dtype="int32").reshape(3, 4) % 9),
        "dict": (keras.Model({"left": left, "right": right}, joined), sample),
        "two": ((dense, dense), (X, X + 1)),
    }


@pytest.mark.parametrize("name", ["Sequential", "tokens", "dict", "two"])
def test_export_serves_what_predict_gives(name, tmp_path):
    encoder, x = export_encoders()[name]
    projector = keras_tfcl.ProjectionHead((6, 2))
    model = keras_tfcl.ContrastiveModel(encoder, projector=projector, seed=0)
    model.compile("sgd", "infonce", run_eagerly=True)
    shifted = keras.tree.map_structure(lambda part: part[::-1], x)
    model.fit(x if name == "two" else (x, shifted), verbose=0)
    model.export(tmp_path / "model", verbose=False)
    served = tf.saved_model.load(tmp_path / "model").serve(list(x) if isinstance(x, tuple) else x)
    predicted = model.predict(x, verbose=0)
    for one, other in zip(keras.tree.flatten(served), keras.tree.flatten(predicted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_export_of_large_weights_keeps_them_as_variables(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_tfcl.models.serving.LARGEST_GRAPH", 10)
    model = build()
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    assert len(loaded.variables) == 1
    np.testing.assert_allclose(loaded.serve(X), model.predict(X, verbose=0), rtol=1e-5)


def test_refusals():
    """In words, without a trace; and the remedies work."""
    message = "takes a tuple with one input for each. Received: a single input. Pass x=(a, b)"
    encoder = keras.Sequential([keras.Input((5,)), keras.layers.Dense(D)])
    two = keras_tfcl.ContrastiveModel((encoder, encoder), seed=0)
    two.compile("sgd", "infonce")
    first, second = READY
    calls = [
        (lambda: two.fit(first, second, verbose=0), message),
        (lambda: two.evaluate(first, second, verbose=0), message),
        (lambda: two.train_on_batch(first, second), message),
        (lambda: two.predict(first, verbose=0), message),
        (lambda: two.predict_on_batch(first), message),
        (lambda: two.fit((X, X, X), verbose=0), "Received: a tuple of 3. Pass x=(a, b)"),
        (lambda: two.fit([first, second], verbose=0), "Received: a list of 2. Pass"),
        (lambda: build().fit(list(X), verbose=0), "Received: a list of 6. Pass np.array(x)"),
        (lambda: build().predict(list(X), verbose=0), "Received: a list of 6. Pass np.array(x)"),
        (lambda: build().train_on_batch(list(X)), "Received: a list of 6. Pass np.array(x)"),
        (lambda: build().train_on_batch(batched(X)), "must be one batch"),
        (lambda: build("labels").train_on_batch(READY), "supervised=True takes positives from the labels"),
        (lambda: build("bank").train_on_batch(READY), "takes the number of each sample"),
        (lambda: build("bank").train_on_batch(READY, np.arange(B) + 1), "a number outside 0 to 5. Number the"),
        (lambda: build("queue").train_on_batch((X[:5], X[:5])), "queue_size=24 for 5 * 2 keys"),
        (lambda: build().fit(READY, class_weight={0: 2.0}, verbose=0), "class_weight and data without y. Pass y"),
        (lambda: build().train_on_batch(READY, class_weight={0: 2.0}), "class_weight and data without y. Pass y"),
        (
            lambda: build().fit(READY, LABELS, sample_weight=LABELS, class_weight={0: 2.0}),
            "Pass either class_weight or sample_weight",
        ),
        (lambda: build().compile("sgd", [keras_tfcl.InfoNCE()] * 2), "must be one loss.*Received: a list of 2"),
        (lambda: build().compile("sgd", {"a": keras_tfcl.InfoNCE()}), "must be one loss.*Received: a dict of 1"),
        (lambda: build().compile("sgd", keras_tfcl.InfoNCE(reduction=None)), "reduction=None. Leave reduction at"),
        (lambda: keras_tfcl.ContrastiveModel((encoder,) * 3), "views=3.*positives of one another"),
    ]
    for call, expected in calls:
        with pytest.raises(ValueError, match=re.escape(expected).replace(r"\.\*", ".*")) as caught:
            call()
        assert "in user code" not in str(caught.value)
        assert len(str(caught.value)) < 600
    unbuilt = keras_tfcl.ContrastiveModel(keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(ValueError, match=r"`export` needs an encoder that knows its inputs.*keras\.Input"):
        unbuilt.export("nowhere")
    assert np.isfinite(two.train_on_batch((first, second)))
    assert np.isfinite(build().train_on_batch(np.array(list(X)))[0])


def test_numbers_without_an_entry_end_the_reading_of_a_data_set():
    with pytest.raises(tf.errors.InvalidArgumentError, match="a number outside 0 to 5"):
        build("bank").fit(batched((READY, np.arange(B) + 1)), verbose=0)
