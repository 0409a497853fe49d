"""check_loss accepts a user's own right loss and names what is wrong with a wrong one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from keras_tfcl.testing import CHECKS, check_loss, parametrize_with_checks


@keras.saving.register_keras_serializable(package="tests")
class OwnNTXent(keras.losses.Loss):
    """What a careful user would write, without anything of this library."""

    cast_labels = False
    sign = 1.0
    count_all = False
    normalize = True

    def __init__(self, temperature=0.2, reduction="sum_over_batch_size", name="own", dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.temperature = temperature

    def __call__(self, y_true, y_pred, sample_weight=None):
        labels = tf.reshape(tf.convert_to_tensor(y_true), [-1])
        if self.cast_labels:
            labels = tf.cast(labels, self.dtype)
        y_pred = tf.convert_to_tensor(y_pred)
        shape = tf.shape(y_pred)[:-1]
        views = 1 if y_pred.shape.rank == 2 else y_pred.shape[1]
        losses, valid = self.anchors(tf.repeat(labels, views), tf.reshape(y_pred, [-1, y_pred.shape[-1]]))
        losses = tf.cast(tf.reshape(losses, shape), self.dtype)
        valid = tf.cast(tf.reshape(valid, shape), self.dtype)
        weight = valid
        if sample_weight is not None:
            given = tf.cast(sample_weight, self.dtype)
            weight = valid * (given if y_pred.shape.rank == 2 else given[:, None])
        total = tf.reduce_sum(losses * weight)
        if self.reduction in ("none", None):
            return losses * weight
        if self.reduction == "sum":
            return total
        count = tf.reduce_sum(weight if self.reduction == "mean_with_sample_weight" else valid)
        if self.count_all:
            count = tf.cast(tf.size(valid), self.dtype)
        return tf.math.divide_no_nan(total, count)

    def anchors(self, labels, x):
        x = tf.cast(x, "float64")
        squares = tf.reduce_sum(x * x, 1, keepdims=True)
        u = x / tf.sqrt(tf.where(squares > 0, squares, 1.0)) if self.normalize else x
        s = tf.matmul(u, u, transpose_b=True) * self.sign
        logits = s / self.temperature
        others = ~tf.eye(tf.shape(x)[0], dtype="bool")
        positive = (labels[:, None] == labels[None]) & others
        shifted = tf.exp(tf.where(others, logits - 1 / self.temperature, -700.0))
        log_sum = tf.math.log(tf.reduce_sum(shifted, 1) + 1e-30) + 1 / self.temperature
        count = tf.reduce_sum(tf.cast(positive, "float64"), 1)
        mean = tf.reduce_sum(tf.where(positive, logits, 0.0), 1) / tf.maximum(count, 1.0)
        valid = count > 0
        return tf.where(valid, log_sum - mean, 0.0), valid

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature, "dtype": self.dtype}


def broken(name, **attributes):
    return keras.saving.register_keras_serializable(package="tests")(type(name, (OwnNTXent,), attributes))


def drops_dtype(self):
    return {key: value for key, value in OwnNTXent.get_config(self).items() if key != "dtype"}


def drops_temperature(self):
    return {key: value for key, value in OwnNTXent.get_config(self).items() if key != "temperature"}


def doubles_temperature(self):
    return {**OwnNTXent.get_config(self), "temperature": 2 * self.temperature}


def negatives_alone_count(self, labels, x):
    u = tf.math.l2_normalize(tf.cast(x, "float64"), axis=1)
    losses, valid = OwnNTXent.anchors(self, labels, x)
    return losses + tf.reduce_mean(tf.matmul(u, u, transpose_b=True), 1), tf.ones_like(valid)


def follows_policy(self, labels, x):
    return OwnNTXent.anchors(self, labels, tf.cast(tf.cast(x, keras.config.dtype_policy().compute_dtype), "float64"))


def native_precision(self, labels, x):
    return OwnNTXent.anchors(self, labels, x / tf.norm(x, axis=1, keepdims=True))


def with_idle_variable(self, **kwargs):
    OwnNTXent.__init__(self, **kwargs)
    self.layer = keras.layers.Dense(1)
    self.layer.build((None, 1))


def with_block_size(self, block_size="dense", **kwargs):
    OwnNTXent.__init__(self, **kwargs)
    self.block_size = block_size


def block_config(self):
    return {**OwnNTXent.get_config(self), "block_size": self.block_size}


def wrong_tiles(self, labels, x):
    losses, valid = OwnNTXent.anchors(self, labels, x)
    return losses * (1.0 if self.block_size == "dense" else 1.001), valid


def half_precision(self, labels, x):
    return OwnNTXent.anchors(self, labels, tf.cast(tf.cast(x, "float16"), "float64"))


def without_gradient(self, labels, x):
    losses, valid = OwnNTXent.anchors(self, labels, x)
    return tf.stop_gradient(losses) / 2 + losses / 2, valid


def norm_with_a_pole(self, labels, x):
    return OwnNTXent.anchors(self, labels, x / tf.norm(x, axis=1, keepdims=True))


def first_row_matters(self, labels, x):
    losses, valid = OwnNTXent.anchors(self, labels, x)
    return losses * (1.0 + tf.cast(tf.range(tf.shape(x)[0]), "float64") / 100), valid


def fixed_axis(self, labels, x):
    return OwnNTXent.anchors(self, labels, x * tf.cast(tf.linspace(1.0, 1.5, x.shape[1]), x.dtype))


def python_values(self, labels, x):
    return OwnNTXent.anchors(self, labels, x + (0.0 if tf.executing_eagerly() else 0.1))


def same_label_repels(self, labels, x):
    losses, valid = OwnNTXent.anchors(self, labels, x)
    s = tf.matmul(tf.math.l2_normalize(x, 1), tf.math.l2_normalize(x, 1), transpose_b=True)
    alike = tf.reduce_sum(tf.where(labels[:, None] == labels[None], tf.cast(s, "float64"), 0.0), 1)
    return tf.where(valid, losses + 10 * alike, 0.0), valid


BROKEN = {
    "CastsLabels": ({"cast_labels": True}, "integer_labels"),
    "DropsDtype": ({"get_config": drops_dtype}, "config"),
    "DropsTemperature": ({"get_config": drops_temperature}, "config"),
    "WrongSign": ({"sign": -1.0}, "attraction"),
    "WrongSignOfOptimum": ({"sign": -1.0}, "perfect_below_random"),
    "CountsAll": ({"count_all": True}, "samples_without_positive"),
    "DoublesTemperature": ({"get_config": doubles_temperature}, "saving"),
    "NegativesAlone": ({"anchors": negatives_alone_count}, "no_positives"),
    "FollowsPolicy": ({"anchors": follows_policy}, "dtype_policy"),
    "UntrainedVariable": ({"__init__": with_idle_variable}, "variables"),
    "WrongTiles": ({"__init__": with_block_size, "anchors": wrong_tiles, "get_config": block_config}, "block_size"),
    "NotNormalised": ({"normalize": False}, "rescaling"),
    "Half": ({"anchors": half_precision}, "gradient"),
    "HalfOfTheGradient": ({"anchors": without_gradient}, "gradient"),
    "PoleAtZero": ({"anchors": norm_with_a_pole}, "poles"),
    "OrderMatters": ({"anchors": first_row_matters}, "batch_permutation"),
    "ViewsDiffer": ({"anchors": first_row_matters}, "view_swap"),
    "CopiesDiffer": ({"anchors": first_row_matters}, "duplicates"),
    "FixedAxis": ({"anchors": fixed_axis}, "rotation"),
    "EagerDiffers": ({"anchors": python_values}, "compiled"),
    "TraceDiffers": ({"anchors": python_values}, "unknown_batch_size"),
    "SameLabelRepels": ({"anchors": same_label_repels}, "same_label_is_no_negative"),
    "WeightsIgnored": (
        {"__call__": lambda self, y, x, sample_weight=None: OwnNTXent.__call__(self, y, x)},
        "reductions",
    ),
    "NativePrecision": ({"anchors": native_precision}, "dtypes"),
}
LOSSES = {name: (broken(name, **attributes), check) for name, (attributes, check) in BROKEN.items()}


def test_a_right_loss_passes():
    outcome = check_loss(OwnNTXent())
    assert set(outcome) == set(CHECKS)
    skipped = {name for name, result in outcome.items() if result.startswith("skipped")}
    assert skipped <= {"block_size", "variables", "gpu_lowering"}


@pytest.mark.parametrize("name", LOSSES)
def test_a_wrong_loss_is_named(name):
    loss, check = LOSSES[name]
    with pytest.raises(AssertionError, match=rf"own fails 1 checks:\n{check}: "):
        check_loss(loss(), only=[check])


def test_expected_failures():
    loss = LOSSES["NotNormalised"][0]()
    outcome = check_loss(loss, only=["rescaling"], expected_failures={"rescaling": "lengths matter"})
    assert outcome == {"rescaling": "expected failure: lengths matter"}
    with pytest.raises(AssertionError, match="rotation: AssertionError: passed, but was expected to fail: none"):
        check_loss(loss, only=["rotation"], expected_failures={"rotation": "none"})


def test_unknown_check():
    with pytest.raises(ValueError, match=r"Checks must be among \[.*Received: \['spelling'\]"):
        check_loss(OwnNTXent(), only=["spelling"])
    with pytest.raises(ValueError, match="spelling"):
        parametrize_with_checks([OwnNTXent()], expected_failures={"spelling": "?"})


def test_own_batch():
    """A loss of labelled rows, without views."""
    batch = (np.repeat([3, 1, 2], 3), np.random.default_rng(0).normal(size=(9, 4)))
    of_any_layout = ("compiled", "saving", "gpu_lowering", "unknown_batch_size", "dtypes")
    outcome = check_loss(OwnNTXent(), batch, only=[name for name in CHECKS if name not in of_any_layout])
    assert outcome["view_swap"].startswith("skipped: the batch has a single view")
    assert outcome["samples_without_positive"] == "passed"


@parametrize_with_checks([OwnNTXent()], only=["rotation", "gradient"])
def test_decorator(loss, check):
    check(loss)


def test_only_may_be_a_generator():
    mark = parametrize_with_checks([OwnNTXent(name="a"), OwnNTXent(name="b")], only=(name for name in ["rotation"]))
    assert [parameters.id for parameters in mark.mark.args[1]] == ["a-rotation", "b-rotation"]


def test_a_loss_without_reduction():
    each = ["poles", "same_label_is_no_negative", "perfect_below_random", "gradient"]
    assert set(check_loss(OwnNTXent(reduction=None), only=each).values()) == {"passed"}


def test_an_unregistered_class_is_named_before_what_follows_from_it():
    class Cubic(keras_tfcl.Scaling):
        def __call__(self, similarity):
            return similarity**3

    loss = keras_tfcl.ContrastiveLoss(Cubic(), name="own")
    with pytest.raises(AssertionError, match=r"own fails 1 checks:\nKeras cannot find a class .* first\.\nconfig: "):
        keras_tfcl.testing.check_loss(loss, only=["config", "rotation"])
