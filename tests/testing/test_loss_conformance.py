"""Every public loss, held to the conformance suite; the slow tests hold the whole grid of choices to it."""

import keras
import numpy as np
import pytest

import keras_tfcl
from keras_tfcl.testing import parametrize_with_checks


@keras.saving.register_keras_serializable(package="tests.conformance")
class Cubic(keras_tfcl.Scaling):
    """A user's own scaling."""

    def __init__(self, strength=2.0):
        self.strength = strength

    def __call__(self, similarity):
        return self.strength * (similarity + similarity**3)

    def get_config(self):
        return {"strength": self.strength}


@keras.saving.register_keras_serializable(package="tests.conformance")
class NotTooSimilar(keras_tfcl.Negatives):
    """A user's own choice of negatives."""

    def __init__(self, limit=0.95):
        self.limit = limit

    def keep(self, similarity, mask):
        return mask & (similarity < self.limit)

    def get_config(self):
        return {"limit": self.limit}


STOPS = "its gradient is stopped on purpose: "
# What depends on how a scaling and a choice of negatives work together; the rest depends on one of them.
OF_THE_PAIR = ("gradient", "poles", "block_size", "duplicates", "same_label_is_no_negative", "attraction", "dtypes")
# What depends on the parts of a loss, and takes little time.
OF_THE_PARTS = ("config", "gradient", "block_size", "saving", "same_label_is_no_negative")
# What depends on who is compared with whom; the rest is checked once for each loss, on the default batch.
OF_THE_LAYOUT = ("gradient", "reductions", "batch_permutation", "view_swap", "duplicates", "perfect_below_random")


def expected_failures(loss):
    """The losses whose gradient is documented not to be the derivative of their value."""
    if getattr(loss, "sigma", None) is not None:
        return {"gradient": STOPS + "DCLW's weights are constants"}
    if isinstance(getattr(loss, "scaling", None), keras_tfcl.DynamicTemperature):
        return {"gradient": STOPS + "DySTreSS's temperatures are constants"}
    if getattr(getattr(loss, "negatives", None), "detach", False):
        return {"gradient": STOPS + "detach=True"}
    return {}


PUBLIC = {
    "infonce": keras_tfcl.InfoNCE(0.2),
    "arctanh": keras_tfcl.ArctanhInfoNCE(),
    "hard": keras_tfcl.HardNegativeInfoNCE(0.3, top_k=3, cross_view_only=True),
    "dclw": keras_tfcl.DecoupledInfoNCE(0.2, sigma=0.5),
    "simple": keras_tfcl.SimpleContrastiveLoss(negatives=keras_tfcl.HardNegatives(alpha=0.5)),
    "sigmoid": keras_tfcl.SigmoidContrastiveLoss(),
}
# Parts of other losses, and of a user's own. The rest of their checks are slow.
COMPOSED = {
    "angular_margin": keras_tfcl.ContrastiveLoss(keras_tfcl.AngularMargin(0.3), block_size=5),
    "own_parts": keras_tfcl.ContrastiveLoss(Cubic(), NotTooSimilar(), block_size=6),
    "learnable_reweighted": keras_tfcl.ContrastiveLoss(
        keras_tfcl.LearnableTemperature(0.3), keras_tfcl.ReweightedNegatives(1.0, 0.05)
    ),
}
MORE = {
    "sigmoid_fixed": keras_tfcl.SigmoidContrastiveLoss(8.0, -2.0, learnable=False, cross_view_only=True),
    "simple_weight": keras_tfcl.SimpleContrastiveLoss(0.3),
    "dcl": keras_tfcl.DecoupledInfoNCE(0.3),
    "detached": keras_tfcl.ContrastiveLoss(0.5, keras_tfcl.ReweightedNegatives(1.0, detach=True)),
    "arctanh_cross": keras_tfcl.ArctanhInfoNCE(cross_view_only=True, negatives=keras_tfcl.HardNegatives(top_k=2)),
}
SCALINGS = {
    "temperature": lambda: 0.3,
    "arctanh": lambda: "arctanh",
    "learnable": lambda: keras_tfcl.LearnableTemperature(0.3),
    "scheduled": lambda: keras_tfcl.ScheduledTemperature(0.3),
    "dynamic": lambda: keras_tfcl.DynamicTemperature(0.2, 0.4),
    "cosine_margin": lambda: keras_tfcl.CosineMargin(0.3),
    "angular_margin": lambda: keras_tfcl.AngularMargin(keras_tfcl.LearnableTemperature(0.3)),
}
NEGATIVES = {
    "all": lambda: "all",
    "alpha": lambda: keras_tfcl.HardNegatives(alpha=0.4),
    "top_k": lambda: keras_tfcl.HardNegatives(top_k=2),
    "reweighted": lambda: keras_tfcl.ReweightedNegatives(1.0, 0.02),
    "guarded": lambda: keras_tfcl.WithoutNearDuplicates(0.02, keras_tfcl.HardNegatives(top_k=3)),
}
GRID = {
    f"{scaling}-{negatives}": keras_tfcl.ContrastiveLoss(make_scaling(), make_negatives())
    for scaling, make_scaling in SCALINGS.items()
    for negatives, make_negatives in NEGATIVES.items()
}
EACH_ONCE = {name: loss for name, loss in GRID.items() if name.startswith("temperature-") or name.endswith("-all")}


def layout(views, labels):
    shape = (len(labels), 6) if views == 1 else (len(labels), views, 6)
    return np.array(labels), np.random.default_rng(7).normal(size=shape)


LAYOUTS = [
    layout(1, [0, 0, 1, 1, 2, 2, 2, 0]),
    layout(1, [5, 5, 5, -1, 5, -1]),
    layout(2, [0, 0, 1, 1, 2, 2]),
    layout(2, [4, 4, 4, 9, 7, 7]),
    layout(3, [0, 1, 2, 3]),
    layout(3, [0, 0, 1, 1]),
]


@parametrize_with_checks(PUBLIC, expected_failures=expected_failures)
def test_public_loss(loss, check):
    check(loss)


@parametrize_with_checks(COMPOSED, only=OF_THE_PARTS)
def test_parts(loss, check):
    check(loss)


@pytest.mark.slow
@parametrize_with_checks({**MORE, **COMPOSED}, expected_failures=expected_failures)
def test_other_arguments(loss, check):
    check(loss)


@pytest.mark.slow
@parametrize_with_checks(EACH_ONCE, expected_failures=expected_failures)
def test_each_scaling_and_each_choice_of_negatives(loss, check):
    check(loss)


@pytest.mark.slow
@parametrize_with_checks(GRID, expected_failures=expected_failures, only=OF_THE_PAIR)
def test_scaling_and_negatives(loss, check):
    check(loss)


@pytest.mark.slow
@pytest.mark.parametrize("data", LAYOUTS, ids=lambda data: f"{data[1].shape}-{len(set(data[0].tolist()))}")
@parametrize_with_checks({**PUBLIC, **COMPOSED, **GRID}, expected_failures=expected_failures, only=OF_THE_LAYOUT)
def test_views_and_labels(loss, check, data):
    if getattr(loss, "cross_view_only", False) and data[1].ndim == 2:
        pytest.skip("cross_view_only needs views")
    check(loss, batch=data)
