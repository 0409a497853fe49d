"""Every loss in tiles against itself in the dense form: any labels, views, candidates and blocks; all gradients."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import keras_tfcl
from helpers.gradients import value_and_gradient
from keras_tfcl.losses.loss_variables import variables_of_loss
from keras_tfcl.ops import Candidates
from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.pairwise import Count, Logits, LogSumExp, Softplus, reduce_pairs
from keras_tfcl.ops.pairwise.tiles import Tiles

pytestmark = pytest.mark.filterwarnings("ignore:.*no embedding of this batch has")


@keras.saving.register_keras_serializable(package="tests.pairwise")
class Cubic(keras_tfcl.Scaling):
    def __call__(self, similarity):
        return 3.0 * (similarity + similarity**3)


@keras.saving.register_keras_serializable(package="tests.pairwise")
class Slope(keras_tfcl.Scaling):
    """Holds a variable of its own, and no layer."""

    def __init__(self):
        self.factor = keras.Variable(3.0)

    def __call__(self, similarity):
        return similarity * keras.ops.cast(self.factor, similarity.dtype)


@keras.saving.register_keras_serializable(package="tests.pairwise")
class Halved(keras_tfcl.Arctanh):
    """Redefines the logits of a scaling that knows their exponential and their range."""

    def __call__(self, similarity):
        return 0.5 * super().__call__(similarity)


@keras.saving.register_keras_serializable(package="tests.pairwise")
class NotTooSimilar(keras_tfcl.Negatives):
    def keep(self, similarity, mask):
        return mask & (similarity < 0.3)


@keras.saving.register_keras_serializable(package="tests.pairwise")
class AboveTheMean(keras_tfcl.HardNegatives):
    """Looks at whole rows, and redefines a choice that does not."""

    def keep(self, similarity, mask):
        weight = keras.ops.cast(mask, similarity.dtype)
        mean = keras.ops.sum(weight * similarity, 1, keepdims=True) / keras.ops.maximum(
            keras.ops.sum(weight, 1, keepdims=True), 1.0
        )
        return mask & (similarity >= mean)


@keras.saving.register_keras_serializable(package="tests.pairwise")
class Tripled(keras_tfcl.Negatives):
    def log_sum(self, logits, pairs, lowest):
        return super().log_sum(logits, pairs, lowest) + float(np.log(3.0))


@keras.saving.register_keras_serializable(package="tests.pairwise")
class Weighted(keras_tfcl.Negatives):
    """Holds a layer and a variable, in a list."""

    def __init__(self):
        self.parts = [keras_tfcl.LearnableTemperature(0.5), keras.Variable(0.7)]

    def log_sum(self, logits, pairs, lowest):
        scale, factor = (keras.ops.cast(v, logits.dtype) for v in (self.parts[0].log_scale, self.parts[1]))
        return super().log_sum(logits * keras.ops.exp(scale) * factor, pairs, lowest)


@keras.saving.register_keras_serializable(package="tests.pairwise")
class Limit(keras_tfcl.Negatives):
    """Reads a variable in tiles."""

    def __init__(self):
        self.limit = keras.Variable(0.5)

    def allows(self, similarity):
        return similarity < keras.ops.cast(self.limit, similarity.dtype)


@keras.saving.register_keras_serializable(package="tests.pairwise")
class Farther(keras_tfcl.Negatives):
    """Written for tiles: pair by pair, by rank, and a power of its own."""

    powers = ((1.5, 1.5), (0.5, 0.0))

    def allows(self, similarity):
        return similarity < 0.8

    def hardest(self, count):
        return (count + 1) // 2

    def from_log_sums(self, log_sums, log_positive, log_count, lowest):
        return log_sums[0] - log_sums[1] + 0.1 * log_positive


@keras.saving.register_keras_serializable(package="tests.pairwise")
class Margin(keras_tfcl.losses.EmbeddingLoss):
    """A loss of a user's own, with a variable."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.margin = keras.Variable(0.2)

    def losses_of_pairs(self, similarity, pairs):
        margin = keras.ops.cast(self.margin, similarity.dtype)
        positive = keras.ops.where(pairs.positive, (1 - similarity) ** 2, 0)
        negative = keras.ops.where(pairs.negative, keras.ops.softplus(5 * (similarity - margin)), 0)
        return keras.ops.sum(positive + negative, axis=1)


general, hard, reweighted = keras_tfcl.ContrastiveLoss, keras_tfcl.HardNegatives, keras_tfcl.ReweightedNegatives
LOSSES = {
    "temperature": lambda **k: keras_tfcl.InfoNCE(0.1, **k),
    "small temperature": lambda **k: keras_tfcl.InfoNCE(0.004, **k),
    "learnable": lambda **k: general(keras_tfcl.LearnableTemperature(0.2), **k),
    "learnable, bounded": lambda **k: general(keras_tfcl.LearnableTemperature(0.2, maximum_scale=20), **k),
    "scheduled": lambda **k: general(keras_tfcl.ScheduledTemperature(0.2), **k),
    "dynamic": lambda **k: general(keras_tfcl.DynamicTemperature(0.1, 0.3), **k),
    "arctanh": lambda **k: keras_tfcl.ArctanhInfoNCE(**k),
    "arctanh 1": lambda **k: keras_tfcl.ArctanhInfoNCE(1.0, **k),
    "arctanh 4": lambda **k: keras_tfcl.ArctanhInfoNCE(4.0, **k),
    "arctanh 20": lambda **k: keras_tfcl.ArctanhInfoNCE(20.0, **k),
    "own scaling": lambda **k: general(Cubic(), **k),
    "own scaling with a variable": lambda **k: general(Slope(), **k),
    "redefined scaling": lambda **k: general(Halved(), **k),
    "hard alpha": lambda **k: general("arctanh", hard(alpha=0.3), **k),
    "hard top k": lambda **k: general(0.1, hard(top_k=2), **k),
    "hcl": lambda **k: general(0.3, reweighted(1.0, 0.1), **k),
    "hcl detached": lambda **k: general("arctanh", reweighted(0.5, 0.1, detach=True), **k),
    "hcl, small temperature": lambda **k: general(0.02, reweighted(2.0), **k),
    "debiased": lambda **k: general(keras_tfcl.LearnableTemperature(0.5), reweighted(0.0, 0.1), **k),
    "guard": lambda **k: general(0.2, keras_tfcl.WithoutNearDuplicates(0.5), **k),
    "guarded hard": lambda **k: general(0.2, keras_tfcl.WithoutNearDuplicates(0.5, hard(top_k=3)), **k),
    "guarded hcl": lambda **k: general(0.2, keras_tfcl.WithoutNearDuplicates(0.5, reweighted(1.0, 0.1)), **k),
    "own negatives": lambda **k: general(0.2, NotTooSimilar(), **k),
    "own negatives by rows": lambda **k: general(keras_tfcl.LearnableTemperature(0.2), AboveTheMean(), **k),
    "own weights": lambda **k: general("arctanh", Tripled(), **k),
    "own weights, trained": lambda **k: general(keras_tfcl.LearnableTemperature(0.3), Weighted(), **k),
    "own limit": lambda **k: general(0.3, Limit(), **k),
    "own negatives in tiles": lambda **k: general(0.3, Farther(), **k),
    "guarded own": lambda **k: general(0.2, keras_tfcl.WithoutNearDuplicates(0.5, AboveTheMean()), **k),
    "dcl": lambda **k: keras_tfcl.DecoupledInfoNCE(0.2, **k),
    "dcl hcl": lambda **k: general(0.3, reweighted(1.0, 0.1), decoupled=True, **k),
    "dclw": lambda **k: keras_tfcl.DecoupledInfoNCE(0.2, sigma=0.5, **k),
    "simple": lambda **k: keras_tfcl.SimpleContrastiveLoss(**k),
    "hard simple": lambda **k: keras_tfcl.SimpleContrastiveLoss(0.3, hard(alpha=0.4), **k),
    "own simple": lambda **k: keras_tfcl.SimpleContrastiveLoss(negatives=AboveTheMean(), **k),
    "simple, own limit": lambda **k: keras_tfcl.SimpleContrastiveLoss(negatives=Limit(), **k),
    "sigmoid": lambda **k: keras_tfcl.SigmoidContrastiveLoss(5.0, -2.0, **k),
    "own loss": lambda **k: Margin(**k),
}


def variables(loss):
    return [variable for variable in variables_of_loss(loss) if variable.trainable]


def results(loss, labels, z, candidates, weights, jit=None):
    """The losses of the anchors, and the gradients by the embeddings, the candidates and the loss's variables."""
    trained = [v.value for v in variables(loss)]

    def compute(z, others):
        with tf.GradientTape() as tape:
            tape.watch([z, others])
            if candidates is None:
                losses = loss(labels, z)
            else:
                losses = loss.against(labels, z, candidates._replace(embeddings=others))
            total = tf.reduce_sum(losses * tf.cast(weights, losses.dtype))
        return losses, tape.gradient(total, [z, others, *trained], unconnected_gradients="zero")

    run = compute if jit is None else tf.function(compute, jit_compile=jit, autograph=False)
    losses, gradients = run(tf.constant(z), tf.constant(z if candidates is None else candidates.embeddings))
    return [np.asarray(losses), *map(np.asarray, gradients)]


def assert_same(actual, expected, tolerance):
    for a, e in zip(actual, expected, strict=True):
        scale = max(np.abs(e).max(), 1e-3)
        tolerance = max(tolerance, 1e-6) if e.dtype == np.float32 else tolerance  # variables are float32
        np.testing.assert_allclose(a / scale, e / scale, rtol=0, atol=tolerance)


def own_candidates(rng, labels, z, cross):
    """The anchors among others, some of them nowhere, some slots empty."""
    rows = z.reshape(-1, z.shape[-1])
    more = rng.normal(size=(rng.integers(1, 20), z.shape[-1]))
    c = np.concatenate([more[:3], rows, more])
    all_labels = np.concatenate([rng.choice(labels, 3 if len(more) > 2 else len(more)), labels.repeat(z.shape[1]),
                                 rng.choice(labels, len(more))])  # fmt: skip
    index = min(3, len(more)) + np.arange(len(rows))
    index[rng.random(len(rows)) < 0.2] = -1
    mask = rng.random(len(c)) < 0.8 if rng.random() < 0.5 else None
    views = rng.integers(0, z.shape[1], len(c)) if cross else None
    return Candidates(c, all_labels, index.astype("int32"), views, mask)


def check(data, name, dtype, tolerance, jit=None):
    draw = data.draw
    rows, views = draw(st.integers(2, 10)), draw(st.integers(1, 3))
    labels = np.array(draw(st.lists(st.sampled_from([-5, 0, 3, 2**40]), min_size=rows, max_size=rows)))
    if draw(st.booleans()):
        labels = np.arange(rows)
    cross = views > 1 and draw(st.booleans())
    block = draw(st.integers(max(4, rows * views // 3), 30))  # eager loops over many tiles are slow
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    z = rng.normal(size=(rows, views, draw(st.integers(4, 9))))
    candidates = own_candidates(rng, labels, z, cross) if draw(st.booleans()) else None
    if candidates is not None:
        candidates = candidates._replace(embeddings=candidates.embeddings.astype(dtype))
    weights = rng.uniform(size=(rows, views))
    make = lambda size: LOSSES[name](block_size=size, cross_view_only=cross, reduction=None, dtype="float64")  # noqa: E731
    tiled = results(make(block), labels, z.astype(dtype), candidates, weights, jit)
    assert_same(tiled, results(make("dense"), labels, z.astype(dtype), candidates, weights), tolerance)


SETTINGS = hypothesis.settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
    max_examples=2,
    phases=[hypothesis.Phase.generate],
)


@pytest.mark.parametrize("name", LOSSES)
def test_any_comparison(name):
    """In float64 the comparison shows the algorithm, not the rounding."""

    @SETTINGS
    @hypothesis.given(data=st.data())
    def run(data):
        check(data, name, "float64", 1e-8)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("jit", [None, False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_many_comparisons(name, jit):
    @hypothesis.settings(SETTINGS, max_examples={None: 25, False: 3, True: 1}[jit])
    @hypothesis.given(data=st.data())
    def run(data):
        check(data, name, "float64", 1e-8, jit)

    run()


PATHS = ["learnable, bounded", "arctanh", "hard top k", "own loss"]  # one for each path through the kernel


@pytest.mark.parametrize("name", [*PATHS, *(pytest.param(n, marks=pytest.mark.slow) for n in LOSSES if n not in PATHS)])
def test_float32_under_xla(name):
    rng = np.random.default_rng(3)
    z, labels, weights = (
        rng.normal(size=(20, 2, 8)).astype("float32"),
        rng.integers(0, 12, 20),
        rng.uniform(size=(20, 2)),
    )
    tiled = results(LOSSES[name](block_size=16, reduction=None), labels, z, None, weights, jit=True)
    dense = results(LOSSES[name](block_size="dense", reduction=None), labels, z, None, weights)
    assert_same(tiled, dense, 1e-5)


@pytest.mark.parametrize("weights", ["equal", "different", pytest.param("some_ignored", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("cross", "jit"), [(False, True), (True, False)])
def test_sigmoid_loss_in_one_loop_and_in_two(cross, jit, weights):
    """Where all anchors weigh the same, the forward loop computes the gradient, too; else a second loop does."""
    count = 9
    rng = np.random.default_rng(3)
    z = rng.normal(size=(count, 2, 6))
    labels = np.arange(count)
    sample_weight = rng.uniform(0.1, 2, count).astype("float32") if weights == "different" else None
    choice = {"cross_view_only": cross, "ignore_class": 0 if weights == "some_ignored" else None}

    def value_and_gradients(block, z):
        loss = keras_tfcl.SigmoidContrastiveLoss(5.0, -3.0, block_size=block, **choice)

        @tf.function(jit_compile=jit, autograph=False)
        def step(z):
            variables = [v.value for v in loss.logits.trainable_variables]
            with tf.GradientTape() as tape:
                tape.watch(z)
                value = loss(labels, z, sample_weight)
            return value, tape.gradient(value, [z, *variables])

        return step(z)

    expected = value_and_gradients("dense", tf.constant(z))
    received = value_and_gradients(4, tf.constant(z, tf.float32))
    np.testing.assert_allclose(received[0], expected[0], rtol=1e-5)
    for a, e in zip(received[1], expected[1], strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weights", ["equal", "different"])
def test_tiles_that_the_gradient_of_the_sigmoid_loss_visits(weights, monkeypatch):
    visited, visit = [], Tiles.visit

    def counted(tiles, body, state, number):
        visited.append(int(number))
        return visit(tiles, body, state, number)

    monkeypatch.setattr(Tiles, "visit", counted)
    z = np.random.default_rng(3).normal(size=(9, 2, 6)).astype("float32")
    sample_weight = np.arange(1, 10, dtype="float32") if weights == "different" else None
    value_and_gradient(keras_tfcl.SigmoidContrastiveLoss(block_size=4, learnable=False), z, None, sample_weight)
    forward, backward = visited
    assert backward == (forward if weights == "different" else 0)


@pytest.mark.parametrize("reducer", [Softplus(), LogSumExp("all")])
def test_no_anchors_at_all(reducer):
    """A replica may have none, while candidates come from all replicas: its share of their gradient is 0."""
    signature = [tf.TensorSpec([None, 4]), tf.TensorSpec([6, 4])]

    @tf.function(input_signature=signature, autograph=False)
    def gradients(anchors, candidates):
        others = Candidates(candidates, tf.range(6, dtype="int64"))
        comparison = Comparison(anchors, tf.range(tf.shape(anchors, "int64")[0]), candidates=others)
        with tf.GradientTape() as tape:
            tape.watch([anchors, candidates])
            reduced = reduce_pairs(comparison, [reducer, Count("positive")], Logits(0.5), block=4)
            total = tf.reduce_sum(reduced.joined()[0])
        return tape.gradient(total, [anchors, candidates])

    z = tf.random.stateless_normal([6, 4], [0, 1])
    of_none = gradients(z[:0], z)
    assert of_none[0].shape == (0, 4)
    np.testing.assert_array_equal(of_none[1], 0.0)
    assert np.abs(gradients(z[:2], z)[1]).max() > 0


def test_functions_of_whole_rows_see_a_strip_of_them():
    """Once they saw all rows, in float64: what was tried on one pair came from outside, as if it were trained."""
    seen = []

    class Nearest(keras_tfcl.losses.EmbeddingLoss):
        """Cannot be tried on a single pair."""

        def losses_of_pairs(self, similarity, pairs):
            seen.append(similarity)
            nearest = tf.math.top_k(tf.where(pairs.negative, similarity, -1.0), 5)[0]
            return tf.reduce_mean(nearest, 1) - tf.reduce_sum(tf.where(pairs.positive, similarity, 0.0), 1)

    class AmongTheNearest(keras_tfcl.Negatives):
        def keep(self, similarity, mask):
            seen.append(similarity)
            return mask & (similarity >= tf.math.top_k(tf.where(mask, similarity, -2.0), 5)[0][:, -1:])

    z, labels = np.random.default_rng(0).normal(size=(20, 2, 6)).astype("float32"), np.arange(20) // 2
    for make in (Nearest, lambda **k: general(0.2, AmongTheNearest(), **k)):
        losses = {}
        for block, height in ((7, 8 * 7 * 7 // 40), (100_000, 40), ("dense", 40)):
            seen.clear()
            losses[block] = make(block_size=block, reduction=None)(labels, z)
            assert {len(x) for x in seen if isinstance(x.shape[0], int)} == {height}
            assert {x.dtype for x in seen} == {tf.float64 if block == "dense" else tf.float32}
        np.testing.assert_allclose(losses[7], losses["dense"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(losses[100_000], losses["dense"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", ["dense", 7])
@pytest.mark.parametrize("make", [lambda **k: general(0.3, **k), keras_tfcl.SimpleContrastiveLoss])
def test_a_choice_that_keeps_more_than_negatives_keeps_no_positive(make, block):
    class All(keras_tfcl.Negatives):
        def keep(self, similarity, mask):
            return similarity > -2

    z, labels = np.random.default_rng(0).normal(size=(6, 2, 5)).astype("float32"), np.arange(6) // 2
    kept, every = (make(negatives=negatives, block_size=block)(labels, z) for negatives in (All(), "all"))
    np.testing.assert_allclose(kept, every, rtol=1e-6, atol=1e-6)
