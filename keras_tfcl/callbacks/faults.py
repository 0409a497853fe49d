"""What is wrong with an embedding, in plain words, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from keras_tfcl.callbacks.health import Health


@dataclass(frozen=True)
class Fault:
    """A finding: its short name, what is the matter with the figures, and what to do about it."""

    name: str
    finding: str
    action: str

    def __str__(self) -> str:
        return f"{self.finding} {self.action}"


def find_faults(health: Health, supervised: bool = False) -> list[Fault]:
    """Names what is wrong with an embedding; an empty list if nothing is.

    | name | when |
    |---|---|
    | `"diverged"` | NaN or Inf |
    | `"collapse to a point"` | mean cosine of different instances above 0.95 |
    | `"dimensional collapse"` | effective rank below 1.5, or below 5 % of min(D, rows - 1) |
    | `"temperature too small"` | over half of the rows saturated, and the nearest negative has over half the gradient |
    | `"duplicates"` | over 1 % of the instances are there more than once |
    | `"augmentations too weak"` | mean cosine of positives above 0.99 |

    The first three exclude the others, since their figures mean nothing then. The thresholds are this library's, set
    wide, to be silent on whatever still learns.

    Args:
        health: of `embedding_health`.
        supervised: the loss draws the instances of a class together, so that near-copies are its aim: the last two
            faults are not looked for. Defaults to False.

    Returns:
        A list of `Fault`, the gravest first.

    Example:

    >>> views = np.ones((64, 2, 8)) + np.random.default_rng(0).normal(size=(64, 2, 8)) / 100
    >>> [fault.name for fault in find_faults(keras_tfcl.callbacks.embedding_health(views))]
    ['collapse to a point']
    """
    if not health.finite:
        return [_DIVERGED]
    if health.negative_cosine > 0.95:
        return [_point(health)]
    largest = min(health.dimension, health.rows - 1)
    if health.effective_rank < max(1.5, 0.05 * largest) and largest >= 3:
        return [_flat(health, largest)]
    found = []
    if health.saturated > 0.5 and health.hardest_share > 0.5:
        found.append(_too_sharp(health))
    if health.twins > 0.01 and not supervised:
        found.append(_duplicates(health))
    if health.positive_cosine > 0.99 and not supervised:
        found.append(_too_weak(health))
    return found


_DIVERGED = Fault(
    "diverged",
    "The embeddings hold NaN or Inf: the training has diverged.",
    "Lower the learning rate, set the optimizer's `clipnorm=1.0`, and look for broken values in the data.",
)


def _point(health: Health) -> Fault:
    return Fault(
        "collapse to a point",
        f"All embeddings point the same way (mean cosine of different instances {health.negative_cosine:.3f}): the "
        "encoder has collapsed to a point.",
        "If the loss falls all the same, BatchNormalization's moving averages lag behind: give it momentum=0.9, or "
        "train for more steps. Else use a loss with negatives and a batch of at least 64, lower the learning rate, and "
        "put BatchNormalization into the encoder or its projector; where labels are labels, not all may be equal.",
    )


def _flat(health: Health, largest: int) -> Fault:
    return Fault(
        "dimensional collapse",
        f"The embeddings use {health.effective_rank:.1f} of {largest} possible dimensions: they have collapsed to few "
        "directions.",
        "Use a smaller temperature (or ArctanhInfoNCE with a larger scale), a projector in front of the loss, larger "
        "batches, and augmentations that do not remove what tells instances apart.",
    )


def _too_sharp(health: Health) -> Fault:
    return Fault(
        "temperature too small",
        f"In {health.saturated:.0%} of the rows the softmax rests on a single candidate, and the nearest negative "
        f"gets {health.hardest_share:.0%} of the negatives' gradient: all others teach nothing.",
        "Use a larger temperature, between 0.1 and 0.5, or ArctanhInfoNCE with a smaller scale.",
    )


def _duplicates(health: Health) -> Fault:
    return Fault(
        "duplicates",
        f"{health.twins:.1%} of the instances have a copy in the same set: copies are pushed apart as negatives.",
        "Remove copies from the data, give copies one label, or use "
        "ContrastiveLoss(..., negatives=WithoutNearDuplicates()).",
    )


def _too_weak(health: Health) -> Fault:
    return Fault(
        "augmentations too weak",
        f"Two views of an instance are all but equal to the encoder (mean cosine {health.positive_cosine:.3f}): the "
        "task teaches nothing any more.",
        "Use stronger augmentations, such as image_augmenter(kind, shape, strength=1.5), and check that the two views "
        "differ.",
    )
