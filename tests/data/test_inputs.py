"""What `fit`, `evaluate` and `predict` take, or refuse by name in a short sentence."""

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

import keras_tfcl
from keras_tfcl.data.inputs import as_samples, as_targets, checked_source

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
RAGGED = tf.ragged.constant([[1, 2], [3], [4, 5, 6], [7]] * 8)

REFUSED = {
    "csr": (
        scipy.sparse.csr_matrix(X),
        r"`x` must be dense\. Received: a sparse matrix of SciPy\. Pass x\.toarray\(\)",
    ),
    "coo array": (scipy.sparse.coo_array(X), r"a sparse matrix of SciPy"),
    "sparse tensor": (tf.sparse.from_dense(X), r"a tf\.SparseTensor\. Pass tf\.sparse\.to_dense\(x\)"),
    "ragged tensor": (RAGGED, r"a tf\.RaggedTensor\. Pass x\.to_tensor\(\)"),
    "in a dict": ({"a": X, "b": RAGGED}, r"`x\['b'\]` must be dense\. Received: a tf\.RaggedTensor"),
    "sparse data set": (
        tf.data.Dataset.from_tensor_slices(tf.sparse.from_dense(X)).batch(8),
        r"An element of `x` must be dense\. Received: a tf\.SparseTensor",
    ),
    "ragged data set": (
        tf.data.Dataset.from_tensor_slices(RAGGED).batch(8),
        r"An element .*Received: a tf\.RaggedTensor",
    ),
    "list of samples": (list(X), r"must be an array of samples.*Received: a list of 32\. Pass np\.array\(x\)"),
    "list of views": ([X, X], r"a list of 2\. .*tuple\(x\) for views"),
    "list of texts": (["a text"] * 32, r"a list of 32"),
    "objects": (np.array([None] * 32), r"Received: dtype=object with entries of type NoneType\. Fill in what is"),
    "uneven": (np.array([[1], [2, 3]] * 16, object), r"entries of type list.*pad_sequences"),
    "number": (np.float32(1.0), r"one sample a row\. Received: a single number, shape=\(\)"),
    "text": ("a text", r"Received: str\."),
}


@pytest.fixture(scope="module")
def model():
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = keras_tfcl.ContrastiveModel(encoder, augmenter=keras.layers.GaussianNoise(0.1), seed=0)
    model.compile("sgd", "infonce", run_eagerly=True)
    return model


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
@pytest.mark.parametrize("x", REFUSED)
def test_refused_by_all_three(model, method, x):
    x, message = REFUSED[x]
    with pytest.raises(ValueError, match=message) as error:
        getattr(model, method)(x, verbose=0)
    assert len(str(error.value)) < 300 and "in user code" not in str(error.value)


def test_the_remedies():
    np.testing.assert_array_equal(as_samples(scipy.sparse.csr_matrix(X).toarray()), X)
    np.testing.assert_array_equal(as_samples(tf.sparse.to_dense(tf.sparse.from_dense(X))), X)
    assert as_samples(RAGGED.to_tensor()).shape == (32, 3)
    np.testing.assert_array_equal(as_samples(np.array(list(X))), X)
    assert as_samples(keras.utils.pad_sequences(np.array([[1], [2, 3]] * 16, object))).shape == (32, 2)


@pytest.mark.parametrize("kind", ["unicode", "object", "dict"])
def test_text(kind):
    """fit, evaluate and predict take strings of any kind."""
    text = np.array(["red fox", "grey wolf", "fox", "wolf grey"] * 4)
    x = {"unicode": text, "bytes": text.astype("S"), "object": text.astype(object), "tensor": tf.constant(text)}.get(
        kind
    )
    inputs = keras.Input((), dtype="string", name="text")
    words = keras.layers.TextVectorization(vocabulary=["red", "fox", "grey", "wolf"], output_sequence_length=2)
    output = keras.layers.Flatten()(keras.layers.Embedding(6, 4)(words(inputs)))
    if kind == "dict":
        x, inputs = {"text": text}, {"text": inputs}
    model = keras_tfcl.ContrastiveModel(keras.Model(inputs, output), views=1, supervised=True, seed=0)
    model.compile("sgd", "infonce", run_eagerly=True)
    y = np.arange(16) % 4
    assert np.isfinite(model.fit(x, y, batch_size=8, verbose=0).history["loss"]).all()
    assert np.isfinite(model.evaluate(x, y, verbose=0))
    found = model.predict(x, verbose=0)
    expected = model.encoder(tf.constant(text) if kind != "dict" else {"text": tf.constant(text)}).numpy()
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-5)


def test_labels():
    assert as_targets(None) is None
    np.testing.assert_array_equal(as_targets([3, 1]), [3, 1])
    np.testing.assert_array_equal(as_targets({"a": (0.5, 1)})["a"], [0.5, 1])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["cat", "dog"] * 500, r"`y` must hold numbers\. Received: text.*np\.unique\(y, return_inverse=True\)\[1\]"),
        (np.array(["cat", "dog"]), r"Received: text"),
        (np.array([1, None], object), r"Received: dtype=object with entries of type NoneType, int"),
        ([[1], [2, 3]] * 500, r"Received: a list of 1000 entries of unequal sizes"),
        (7, r"one number for each sample\. Received: int"),
        (tf.ragged.constant([[1], [2, 3]]), r"`y` must be dense\. Received: a tf\.RaggedTensor"),
    ],
)
def test_labels_that_are_refused(y, message):
    with pytest.raises(ValueError, match=message) as error:
        as_targets(y)
    assert len(str(error.value)) < 300


def test_a_list_of_too_few_labels_is_counted(model):
    with pytest.raises(ValueError, match=r"equally many samples\. Received: \[32, 31\]"):
        model.fit(X, [0] * 31, verbose=0)
    assert np.isfinite(model.fit(X, list(range(32)), sample_weight=[0.5] * 32, verbose=0).history["loss"]).all()


def test_two_encoders():
    towers = tuple(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]) for _ in range(2))
    model = keras_tfcl.ContrastiveModel(towers, seed=0)
    model.compile("sgd", "infonce", run_eagerly=True)
    with pytest.raises(ValueError, match=r"Received: a single input\. Pass x=\(a, b\), one argument: fit\(\(a, b\)\)"):
        model.fit(X, X, verbose=0)
    with pytest.raises(ValueError, match=r"a list of 2\. .*tuple\(x\) for views"):
        model.fit([X, X], verbose=0)
    assert np.isfinite(model.fit(tuple([X, X]), verbose=0).history["loss"]).all()
    with pytest.raises(ValueError, match=r"a list of 2\. .*tuple\(x\)"):
        model.predict([X, X], verbose=0)
    assert len(model.predict((X, X), verbose=0)) == 2


def test_sources_are_checked():
    dataset = tf.data.Dataset.from_tensor_slices(X).batch(8)
    assert checked_source(dataset) is dataset
    with pytest.raises(ValueError, match="at least one batch"):
        checked_source(dataset.take(0))
    with pytest.raises(ValueError, match=r"y and sample_weight beside a _BatchDataset"):
        checked_source(dataset, X[:, 0], X[:, 0])


@pytest.mark.parametrize(
    "loss", [keras_tfcl.InfoNCE(0.1), keras_tfcl.SimpleContrastiveLoss(), keras_tfcl.SigmoidContrastiveLoss()]
)
def test_losses_of_scores_and_of_empty_batches(loss):
    for shape in ((4, 1), (4, 2, 1)):
        with pytest.raises(ValueError, match=r"at least two features.*Received: shape=\(4, .*score of a classifier"):
            loss(np.arange(4) % 2, np.ones(shape, "float32"))
    specs = [tf.TensorSpec((None,), "int64"), tf.TensorSpec((None, 3), "float32")]
    compiled = tf.function(lambda y, z: loss(y, z), input_signature=specs)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"at least one row\. Received: an empty batch"):
        compiled(np.zeros(0, "int64"), np.zeros((0, 3), "float32"))
    assert np.isfinite(compiled(np.zeros(4, "int64"), X[:4, :3]))
