"""Each metric against a double loop over the pairs of every batch, in NumPy float64."""

import ml_dtypes
import numpy as np
import pytest

from keras_tfcl.evaluation import pairs
from keras_tfcl.metrics import Alignment, ContrastiveAccuracy, Tolerance, Uniformity

B, D = 7, 5


def flat(labels, embeddings, weights):
    """Rows (instance, label, unit vector, weight) of a batch (B, D) or (B, V, D)."""
    embeddings = np.asarray(embeddings, "float64")
    embeddings = embeddings[:, None] if embeddings.ndim == 2 else embeddings
    weights = np.ones(len(labels)) if weights is None else weights
    return [
        (row, int(labels[row]), view / (np.linalg.norm(view) or 1.0), float(weights[row]))
        for row in range(len(labels))
        for view in embeddings[row]
    ]


def mean_over_pairs(batches, select, value):
    total = count = 0.0
    for batch in batches:
        items = flat(*batch)
        for i, a in enumerate(items):
            for j, b in enumerate(items):
                if i < j and select(a, b):
                    total += a[3] * b[3] * value(a[2], b[2])
                    count += a[3] * b[3]
    return total / count if count else None


def alignment(batches, alpha=2.0):
    return mean_over_pairs(batches, lambda a, b: a[1] == b[1], lambda u, v: np.linalg.norm(u - v) ** alpha) or 0.0


def uniformity(batches, t=2.0):
    kernel = mean_over_pairs(batches, lambda a, b: a[0] != b[0], lambda u, v: np.exp(-t * np.sum((u - v) ** 2)))
    return 0.0 if kernel is None else -np.log(kernel)


def tolerance(batches):
    return mean_over_pairs(batches, lambda a, b: a[0] != b[0] and a[1] == b[1], lambda u, v: u @ v) or 0.0


def contrastive_accuracy(batches, k=1):
    hits = count = 0.0
    for batch in batches:
        items = flat(*batch)
        for i, anchor in enumerate(items):
            others = [(anchor[2] @ b[2], b[1] == anchor[1]) for j, b in enumerate(items) if j != i]
            if any(positive for _, positive in others):
                nearest = sorted(others, key=lambda pair: -pair[0])[:k]
                hits += anchor[3] * any(positive for _, positive in nearest)
                count += anchor[3]
    return hits / count if count else 0.0


CASES = [
    (Alignment, {}, alignment),
    (Alignment, {"alpha": 1.0}, alignment),
    (Uniformity, {}, uniformity),
    (Uniformity, {"t": 0.5}, uniformity),
    (Tolerance, {}, tolerance),
    (ContrastiveAccuracy, {}, contrastive_accuracy),
    (ContrastiveAccuracy, {"k": 3}, contrastive_accuracy),
    (ContrastiveAccuracy, {"k": 100}, contrastive_accuracy),
]
each_case = pytest.mark.parametrize(("metric_class", "options", "reference"), CASES)


def random_batch(seed, rows=B, views=None, weighted=False):
    rng = np.random.default_rng(seed)
    shape = (rows, D) if views is None else (rows, views, D)
    weights = rng.uniform(0.0, 2.0, rows) if weighted else None
    return rng.integers(0, 3, rows), rng.normal(size=shape).astype("float32") * 3, weights


def streamed(metric, batches):
    for labels, embeddings, weights in batches:
        metric.update_state(labels, embeddings, sample_weight=weights)
    return float(metric.result())


@pytest.mark.parametrize("strip", [1, 40, 2**20])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("views", [None, 1, 2, 3])
@each_case
def test_equals_the_double_loop(metric_class, options, reference, views, weighted, strip, monkeypatch):
    """Strips of one anchor, of a few (the last one reaches back), and of all."""
    monkeypatch.setattr(pairs, "STRIP", strip)
    batches = [random_batch(1, views=views, weighted=weighted)]
    expected = reference(batches, **options)
    assert streamed(metric_class(**options), batches) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@each_case
def test_streams_over_unequal_batches(metric_class, options, reference):
    batches = [random_batch(2, rows=9, views=2), random_batch(3, rows=2, views=2), random_batch(4, rows=5, views=2)]
    expected = reference(batches, **options)
    assert streamed(metric_class(**options), batches) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@each_case
def test_ignores_the_length_of_embeddings(metric_class, options, reference):
    labels, embeddings, _ = random_batch(5, views=2)
    scaled = embeddings * np.random.default_rng(6).uniform(0.1, 1000.0, (B, 2, 1)).astype("float32")
    one, other = (streamed(metric_class(**options), [(labels, e, None)]) for e in (embeddings, scaled))
    assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float64"])
@each_case
def test_computes_in_float32_whatever_comes_in(metric_class, options, reference, dtype):
    labels, embeddings, _ = random_batch(7, views=2)
    embeddings = embeddings.astype(dtype)
    expected = reference([(labels, embeddings, None)], **options)  # of the rounded values
    assert streamed(metric_class(**options), [(labels, embeddings, None)]) == pytest.approx(
        expected, rel=1e-5, abs=1e-6
    )


@each_case
def test_keeps_labels_apart_that_float32_cannot(metric_class, options, reference):
    labels, embeddings, _ = random_batch(8, views=2)
    huge = labels.astype("int64") + 2**62  # one and the same float32, and even float64
    expected = reference([(labels, embeddings, None)], **options)
    assert streamed(metric_class(**options), [(huge, embeddings, None)]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@each_case
def test_takes_labels_as_a_column(metric_class, options, reference):
    labels, embeddings, _ = random_batch(9)
    row, column = (streamed(metric_class(**options), [(x, embeddings, None)]) for x in (labels, labels[:, None]))
    assert row == column


@each_case
def test_is_zero_when_no_pair_was_seen(metric_class, options, reference):
    metric = metric_class(**options)
    assert float(metric.result()) == 0.0
    assert streamed(metric, [(np.array([3]), np.ones((1, D), "float32"), None)]) == 0.0


@each_case
def test_reset_forgets(metric_class, options, reference):
    metric, batch = metric_class(**options), random_batch(10, views=2)
    streamed(metric, [random_batch(11, views=2)])
    metric.reset_state()
    assert streamed(metric, [batch]) == pytest.approx(reference([batch], **options), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("metric", "expected"), [(Alignment(), 0.0), (Uniformity(), 0.0), (Tolerance(), 1.0), (ContrastiveAccuracy(), 0.0)]
)
def test_collapse_to_a_point(metric, expected):
    point = np.random.default_rng(12).normal(size=D).astype("float32")
    embeddings = np.broadcast_to(point, (24, 2, D))
    assert streamed(metric, [(np.arange(24) % 5, embeddings, None)]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("metric", "expected"), [(Alignment(), 1.0), (Tolerance(), 0.0)])
def test_a_zero_row_has_no_direction(metric, expected):
    """Length 0 after normalising: distance 1 from every unit vector, cosine 0 with all."""
    assert streamed(metric, [([4, 4], np.array([[0.0, 0.0], [3.0, 4.0]], "float32"), None)]) == pytest.approx(expected)


@pytest.mark.parametrize("strip", [12, 2**20])
@pytest.mark.parametrize("rows", [slice(None), [2], [2, 5]])
def test_nan_is_no_hit(rows, strip, monkeypatch):
    """Two views of three samples, each on an axis of its own; NaN is as near as any candidate."""
    monkeypatch.setattr(pairs, "STRIP", strip)
    embeddings = np.repeat(np.eye(3, dtype="float32"), 2, axis=0)
    assert streamed(ContrastiveAccuracy(), [(np.arange(6) // 2, embeddings, None)]) == 1.0
    embeddings[rows] = np.nan
    assert streamed(ContrastiveAccuracy(), [(np.arange(6) // 2, embeddings, None)]) == 0.0
