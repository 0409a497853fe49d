"""What the losses refuse, and how they say it: expected, received, remedy."""

import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl

Z = np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32")
LABELS = np.arange(4)


@pytest.mark.parametrize("bad", [0, 0.0, -1.0, float("nan"), float("inf"), "0.1", True, None, [0.1]])
def test_temperature(bad):
    with pytest.raises(
        ValueError, match=r"`temperature` must be a positive finite number\. Received: temperature=.*0\.1"
    ):
        keras_tfcl.InfoNCE(temperature=bad)


@pytest.mark.parametrize("bad", [0, -2.0, float("nan"), "2", None])
def test_scale(bad):
    with pytest.raises(ValueError, match=r"`scale` must be a positive finite number\. Received: scale=.*scale=2"):
        keras_tfcl.ArctanhInfoNCE(scale=bad)


@pytest.mark.parametrize("bad", [0, -0.1, 1.5, float("nan"), "0.1", True])
def test_alpha(bad):
    with pytest.raises(ValueError, match=r"`alpha` must be a number in \(0, 1\]\. Received: alpha=.*0\.1"):
        keras_tfcl.HardNegativeInfoNCE(alpha=bad)


@pytest.mark.parametrize("bad", [0, -1, 2.5, "3", True])
def test_top_k(bad):
    with pytest.raises(ValueError, match=r"`top_k` must be an integer of at least 1\. Received: top_k="):
        keras_tfcl.HardNegativeInfoNCE(top_k=bad)


def test_alpha_and_top_k():
    with pytest.raises(ValueError, match=r"pass only one of them\. Received: alpha=0.1, top_k=3"):
        keras_tfcl.HardNegativeInfoNCE(alpha=0.1, top_k=3)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), "1"])
def test_beta(bad):
    with pytest.raises(ValueError, match=r"`beta` must be a finite number >= 0\. Received: beta="):
        keras_tfcl.ReweightedNegatives(beta=bad)


@pytest.mark.parametrize("bad", [-0.1, 1.0, float("nan"), "0"])
def test_tau_plus(bad):
    with pytest.raises(ValueError, match=r"`tau_plus` must be a number in \[0, 1\)\. Received: tau_plus="):
        keras_tfcl.ReweightedNegatives(tau_plus=bad)


@pytest.mark.parametrize("bad", ["cosine", None, True, object()])
def test_scaling(bad):
    with pytest.raises(ValueError, match=r"`scaling` must be .* Received: scaling=.*scaling='arctanh'"):
        keras_tfcl.ContrastiveLoss(bad)


@pytest.mark.parametrize("bad", ["hard", None, 0.1])
def test_negatives(bad):
    with pytest.raises(ValueError, match=r"`negatives` must be 'all' or .*HardNegatives.* Received: negatives="):
        keras_tfcl.ContrastiveLoss(0.1, negatives=bad)


def test_reduction():
    with pytest.raises(ValueError, match="reduction=average"):
        keras_tfcl.InfoNCE(reduction="average")


@pytest.mark.parametrize("shape", [(4,), (4, 2, 3, 1)])
def test_rank_of_y_pred(shape):
    with pytest.raises(
        ValueError, match=r"`y_pred` must hold embeddings of shape .* Received: shape=.*Pool or flatten"
    ):
        keras_tfcl.InfoNCE()(LABELS, np.ones(shape, "float32"))


@pytest.mark.parametrize("shape", [(0, 3), (4, 0, 3), (4, 2, 0)])
def test_empty_y_pred(shape):
    with pytest.raises(ValueError, match=r"at least one row, view and feature.* Received: shape="):
        keras_tfcl.InfoNCE()(LABELS, np.ones(shape, "float32"))


def test_integer_y_pred():
    with pytest.raises(
        ValueError, match=r"float embeddings\. Received: dtype=int64\. Check that `y_true` and `y_pred` are not swapped"
    ):
        keras_tfcl.InfoNCE()(LABELS, np.ones((4, 3), "int64"))


@pytest.mark.parametrize("compiled", [False, True])
def test_length_mismatch(compiled):
    loss = tf.function(keras_tfcl.InfoNCE()) if compiled else keras_tfcl.InfoNCE()
    with pytest.raises(
        ValueError, match=r"one label for each row of `y_pred`\. Received: 3 labels for y_pred of shape \(4, 2, 3\)"
    ):
        loss(np.arange(3), Z)


@pytest.mark.parametrize(
    "bad", [[0.5, 1.0, 2.0, 3.0], [0.0, np.nan, 1.0, 2.0], [np.inf, np.inf, 0, 1], [0, 1, 2, 1e300]]
)
def test_labels_that_are_no_integers(bad):
    with pytest.raises(ValueError, match=r"`y_true` must be integer labels\. Received: dtype=float64 with the value"):
        keras_tfcl.InfoNCE()(np.array(bad), Z)


def test_whole_float_labels_are_taken_where_they_can_be_checked():
    value = keras_tfcl.InfoNCE()(np.array([3.0, 3.0, 1.0, 1.0]), Z)
    assert value == keras_tfcl.InfoNCE()(np.array([3, 3, 1, 1]), Z)
    with pytest.raises(ValueError, match=r"Received: dtype=float32\. Cast them .*astype\('int64'\)"):
        tf.function(keras_tfcl.InfoNCE())(tf.constant([0.0, 1.0, 2.0, 3.0]), Z)


def test_string_ids():
    with pytest.raises(ValueError, match=r"Received: dtype=string\. Number them"):
        keras_tfcl.InfoNCE()(np.array(["a", "b", "c", "d"]), Z)


def test_one_label_for_each_view():
    with pytest.raises(ValueError, match=r"multi-hot labels, 0 or 1\. Received: shape=\(4, 2\).*one integer label"):
        keras_tfcl.InfoNCE()(np.arange(8).reshape(4, 2), Z)


@pytest.mark.parametrize("z", [Z[:, 0], Z[:, :1]])
def test_cross_view_only_needs_views(z):
    with pytest.raises(ValueError, match=r"`y_pred` must have shape \(B, V, D\) with V >= 2\. Received"):
        keras_tfcl.InfoNCE(cross_view_only=True)(LABELS, z)


@pytest.mark.parametrize("weights", [np.ones(3), np.ones((4, 3)), np.ones((2, 4)), np.ones((1, 2))])
def test_sample_weight_shape(weights):
    with pytest.raises(ValueError, match=r"`sample_weight` must have shape .* Received: shape"):
        keras_tfcl.InfoNCE()(LABELS, Z, sample_weight=weights)


def test_sample_weight_of_known_length_for_a_batch_of_unknown_length():
    weights = np.linspace(0, 1, len(Z)).astype("float32")
    step = tf.function(
        lambda labels, z: keras_tfcl.InfoNCE()(labels, z, weights),
        input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, *Z.shape[1:]], tf.float32)],
    )
    expected = keras_tfcl.InfoNCE()(LABELS, Z, weights)
    np.testing.assert_allclose(step(np.array(LABELS, "int64"), np.array(Z, "float32")), expected, rtol=1e-6)


def test_functional_form_needs_ids():
    with pytest.raises(
        ValueError, match=r"needs `anchor_labels`, and `candidate_labels` exactly when `candidates` is given"
    ):
        keras_tfcl.ops.contrastive_loss(Z[:, 0])
    with pytest.raises(ValueError, match=r"candidates=given, candidate_labels=not given"):
        keras_tfcl.ops.contrastive_loss(Z[:, 0], Z[:, 1], LABELS)
    with pytest.raises(ValueError, match=r"`scaling` must be a positive finite number\. Received: scaling=0"):
        keras_tfcl.ops.contrastive_loss(Z[:, 0], anchor_labels=LABELS, scaling=0)


THREE = {"candidates": Z[:3, 1], "candidate_labels": [0, 1, 2]}


@pytest.mark.parametrize("block_size", ["dense", 2])
@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"anchor_labels": [0]}, r"`anchor_labels` must have shape \(4,\), .* the anchors\. Received: \(1,\)"),
        ({**THREE, "candidate_labels": LABELS}, r"`candidate_labels` must have shape \(3,\), .* Received: \(4,\)"),
        ({**THREE, "self_index": [0]}, r"`self_index` must have shape \(4,\), .* the anchors\. Received: \(1,\)"),
        ({**THREE, "candidate_mask": True}, r"`candidate_mask` must have shape \(3,\), .* Received: \(\)"),
        ({"negatives": "hard"}, r"`negatives` must be 'all' or .*HardNegatives.* Received: negatives='hard'"),
        ({"negatives": None}, r"`negatives` must be 'all' or .* Received: negatives=None"),
        ({"candidate_mask": [True] * 4}, r"Without `candidates`.*Received: candidate_mask\. Leave"),
        ({"self_index": LABELS, "candidate_views": LABELS}, r"Received: self_index, candidate_views\. Leave"),
        ({**THREE, "candidate_views": [0, 1, 0]}, r"`anchor_views` and `candidate_views`.*anchor_views=not given"),
        ({**THREE, "anchor_views": [0, 1, 0, 1]}, r"`anchor_views` and `candidate_views`.*candidate_views=not given"),
    ],
)  # fmt: skip
def test_functional_form_refuses_the_same_in_both_forms(choices, message, block_size):
    with pytest.raises(ValueError, match=message):
        keras_tfcl.ops.contrastive_loss(Z[:, 0], **{"anchor_labels": LABELS, **choices}, block_size=block_size)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras_tfcl.SimpleContrastiveLoss(-1.0), r"`weight` must be a positive.*Received: weight=-1\.0"),
        (
            lambda: keras_tfcl.SimpleContrastiveLoss(negatives=keras_tfcl.ReweightedNegatives()),
            r"must choose, as 'all' and HardNegatives do.*Received: negatives=ReweightedNegatives",
        ),
        (
            lambda: keras_tfcl.SimpleContrastiveLoss(
                negatives=keras_tfcl.WithoutNearDuplicates(0.05, keras_tfcl.ReweightedNegatives())
            ),
            r"must choose, as 'all' and HardNegatives do.*Received: negatives=ReweightedNegatives",
        ),
        (lambda: keras_tfcl.SigmoidContrastiveLoss(0), r"`scale` must be a positive.*Received: scale=0\. SigLIP"),
        (lambda: keras_tfcl.SigmoidContrastiveLoss(bias="a"), r"`bias` must be a finite number\. Received: bias='a'"),
        (lambda: keras_tfcl.DecoupledInfoNCE(0.1, sigma=0), r"`sigma` must be a positive.*Received: sigma=0.*0\.5"),
        (lambda: keras_tfcl.DecoupledInfoNCE(0.1, sigma=1e-3), r"`sigma` must be at least 0\.01.*sigma=0\.001"),
        (lambda: keras_tfcl.DynamicTemperature(0.1, 0.5), r"between minimum and 4\.5 \* minimum\. Received"),
        (lambda: keras_tfcl.DynamicTemperature(0.2, 0.1), r"Received: minimum=0\.2, maximum=0\.1\. The authors"),
        (lambda: keras_tfcl.WithoutNearDuplicates(0), r"`margin` must be a positive.*Received: margin=0"),
        (lambda: keras_tfcl.WithoutNearDuplicates(2.5), r"`margin` must be a number in \(0, 2\)\. Received: .*2\.5"),
        (lambda: keras_tfcl.WithoutNearDuplicates(0.1, "hard"), r"`negatives` must be 'all' or .*Received"),
    ],
)  # fmt: skip
def test_other_losses_and_their_parts(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_loss_without_its_method_says_so():
    with pytest.raises(NotImplementedError, match="EmbeddingLoss must define `losses_of_pairs"):
        keras_tfcl.losses.EmbeddingLoss()([0, 0], [[1.0, 0.0], [0.0, 1.0]])
