"""The key encoder computes what the encoder computes, whatever its layers are, and follows it by an EMA."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_tfcl
from helpers.batches import unit

RNG = np.random.default_rng(0)
M, RATE = 0.75, 0.5
FLOATS = RNG.normal(size=(6, 5)).astype("float32")
INTEGERS = RNG.integers(20, 26, (6, 3))
WORDS = [["red fox", "blue"], ["green", "red fox"], ["blue", "grey"]] * 2


def sequential(*parts, shape=(5,), dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])


def adapted(layer, data):
    layer.adapt(data)
    return layer


def embedded(layer, dtype, width):
    return sequential(layer, layers.Embedding(9, 4), layers.Flatten(), layers.Dense(3), shape=(width,), dtype=dtype)


def with_lora():
    encoder = sequential(layers.Dense(4, "tanh"), layers.Dense(3))
    encoder.layers[0].enable_lora(2)
    encoder.layers[0].lora_kernel_b.assign(RNG.normal(size=(2, 4)))
    return encoder


def with_embedding_lora():
    encoder = embedded(layers.IntegerLookup(vocabulary=np.arange(20, 26)), "int64", 3)
    encoder.layers[1].enable_lora(2)
    encoder.layers[1].lora_embeddings_b.assign(RNG.normal(size=(2, 4)))
    return encoder


def quantized():
    encoder = sequential(layers.Dense(8, "relu"), layers.Dense(3))
    for layer in encoder.layers:
        layer.quantize("int8")
    return encoder


class Subclassed(keras.Model):
    """Without configuration, with batch normalisation and one layer used twice."""

    def __init__(self):
        super().__init__()
        self.dense, self.norm, self.out = layers.Dense(5), layers.BatchNormalization(), layers.Dense(3)

    def call(self, x, training=False):
        return self.out(self.norm(self.dense(self.dense(x)), training=training))


def nested():
    """A layer that stands in a nested model and beside it, around a subclassed model."""
    x, shared = keras.Input((5,)), layers.Dense(5, "tanh")
    inner = sequential(layers.Dense(5), shared)
    return keras.Model(x, Subclassed()(inner(x) + shared(x)))


KINDS = {
    "Normalization": (lambda: sequential(adapted(layers.Normalization(), 3 * FLOATS + 1), layers.Dense(3)), FLOATS),
    "Discretization": (lambda: embedded(adapted(layers.Discretization(num_bins=5), FLOATS), "float32", 5), FLOATS),
    "IntegerLookup": (lambda: embedded(adapted(layers.IntegerLookup(), INTEGERS), "int64", 3), INTEGERS),
    "all known": (lambda: embedded(adapted(layers.IntegerLookup(num_oov_indices=0), INTEGERS), "int64", 3), INTEGERS),
    "StringLookup": (lambda: embedded(adapted(layers.StringLookup(), WORDS), "string", 2), WORDS),
    "TextVectorization": (
        lambda: embedded(adapted(layers.TextVectorization(output_sequence_length=4), WORDS[:2][0]), "string", 1),
        [[first] for first, _ in WORDS],
    ),
    "Hashing": (lambda: embedded(layers.Hashing(9), "string", 2), WORDS),
    "CategoryEncoding": (
        lambda: sequential(layers.CategoryEncoding(30, "multi_hot"), layers.Dense(3), shape=(3,), dtype="int64"),
        INTEGERS,
    ),
    "LoRA": (with_lora, FLOATS),
    "LoRA of an embedding": (with_embedding_lora, INTEGERS),
    "int8": (quantized, FLOATS),
    "nested": (nested, FLOATS),
}


def build(encoder, momentum=M, **options):
    model = keras_tfcl.ContrastiveModel(encoder, momentum=momentum, seed=0, **options)
    model.compile(keras.optimizers.SGD(RATE), keras_tfcl.InfoNCE(0.5), run_eagerly=True)
    return model


def fit(model, x, other=None):
    views = (x, x[::-1] if other is None else other)
    return model.fit(views, batch_size=len(x), shuffle=False, verbose=0).history["loss"]


def keys_of(model, *views, training=False):
    return model.memory.key_encoder(views, training=training).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_the_encoder_computes_and_follows_it(kind):
    """At the start; and after a step, with the averages put into the encoder itself."""
    make, x = KINDS[kind]
    encoder, x = make(), tf.constant(x)
    model = build(encoder)
    np.testing.assert_allclose(keys_of(model, x)[:, 0], unit(encoder(x).numpy()), rtol=1e-5, atol=1e-6)
    start = [weight.numpy() for weight in encoder.weights]
    fit(model, x)
    trained = [weight.trainable for weight in encoder.weights]
    assert any((w.numpy() != before).any() for w, before, t in zip(encoder.weights, start, trained, strict=True) if t)
    pairs = zip(encoder.weights, start, trained, strict=True)
    averages = [M * before + (1 - M) * w.numpy() if t else before for w, before, t in pairs]
    copied = model.memory.key_encoder.get_weights()
    for weight, key, average in zip(encoder.weights, copied, averages, strict=True):
        if "moving" not in weight.name:  # batch statistics are the keys' own
            np.testing.assert_allclose(key, average, rtol=1e-5, atol=1e-6)
    keys = keys_of(model, x)[:, 0]
    encoder.set_weights(copied)
    np.testing.assert_allclose(keys, unit(encoder(x).numpy()), rtol=1e-5, atol=1e-6)


def test_half_precision_is_averaged_in_float32():
    """In bfloat16 a momentum of 0.999 is 1."""
    dense = layers.Dense(3, use_bias=False, dtype="bfloat16")
    model = build(sequential(dense), momentum=0.999)
    average = dense.kernel.numpy().astype("float64")
    for _ in range(3):
        model.train_on_batch((FLOATS, FLOATS + 1))
        average = 0.999 * average + 0.001 * dense.kernel.numpy().astype("float64")
    np.testing.assert_allclose(model.memory.key_encoder.get_weights()[0], average, rtol=1e-6)


@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_weights_that_are_set_before_training_are_copied(method):
    """Frozen ones too, which no average would reach later. A second start of training copies nothing."""
    encoder = sequential(layers.Dense(4, "tanh", trainable=False), layers.Dense(3))
    model = build(encoder)
    encoder.set_weights([1 + weight for weight in encoder.get_weights()])
    views = (FLOATS, FLOATS + 1)
    assert model.evaluate(views, verbose=0) == pytest.approx(build(encoder).evaluate(views, verbose=0))
    average = encoder.get_weights()
    for _ in range(2):
        fit(model, FLOATS) if method == "fit" else model.train_on_batch((FLOATS, FLOATS[::-1]))
        average = [M * old + (1 - M) * weight for old, weight in zip(average, encoder.get_weights(), strict=True)]
    for key, expected in zip(model.memory.key_encoder.get_weights(), average, strict=True):
        np.testing.assert_allclose(key, expected, rtol=1e-5)
    other = build(sequential(layers.Dense(4, "tanh", trainable=False), layers.Dense(3)))
    other.set_weights(model.get_weights())  # with the average, which stays
    assert other.evaluate(views, verbose=0) == pytest.approx(model.evaluate(views, verbose=0))


def test_momentum_may_be_a_number_of_numpy():
    """In a graph, such a number does not multiply a variable."""
    model = build(sequential(layers.Dense(3)), momentum=np.float32(M))
    model.run_eagerly = False
    assert np.isfinite(fit(model, FLOATS, FLOATS + 1)).all()


def test_bins_and_embeddings_in_numpy():
    edges = [-0.5, 0.1, 0.9]
    table = layers.Embedding(4, 3)
    model = build(sequential(layers.Discretization(bin_boundaries=edges), table, layers.GlobalAveragePooling1D()))
    before = table.embeddings.numpy()
    fit(model, FLOATS)
    average = M * before + (1 - M) * table.embeddings.numpy()
    expected = unit(average[np.digitize(FLOATS, edges)].mean(1))
    np.testing.assert_allclose(keys_of(model, FLOATS)[:, 0], expected, rtol=1e-4, atol=1e-6)


def test_lora_in_numpy():
    """`x (W + A B) + c`: W is frozen; A, B and c are averaged one by one, which is not the average of A B."""
    dense = layers.Dense(3)
    encoder = sequential(dense)
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(RNG.normal(size=(2, 3)))
    model = build(encoder)
    weights = [dense.lora_kernel_a, dense.lora_kernel_b, dense.bias]
    base = dense.kernel.numpy() - dense.lora_kernel_a.numpy() @ dense.lora_kernel_b.numpy()
    before = [weight.numpy() for weight in weights]
    fit(model, FLOATS)
    a, b, c = (M * old + (1 - M) * weight.numpy() for old, weight in zip(before, weights, strict=True))
    np.testing.assert_allclose(keys_of(model, FLOATS)[:, 0], unit(FLOATS @ (base + a @ b) + c), rtol=1e-4, atol=1e-5)


def test_towers_that_share_a_layer_share_its_copy():
    shared = layers.Dense(4, use_bias=False)
    model = build((sequential(shared, layers.Dense(3)), sequential(shared, layers.Dense(3))))
    assert len(model.memory.key_encoder.weights) == 5
    fit(model, FLOATS, FLOATS + 1)
    keys = keys_of(model, FLOATS, FLOATS + 1)
    kernel, *tops = model.memory.key_encoder.get_weights()
    for view, x in enumerate((FLOATS, FLOATS + 1)):
        top, bias = tops[2 * view : 2 * view + 2]
        np.testing.assert_allclose(keys[:, view], unit(x @ kernel @ top + bias), rtol=1e-4, atol=1e-5)


def test_dropout_of_the_keys_is_another_one():
    """Keys and projections of one batch use other random numbers, as do the keys of the next step."""
    ones = np.ones((4, 200), "float32")
    encoder = sequential(layers.Dropout(0.5, seed=3), shape=(200,))
    model = build(encoder, momentum=0.9)
    first, second = (keys_of(model, ones, training=True)[:, 0] > 0 for _ in range(2))
    queries = model((ones,), training=True)[:, 0].numpy() > 0
    for one, other in ((first, second), (first, queries), (second, queries)):
        assert 0.3 < (one != other).mean() < 0.7


def test_losses_of_layers_count_once():
    """An activity regulariser adds what the queries' activations give, and nothing for the keys'."""
    dense = layers.Dense(3, activity_regularizer=keras.regularizers.L2(0.1))
    model = build(sequential(dense), momentum=0.9)
    z = np.concatenate([FLOATS, FLOATS + 1]) @ dense.kernel.numpy() + dense.bias.numpy()
    (loss,) = fit(model, FLOATS, FLOATS + 1)
    u = unit(z.astype("float64"))
    logits = u @ u.T / 0.5
    np.fill_diagonal(logits, -np.inf)
    positive = logits[np.arange(12), (np.arange(12) + 6) % 12]
    infonce = (np.log(np.exp(logits).sum(1)) - positive).mean()
    assert loss == pytest.approx(infonce + 0.1 * (z**2).sum() / 12, rel=1e-4)


def test_lora_resumes(tmp_path):
    """Keras merges LoRA's matrices into the kernel when it saves; with momentum both come back as they were."""
    model = build(with_lora())
    fit(model, FLOATS, FLOATS + 1)
    model.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    loaded.run_eagerly = True
    for weight, expected in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    np.testing.assert_allclose(fit(loaded, FLOATS, FLOATS + 1), fit(model, FLOATS, FLOATS + 1), rtol=1e-5)


# Refusals, and what they advise


class Compiled(layers.Layer):
    """A layer whose tf.function keeps the weights of its first call."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

    @tf.function
    def call(self, x):
        return x @ self.kernel.value


class Read(Compiled):
    """The same layer by the remedy: without tf.function."""

    def call(self, x):
        return x @ self.kernel.value


def test_weights_that_are_not_read_in_each_call_are_refused():
    with pytest.raises(ValueError, match=r"must read their weights.*Received: \S*compiled\S*/kernel.*@tf\.function"):
        build(sequential(layers.Dense(4), Compiled()))
    assert np.isfinite(fit(build(sequential(layers.Dense(4), Read())), FLOATS)).all()


class Noisy(layers.Layer):
    always = True

    def call(self, x, training=False):
        return x + keras.random.normal(keras.ops.shape(x)) if training or self.always else x


class NoisyInTraining(Noisy):
    always = False


def test_noise_outside_of_training_is_refused():
    with pytest.raises(ValueError, match=r"whose outputs differ between two calls.*only where training=True"):
        build(sequential(Noisy(), layers.Dense(3)))
    assert np.isfinite(fit(build(sequential(NoisyInTraining(), layers.Dense(3))), FLOATS)).all()


@pytest.mark.parametrize("change", [lambda dense: dense.enable_lora(2), lambda dense: dense.quantize("int8")])
def test_weights_that_come_later_are_refused(change):
    encoder = sequential(layers.Dense(4), layers.Dense(3))
    model = build(encoder)
    change(encoder.layers[0])
    model.compile("sgd", "infonce", run_eagerly=True)
    with pytest.raises(ValueError, match=r"must keep the weights.*new weights.*then create the ContrastiveModel"):
        fit(model, FLOATS)
    assert np.isfinite(fit(build(encoder), FLOATS)).all()


class Counting(layers.Layer):
    """Counts in a loop, or after it."""

    in_loop = True

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, x):
        def body(i):
            if self.in_loop:
                self.count.assign_add(1.0)
            return [i + 1]

        (steps,) = tf.while_loop(lambda i: i < 3, body, [tf.constant(0)])
        if not self.in_loop:
            self.count.assign_add(tf.cast(steps, "float32"))
        return x


class CountingAfterwards(Counting):
    in_loop = False


def test_writes_inside_loops_are_refused():
    model = build(sequential(Counting(), layers.Dense(3)))
    model.run_eagerly = False
    with pytest.raises(ValueError, match=r"outside of loops and branches\. Received: a write to \S*counting/count"):
        fit(model, FLOATS)
    model = build(sequential(CountingAfterwards(), layers.Dense(3)))
    model.run_eagerly = False
    fit(model, FLOATS)
    assert model.memory.key_encoder.get_weights()[0] == model.encoder.layers[0].count == 3
