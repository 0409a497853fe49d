"""Diagnoses of embeddings, and their remedies."""

from __future__ import annotations

from dataclasses import dataclass

from keras_tfcl.evaluation.health import Health


@dataclass(frozen=True)
class Diagnosis:
    """A problem: its short name, the finding with its numbers, and the action to take."""

    name: str
    finding: str
    action: str

    def __str__(self) -> str:
        return f"{self.finding} {self.action}"


def diagnose(
    health: Health, supervised: bool = False, range_problem: str | None = None, in_training: Health | None = None
) -> list[Diagnosis]:
    """Diagnoses embeddings by their statistics.

    | name | when |
    |---|---|
    | `"pixel range"` | `range_problem` is given |
    | `"diverged"` | NaN or Inf |
    | `"batch normalisation"` | in training mode healthy, in inference mode not, or half the effective rank |
    | `"collapse to a point"` | mean cosine of different samples above 0.95 |
    | `"dimensional collapse"` | effective rank below 1.5, or below 5 % of min(D, samples - 1) |
    | `"temperature too small"` | over half of the anchors saturated, and over half of the gradient on one negative |
    | `"duplicates"` | over 1 % of the samples have a near-duplicate |
    | `"augmentations too weak"` | mean cosine of positives above 0.99 |

    The first five exclude all others, because the other statistics are meaningless then. The thresholds are this
    library's own. They are wide, so that a model that still learns has no diagnosis.

    Args:
        health: of `embedding_health`.
        supervised: whether the loss attracts the samples of a class. Near-duplicates are then intended, and the last
            two rows are left out. Defaults to False.
        range_problem: a message that the samples are outside the range of values that the augmenter expects, with a
            remedy, as `keras_tfcl.ImageAugmenter.check_range` does. Defaults to None.
        in_training: of the same views in training mode (`embed_views(..., training=True)`), for a model with batch
            normalisation. Defaults to None: not compared.

    Returns:
        A list of `Diagnosis`, the most serious first; empty for healthy embeddings.

    Example:

    >>> views = np.ones((64, 2, 8)) + np.random.default_rng(0).normal(size=(64, 2, 8)) / 100
    >>> [diagnosis.name for diagnosis in diagnose(keras_tfcl.evaluation.embedding_health(views))]
    ['collapse to a point']
    """
    if range_problem:
        return [Diagnosis("pixel range", range_problem, "Fix this before anything else.")]
    if not health.finite:
        return [_diagnosis("diverged", health)]
    collapse = _collapse(health)
    if in_training is not None and in_training.finite and _collapse(in_training) is None:
        if collapse is not None or health.effective_rank < 0.5 * in_training.effective_rank:
            return [_diagnosis("batch normalisation", health, in_training)]
    if collapse is not None:
        return [_diagnosis(collapse, health)]
    found = []
    if health.saturated > 0.5 and health.hardest_share > 0.5:
        found.append("temperature too small")
    if health.near_duplicates > 0.01 and not supervised:
        found.append("duplicates")
    if health.positive_cosine > 0.99 and not supervised:
        found.append("augmentations too weak")
    return [_diagnosis(name, health) for name in found]


def _collapse(health: Health) -> str | None:
    """The name of the collapse, if there is one."""
    if health.negative_cosine > 0.95:
        return "collapse to a point"
    largest = _largest_rank(health)
    if health.effective_rank < max(1.5, 0.05 * largest) and largest >= 3:
        return "dimensional collapse"
    return None


def _largest_rank(health: Health) -> int:
    return min(health.dimension, health.samples - 1)


def _diagnosis(name: str, health: Health, in_training: Health | None = None) -> Diagnosis:
    finding, action = _TEXTS[name]
    return Diagnosis(
        name, finding.format(health=health, in_training=in_training, largest=_largest_rank(health)), action
    )


# The finding and the action of each diagnosis.
_TEXTS = {
    "diverged": (
        "The embeddings hold NaN or Inf: the training has diverged.",
        "Lower the learning rate, set the optimizer's `clipnorm=1.0`, and look for broken values in the data.",
    ),
    "batch normalisation": (
        "The embeddings are healthy in training mode (effective rank {in_training.effective_rank:.1f}, mean cosine of "
        "different samples {in_training.negative_cosine:.3f}) but not in inference mode, as `predict` computes them "
        "({health.effective_rank:.1f} and {health.negative_cosine:.3f}): the moving averages of BatchNormalization lag "
        "behind the weights.",
        "Call keras_tfcl.layers.recalibrate_batch_norm(model.encoder, x) before you use the encoder. For the next run "
        "call keras_tfcl.layers.set_batch_norm_momentum(model, 0.9) before `compile`, or train for more steps.",
    ),
    "collapse to a point": (
        "All embeddings point in the same direction (mean cosine of different samples {health.negative_cosine:.3f}): "
        "the encoder has collapsed to a point.",
        "If the loss falls nevertheless, the moving averages of BatchNormalization lag behind: give it momentum=0.9, "
        "or train for more steps. Otherwise use a loss with negatives and a batch of at least 64, lower the learning "
        "rate, and put BatchNormalization into the encoder or its projector. Labels, if given, must not all be equal.",
    ),
    "dimensional collapse": (
        "The embeddings use {health.effective_rank:.1f} of {largest} possible dimensions: they have collapsed to few "
        "directions.",
        "Use a smaller temperature (or ArctanhInfoNCE with a larger scale), a projector before the loss, larger "
        "batches, and augmentations that keep what distinguishes the samples.",
    ),
    "temperature too small": (
        "The softmax of {health.saturated:.0%} of the anchors rests on a single candidate, and the nearest negative "
        "gets {health.hardest_share:.0%} of the negatives' gradient: all other negatives teach nothing.",
        "Use a larger temperature, between 0.1 and 0.5, or ArctanhInfoNCE with a smaller scale.",
    ),
    "duplicates": (
        "{health.near_duplicates:.1%} of the samples have a copy in the same set, and the loss pushes copies apart as "
        "negatives.",
        "Remove copies from the data, give copies one label, or use "
        "ContrastiveLoss(..., negatives=WithoutNearDuplicates()).",
    ),
    "augmentations too weak": (
        "The encoder hardly distinguishes two views of a sample (mean cosine {health.positive_cosine:.3f}): the task "
        "no longer teaches it anything.",
        "Use stronger augmentations, such as image_augmenter(kind, shape, strength=1.5), and check that the two views "
        "differ.",
    ),
}
