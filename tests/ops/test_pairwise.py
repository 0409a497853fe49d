"""The tiles against double loops in float64 and against the dense form: value and gradient."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import keras_tfcl
from keras_tfcl.testing import reference

RNG = np.random.default_rng(0)
TOLERANCE = 1e-5
NO_POSITIVES = pytest.mark.filterwarnings("ignore:.*no embedding of this batch has a positive")
SETTINGS = hypothesis.settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)


def losses_and_gradient(loss, labels, z, weights, jit=False):
    def compute(labels, z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            losses = loss(labels, z)
            total = tf.reduce_sum(losses * weights)
        return losses, tape.gradient(total, z)

    run = tf.function(compute, jit_compile=True) if jit else compute
    return [x.numpy() for x in run(tf.constant(labels), tf.constant(z))]


def assert_close(actual, expected, tolerance=TOLERANCE):
    scale = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=tolerance)


def weighted_reference(labels, z, weights, **choices):
    result = reference.contrastive_loss(labels, z, weights=weights, **choices)
    return result.losses, result.gradient * max(result.valid.sum(), 1)


CHOICES = {
    "temperature": ({"scaling": 0.1}, {"temperature": 0.1}),
    "small temperature": ({"scaling": 0.006}, {"temperature": 0.006}),
    "arctanh": ({"scaling": "arctanh"}, {"arctanh_scale": 2.0}),
    "arctanh 1": ({"scaling": keras_tfcl.Arctanh(1.0)}, {"arctanh_scale": 1.0}),
    "arctanh 4": ({"scaling": keras_tfcl.Arctanh(4.0)}, {"arctanh_scale": 4.0}),
    "hard alpha": (
        {"scaling": 0.2, "negatives": keras_tfcl.HardNegatives(alpha=0.3)},
        {"temperature": 0.2, "alpha": 0.3},
    ),
    "hard top k": (
        {"scaling": "arctanh", "negatives": keras_tfcl.HardNegatives(top_k=2)},
        {"arctanh_scale": 2.0, "top_k": 2},
    ),
    "decoupled": ({"scaling": 0.1, "decoupled": True}, {"temperature": 0.1, "decoupled": True}),
}


SLOW_UNDER_XLA = [pytest.param(name, True, marks=pytest.mark.slow) for name in CHOICES]


@pytest.mark.parametrize(("name", "jit"), [*((name, False) for name in CHOICES), *SLOW_UNDER_XLA])
def test_equals_the_reference(name, jit):
    ours, theirs = CHOICES[name]
    z, labels, weights = RNG.normal(size=(9, 2, 5)).astype("float32"), RNG.integers(0, 6, 9), RNG.uniform(size=(9, 2))
    loss = keras_tfcl.ContrastiveLoss(**ours, block_size=7, reduction=None)
    actual = losses_and_gradient(loss, labels, z, weights.astype("float32"), jit)
    for a, e in zip(actual, weighted_reference(labels, z, weights, **theirs), strict=True):
        assert_close(a, e, 2e-5 if name == "small temperature" else TOLERANCE)


@NO_POSITIVES
@SETTINGS
@hypothesis.given(data=st.data())
def test_any_shape_block_and_pattern_of_ids(data):
    check_any(data, smallest_block=6)


@NO_POSITIVES
@pytest.mark.slow
@hypothesis.settings(SETTINGS, max_examples=150)
@hypothesis.given(data=st.data())
def test_many_shapes_blocks_and_patterns_of_ids(data):
    check_any(data, smallest_block=1)


def check_any(data, smallest_block):
    rows, views = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3))
    labels = np.array(data.draw(st.lists(st.sampled_from([-5, 0, 3, 2**40]), min_size=rows, max_size=rows)))
    block, dimension = data.draw(st.integers(smallest_block, 40)), data.draw(st.integers(4, 9))
    ours, theirs = CHOICES[data.draw(st.sampled_from(["temperature", "arctanh", "hard alpha", "decoupled"]))]
    cross = views > 1 and data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 100)))
    z, weights = rng.normal(size=(rows, views, dimension)), rng.uniform(size=(rows, views))
    loss = keras_tfcl.ContrastiveLoss(**ours, cross_view_only=cross, block_size=block, reduction=None, dtype="float64")
    # In float64 the comparison shows the algorithm, not the rounding.
    actual = losses_and_gradient(loss, labels, z, weights)
    for a, e in zip(actual, weighted_reference(labels, z, weights, **theirs, cross_view_only=cross), strict=True):
        assert_close(a, e, 1e-7)


REWEIGHTED = [(1.0, 0.0, False), (0.5, 0.1, False), (2.0, 0.1, True), (0.0, 0.2, False)]


@pytest.mark.parametrize(("beta", "tau_plus", "detach"), REWEIGHTED)
@pytest.mark.parametrize("scaling", [0.3, 0.02, "arctanh"])
def test_reweighted_equals_the_dense_form(scaling, beta, tau_plus, detach):
    z, labels = RNG.normal(size=(11, 2, 6)).astype("float32"), RNG.integers(0, 7, 11)
    weights = RNG.uniform(size=(11, 2)).astype("float32")
    results = []
    for block in ("dense", 8):
        negatives = keras_tfcl.ReweightedNegatives(beta, tau_plus, detach)
        loss = keras_tfcl.ContrastiveLoss(scaling, negatives, block_size=block, reduction=None)
        results.append(losses_and_gradient(loss, labels, z, weights))
    for dense, tiled in zip(*results, strict=True):
        assert_close(tiled, dense)


def gradient_of_log_scale(labels, z, scale, **choices):
    """By central differences of the mean loss, in float64."""
    ends = [reference.contrastive_loss(labels, z, temperature=np.exp(d) / scale, **choices) for d in (-1e-4, 1e-4)]
    return np.diff([end.losses.sum() / end.valid.sum() for end in ends])[0] / -2e-4


def views(apart, together=0.0):
    """Two views of each sample, `apart` from one another, with all samples moved `together`."""
    rng = np.random.default_rng(1)
    a = rng.normal(size=(9, 1, 6)) * (1 - together) + rng.normal(size=6) * together
    return (a + apart * rng.normal(size=(9, 2, 6))).astype("float32")


@pytest.mark.parametrize("block", ["dense", 7])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize(("apart", "together"), [(1.0, 0.0), (1e-4, 0.0), (1e-3, 0.999)])
@pytest.mark.parametrize("scale", [2.0, pytest.param(14.0, marks=pytest.mark.slow), 50.0])
def test_learnable_temperature_gets_its_gradient(scale, apart, together, cross, block):
    """Far from the poles, with near-identical views, and with near-identical samples."""
    z, labels = views(apart, together), np.array([0, 1, 2, 3, 4, 5, 6, 7, 7])
    loss = keras_tfcl.ContrastiveLoss(
        keras_tfcl.LearnableTemperature(1 / scale), block_size=block, cross_view_only=cross, dtype="float64"
    )
    with tf.GradientTape() as tape:
        value = loss(labels, z)
    gradient = float(tape.gradient(value, loss.scaling.log_scale))
    expected = gradient_of_log_scale(labels, z, scale, cross_view_only=cross)
    # A float32 cosine is off by up to 8e-7, and a logit by that times the scale.
    assert gradient == pytest.approx(expected, rel=1e-5, abs=1e-6 * scale)


@pytest.mark.parametrize("negatives", ["all", keras_tfcl.HardNegatives(top_k=4), keras_tfcl.WithoutNearDuplicates(0.5)])
@pytest.mark.parametrize("log_probability", [None, np.linspace(-3, -0.1, 18)])
def test_a_temperature_of_candidates_gets_its_gradient(log_probability, negatives):
    rows = views(1.0).reshape(18, 6)
    gradients = []
    for block in ("dense", 7):
        temperature = tf.constant(0.3)
        with tf.GradientTape() as tape:
            tape.watch(temperature)
            losses = keras_tfcl.ops.contrastive_loss(
                rows[:8], rows, np.arange(8), np.r_[np.arange(8), np.arange(10)], scaling=temperature, block_size=block,
                negatives=negatives, self_index=np.arange(8), candidate_log_probability=log_probability,
            )  # fmt: skip
            total = tf.reduce_sum(losses)
        gradients.append(float(tape.gradient(total, temperature)))
    assert gradients[1] == pytest.approx(gradients[0], rel=1e-5)


@keras.saving.register_keras_serializable(package="tests.pairwise_temperature")
class WithMargin(keras_tfcl.LearnableTemperature):
    """Is linear no longer: positives have other cosines."""

    def positive_cosine(self, similarity):
        return similarity - 0.2


@keras.saving.register_keras_serializable(package="tests.pairwise_temperature")
class Shifted(keras_tfcl.LearnableTemperature):
    """Is linear no longer: other logits."""

    def call(self, similarity):
        return super().call(similarity + similarity**3)


class Cubic:
    def call(self, similarity):
        return super().call(similarity + similarity**3)


@keras.saving.register_keras_serializable(package="tests.pairwise_temperature")
class MixedIn(Cubic, keras_tfcl.LearnableTemperature):
    """Is linear no longer: other logits, by a class that knows nothing of scalings."""


@pytest.mark.parametrize(
    "scaling", [WithMargin(0.2), Shifted(0.2), MixedIn(0.2), keras_tfcl.CosineMargin(WithMargin(0.2), 0.3)]
)
def test_a_temperature_that_is_no_longer_linear_gets_its_gradient(scaling):
    z, labels = views(1.0), np.array([0, 1, 2, 3, 4, 5, 6, 7, 7])
    trained = getattr(scaling, "scaling", scaling).log_scale
    gradients = []
    for block in ("dense", 7):
        loss = keras_tfcl.ContrastiveLoss(scaling, block_size=block)
        with tf.GradientTape() as tape:
            value = loss(labels, z)
        gradients.append(float(tape.gradient(value, trained)))
    assert gradients[1] == pytest.approx(gradients[0], rel=1e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_scheduled_temperature_is_the_dense_form_without_a_second_trace(jit):
    z, labels = tf.constant(RNG.normal(size=(9, 2, 5)).astype("float32")), np.arange(9)
    scaling = keras_tfcl.ScheduledTemperature()
    dense, loss = (keras_tfcl.ContrastiveLoss(scaling, block_size=size) for size in ("dense", 5))
    traces = []

    @tf.function(jit_compile=jit)
    def tiled(z):
        traces.append(1)
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(labels, z)
        return value, tape.gradient(value, z)

    for temperature in (0.3, 0.05, 0.004):
        scaling.temperature.assign(temperature)
        for a, e in zip(tiled(z), losses_and_gradient(dense, labels, z, 1.0), strict=True):
            assert_close(a.numpy(), e, 3e-5)
    assert len(traces) == 1


@pytest.mark.parametrize("with_views", [False, True])
@pytest.mark.parametrize("negatives", ["all", keras_tfcl.HardNegatives(top_k=4)])
def test_candidates_of_their_own(negatives, with_views):
    anchors, candidates = RNG.normal(size=(10, 5)).astype("float32"), RNG.normal(size=(33, 5)).astype("float32")
    candidates[4:14] = anchors
    anchor_labels, candidate_labels = RNG.integers(0, 6, 10), RNG.integers(0, 9, 33)
    candidate_labels[4:14] = anchor_labels
    self_index = np.arange(4, 14)
    self_index[3] = -1
    choices = {"negatives": negatives, "self_index": self_index, "scaling": 0.2}
    if with_views:
        choices |= {"anchor_views": RNG.integers(0, 2, 10), "candidate_views": RNG.integers(0, 2, 33)}
    results = []
    for block in ("dense", 8):
        a, c = tf.constant(anchors), tf.constant(candidates)
        with tf.GradientTape() as tape:
            tape.watch([a, c])
            losses = keras_tfcl.ops.contrastive_loss(a, c, anchor_labels, candidate_labels, block_size=block, **choices)
            total = tf.reduce_sum(losses * tf.cast(tf.range(1, 11), losses.dtype))
        results.append([losses.numpy(), *(g.numpy() for g in tape.gradient(total, [a, c]))])
    for dense, tiled in zip(*results, strict=True):
        assert_close(tiled, dense)


@pytest.mark.parametrize("block", ["dense", 4])
def test_labels_and_embeddings_of_two_dtypes(block):
    a, c = RNG.normal(size=(3, 4)), RNG.normal(size=(6, 4)).astype("float32")
    anchor_labels, labels = np.array([0, 1, 2**40]), np.array([0, 1, 2**40, 0, 1, 7])
    expected = keras_tfcl.ops.contrastive_loss(a, c.astype("float64"), anchor_labels, labels, block_size="dense")
    for first, second in (("uint64", "int64"), ("int64", "uint64")):
        losses = keras_tfcl.ops.contrastive_loss(
            a, c, anchor_labels.astype(first), labels.astype(second), block_size=block
        )
        np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_an_anchor_whose_own_place_is_masked_out_still_has_its_negative():
    a, c = RNG.normal(size=(1, 4)).astype("float32"), RNG.normal(size=(3, 4)).astype("float32")
    choices = {"self_index": [0], "candidate_mask": [False, True, True], "scaling": 0.5}
    dense, tiled = (
        keras_tfcl.ops.contrastive_loss(a, c, [0], [0, 0, 1], block_size=size, **choices) for size in ("dense", 4)
    )
    assert float(dense[0]) > 0
    np.testing.assert_allclose(tiled, dense, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.0125, 1 / 64])
def test_gradients_of_small_cotangents_keep_their_digits(temperature):
    """Of large sums and small weights, as a large batch has them: no denormal on the way."""
    z = RNG.normal(size=(1, 1, 8)) + 0.05 * RNG.normal(size=(20, 2, 8))
    loss = [keras_tfcl.InfoNCE(temperature, block_size=size, reduction=None) for size in ("dense", 16)]
    weight = np.float32(1e-9)
    dense, tiled = (losses_and_gradient(one, np.arange(20), z.astype("float32"), weight)[1] / weight for one in loss)
    assert_close(tiled, dense, 1e-4)


EXTREMES = [0.001, 0.01, 0.0125, 1 / 64, 10.0, "arctanh", *map(keras_tfcl.Arctanh, (8.8, 10.5, 20.0))]


@pytest.mark.parametrize("scaling", EXTREMES)
def test_poles_and_extremes_are_finite(scaling):
    row = np.array([[3.0, 4.0, 0.0]], "float32") / 5
    z = np.concatenate([row, row, row * 2, -row, np.zeros((1, 3), "float32"), RNG.normal(size=(3, 3))]).astype(
        "float32"
    )
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    loss = keras_tfcl.ContrastiveLoss(scaling, block_size=3, reduction=None)
    losses, gradient = losses_and_gradient(loss, labels, z, np.ones(8, "float32"))
    assert np.isfinite(losses).all()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("angle", [1e-4, 1e-3, 1e-2, 0.1])
def test_near_identical_views_keep_their_digits(angle):
    a = RNG.normal(size=(12, 8))
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b = a + angle * RNG.normal(size=a.shape) / np.sqrt(8)
    z = np.stack([a, b], axis=1).astype("float32")
    loss = keras_tfcl.ArctanhInfoNCE(block_size=5, reduction=None)
    losses = loss(np.arange(12), z).numpy()
    expected = reference.contrastive_loss(np.arange(12), z, arctanh_scale=2.0).losses
    # The embeddings' own rounding against the distance of the views; a dot product errs by 4e-2 at 1e-3.
    np.testing.assert_allclose(losses, expected, rtol=1e-5 + 3e-7 / angle)


@pytest.mark.parametrize("angle", [1e-3, 1e-2])
@pytest.mark.parametrize("apart", [False, True])
def test_an_only_positive_keeps_its_digits_without_known_views(apart, angle):
    """By label alone, among the anchors or among candidates of their own; a dot product errs by 4e-2 at 1e-3."""
    a = RNG.normal(size=(12, 8))
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b = a + angle * RNG.normal(size=a.shape) / np.sqrt(8)
    a, b, labels = a.astype("float32"), b.astype("float32"), np.arange(12)
    others = (b, labels, labels) if apart else (None, np.r_[labels, labels], None)
    anchors = a if apart else np.r_[a, b]
    tiled, dense = (
        keras_tfcl.ops.contrastive_loss(anchors, *others, scaling="arctanh", block_size=size).numpy()
        for size in (5, "dense")
    )
    np.testing.assert_allclose(tiled, dense, rtol=1e-5 + 3e-7 / angle)


def near_pair(angle, negative, rng):
    """Samples of one view and their labels, the first two of them at an angle: negatives, or two of four positives."""
    z = rng.normal(size=(16, 8))
    z[0] /= np.linalg.norm(z[0])
    sideways = np.linalg.svd(z[:1])[2][1]
    z[1] = z[0] * np.cos(angle) + sideways * np.sin(angle)
    return z, np.arange(16) % 4 if negative else np.arange(16) // 4


margin = keras_tfcl.AngularMargin(0.1, 0.5)
NEAR_COPIES = {
    "temperature": (lambda **k: keras_tfcl.InfoNCE(0.02, **k), lambda s: 1e-5),
    "reweighted": (lambda **k: keras_tfcl.ContrastiveLoss(0.3, keras_tfcl.ReweightedNegatives(), **k), lambda s: 1e-5),
    "sigmoid": (keras_tfcl.SigmoidContrastiveLoss, lambda s: 1e-5),
    "arctanh": (keras_tfcl.ArctanhInfoNCE, lambda s: 1e-5 + 8e-7 / (1 - s + 1e-6)),
    "angular margin": (lambda **k: keras_tfcl.ContrastiveLoss(margin, **k), lambda s: 1e-5 + 8e-7 / (1 - s * s + 1e-6)),
}


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("angle", [0.0, 4e-4, 4e-3, *(pytest.param(a, marks=pytest.mark.slow) for a in (1e-4, 1.5e-3))])
@pytest.mark.parametrize("name", NEAR_COPIES)
def test_near_copies_in_tiles_lose_no_more_digits_than_documented(name, angle, negative):
    make, bound = NEAR_COPIES[name]
    z, labels = near_pair(angle, negative, np.random.default_rng(3))
    z = z.astype("float32")
    gradients = [
        losses_and_gradient(make(block_size=size, reduction=None, dtype="float64"), labels, z.astype(dtype), 1.0)[1]
        for size, dtype in ((16, "float32"), ("dense", "float64"))
    ]
    assert_close(*gradients, bound(np.cos(angle)))


def test_nan_in_one_embedding_makes_every_loss_nan():
    z = RNG.normal(size=(6, 4)).astype("float32")
    z[2, 1] = np.nan
    losses = keras_tfcl.ops.contrastive_loss(z, anchor_labels=[0, 0, 1, 1, 2, 2], block_size=2)
    assert np.isnan(losses).all()
