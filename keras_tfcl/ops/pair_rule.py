"""Who is positive, who is negative, and who is absent: what a loss is told, as comparisons."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_tfcl.ops.candidates import Candidates
from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.typing import Config, Tensor

ROLES = ("anchor", "positive", "negative")
NOBODY = tf.int64.min  # a label of no anchor
UNLABELLED = tf.int64.min + 3  # plus the number of an unlabelled sample, -2 or more: its label


@keras.saving.register_keras_serializable(package="keras_tfcl")
class PairRule:
    """Turns labels, embeddings and candidates into comparisons. The arguments are those of `ContrastiveLoss`."""

    def __init__(
        self,
        cross_view_only: bool = False,
        roles: tuple[str, ...] | None = None,
        symmetric: bool = False,
        ignore_class: int | None = None,
        unlabelled_class: int | None = None,
        same_label: str = "positive",
    ) -> None:
        self.roles = None if roles is None else _checked_roles(roles, cross_view_only)
        if symmetric and roles is None:
            raise ValueError(
                "`symmetric=True` adds the direction from positives to anchors, and needs to know them. Received: "
                "roles=None. Pass roles=('anchor', 'positive'); without roles both directions count already."
            )
        if same_label not in ("positive", "ignore"):
            raise ValueError(f"`same_label` must be 'positive' or 'ignore'. Received: same_label={same_label!r}.")
        classes: dict[str, object] = {"ignore_class": ignore_class, "unlabelled_class": unlabelled_class}
        for name, value in classes.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
                raise ValueError(f"`{name}` must be an integer label or None. Received: {name}={value!r}. Use -1.")
        if ignore_class is not None and ignore_class == unlabelled_class:
            raise ValueError(
                "`ignore_class` and `unlabelled_class` must differ: a sample is left out or kept. Received: "
                f"{ignore_class} for both. Give padding a label of its own."
            )
        self.cross_view_only = cross_view_only
        self.symmetric = symmetric
        self.ignore_class = None if ignore_class is None else int(ignore_class)
        self.unlabelled_class = None if unlabelled_class is None else int(unlabelled_class)
        self.same_label = same_label

    def get_config(self) -> Config:
        """Returns the constructor's arguments."""
        names = ("cross_view_only", "roles", "symmetric", "ignore_class", "unlabelled_class", "same_label")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PairRule:
        """Builds the rule from `get_config()`'s dictionary."""
        return cls(**config)

    @property
    def needs_labels(self) -> list[str]:
        """The arguments that are about labels of classes, and not about row numbers."""
        given = {"ignore_class": self.ignore_class, "unlabelled_class": self.unlabelled_class}
        names = [name for name, value in given.items() if value is not None]
        return [*names, "same_label"] if self.same_label == "ignore" else names

    def check(self, labels: Tensor, y_pred: Tensor, candidates: Candidates | None) -> None:
        """Raises ValueError for data that the rule cannot be applied to."""
        several = labels.shape.rank == 2
        by_class = [name for name in self.needs_labels if name != "same_label"]
        if several and by_class:
            raise ValueError(
                f"`{by_class[0]}` is a label of its own, and multi-hot labels have none. Received: labels of shape "
                f"{tuple(labels.shape)}. A row of zeros is unlabelled; padding gets sample_weight=0 or is left out."
            )
        if self.cross_view_only and (y_pred.shape.rank == 2 or y_pred.shape[1] == 1):
            raise ValueError(
                "`cross_view_only=True` compares different views: `y_pred` must have shape (B, V, D) with V >= 2. "
                f"Received: shape={tuple(y_pred.shape)}. Stack the views on axis 1."
            )
        if self.roles is not None and (y_pred.shape.rank == 2 or y_pred.shape[1] != len(self.roles)):
            raise ValueError(
                f"`roles` must name the role of each view: `y_pred` must have shape (B, {len(self.roles)}, D). "
                f"Received: shape={tuple(y_pred.shape)} for roles={self.roles}. Stack the views on axis 1."
            )
        if candidates is None:
            return
        if (self.cross_view_only or self.roles is not None) and candidates.views is None:
            raise ValueError(
                f"`{'roles' if self.roles else 'cross_view_only=True'}` needs the view of each candidate. Received: "
                "candidates without views. Pass Candidates(..., views=...), or use a loss without it (instance banks "
                "have no views)."
            )
        if candidates.labels.shape.rank != labels.shape.rank:
            raise ValueError(
                "Anchors and candidates must have labels of one kind. Received: shapes "
                f"{tuple(labels.shape)} and {tuple(candidates.labels.shape)}. A queue cannot hold multi-hot labels."
            )
        needs_samples = self.unlabelled_class is not None or self.same_label == "ignore"
        if needs_samples and (candidates.samples is None or candidates.self_index is None):
            raise ValueError(
                f"`{self.needs_labels[-1]}` needs to know which candidates are views of an anchor's sample. Received: "
                "candidates without samples or self_index. Pass Candidates(..., self_index=..., samples=...)."
            )

    def comparisons(self, labels: Tensor, y_pred: Tensor, candidates: Candidates | None) -> list[Comparison]:
        """One comparison, or with `symmetric` one for each direction.

        Args:
            labels: int64 `(B,)`, or multi-hot `(B, L)`.
            y_pred: embeddings `(B, D)` or `(B, V, D)`.
            candidates: of all views. None: the batch itself.
        """
        y_pred = y_pred[:, None] if y_pred.shape.rank == 2 else y_pred
        views = y_pred.shape[1]
        if self.roles is None:
            samples = _anchor_samples(y_pred, candidates)
            if candidates is not None:
                candidates = self._related_candidates(candidates)
            index = tf.range(tf.shape(y_pred)[0] * views)
            view = index % views if self.cross_view_only else None
            return [self._comparison(labels, y_pred, samples, candidates, views, view)]
        directions: list[tuple[str, tuple[str, ...]]] = [("anchor", ("positive", "negative"))]
        if self.symmetric:
            directions.append(("positive", ("anchor",)))
        return [self._direction(labels, y_pred, candidates, *direction) for direction in directions]

    def _direction(
        self, labels: Tensor, y_pred: Tensor, candidates: Candidates | None, of: str, to: tuple[str, ...]
    ) -> Comparison:
        """The views of one role, compared with those of others."""
        mine, others = self._views(of), self._views(*to)
        samples = tf.gather(tf.reshape(_anchor_samples(y_pred, candidates), [-1, y_pred.shape[1]]), mine, axis=1)
        if candidates is None:
            chosen = tf.gather(y_pred, others, axis=1)
            count = tf.shape(y_pred)[0]
            candidates = Candidates(
                tf.reshape(chosen, [-1, y_pred.shape[2]]),
                tf.repeat(labels, len(others), axis=0),
                views=tf.tile(tf.constant(others, "int32"), [count]),
                samples=tf.repeat(tf.range(tf.cast(count, "int64")), len(others)),
            )
        else:
            among = tf.gather(tf.constant([role in to for role in self.roles or ()]), candidates.views)
            mask = among if candidates.mask is None else among & candidates.mask
            candidates = candidates._replace(self_index=None, mask=mask)
        if of == "positive":  # log Q belongs to positives and negatives, and anchors are candidates here
            candidates = candidates._replace(log_probability=None)
        negative = tf.gather(tf.constant([role == "negative" for role in self.roles or ()]), candidates.views)
        candidates = self._related_candidates(candidates, negative)
        return self._comparison(labels, tf.gather(y_pred, mine, axis=1), tf.reshape(samples, [-1]), candidates, 1, None)

    def _views(self, *roles: str) -> list[int]:
        return [view for view, role in enumerate(self.roles or ()) if role in roles]

    def _comparison(
        self,
        labels: Tensor,
        y_pred: Tensor,
        samples: Tensor | None,
        candidates: Candidates | None,
        views: int,
        view: Tensor | None,
    ) -> Comparison:
        anchors = ops.reshape(y_pred, (-1, y_pred.shape[-1]))
        labels, valid, samples, groups = self._related(ops.repeat(labels, y_pred.shape[1], axis=0), samples)
        return Comparison(anchors, labels, views, view, candidates, valid, samples, groups, y_pred.shape[1])

    def _related_candidates(self, candidates: Candidates, negative: Tensor | None = None) -> Candidates:
        labels, valid, samples, groups = self._related(candidates.labels, candidates.samples, negative)
        mask = candidates.mask if valid is None else valid if candidates.mask is None else valid & candidates.mask
        return candidates._replace(labels=labels, mask=mask, samples=samples, groups=groups)

    def _related(
        self, labels: Tensor, samples: Tensor | None, negative: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Labels, valid mask, samples and groups of one side, as `Side` understands them.

        Args:
            labels: as given.
            samples: the sample of each, None if it is not known.
            negative: bool, who is nobody's positive. None: no one is.
        """
        valid = groups = together = None
        several = labels.shape.rank == 2
        if labels.dtype == tf.uint64 and (self.roles or self.needs_labels):
            labels = tf.bitcast(labels, "int64")
        if self.ignore_class is not None:
            valid = labels != self.ignore_class
        if self.unlabelled_class is not None:
            labels = tf.where(labels == self.unlabelled_class, UNLABELLED + tf.cast(samples, "int64"), labels)
        if self.same_label == "ignore":
            groups, labels = labels, tf.cast(samples, "int64")
        elif several and samples is not None:
            together = tf.cast(samples, "int64")  # a row of zeros shares a label with no one, not even its own views
        if negative is not None:
            labels, groups, together = (_nobody_where(negative, x) for x in (labels, groups, together))
        return labels, valid, together, groups


def _anchor_samples(y_pred: Tensor, candidates: Candidates | None) -> Tensor:
    """The sample of each anchor `(B * V,)`, numbered as those of the candidates; None where it is not known."""
    count, views = tf.shape(y_pred)[0], y_pred.shape[1]
    if candidates is None:
        return tf.repeat(tf.range(tf.cast(count, "int64")), views)
    if candidates.samples is None or candidates.self_index is None:
        return tf.fill([count * views], tf.constant(-2, "int64"))
    own = tf.cast(candidates.self_index, "int32")
    found = tf.gather(tf.cast(candidates.samples, "int64"), tf.maximum(own, 0))
    return tf.where(own >= 0, found, -2)


def _nobody_where(negative: Tensor, labels: Tensor | None) -> Tensor | None:
    if labels is None:
        return None
    if labels.shape.rank == 2:
        return tf.where(negative[:, None], 0.0, labels)
    return tf.where(negative, tf.constant(NOBODY, "int64"), labels)


def _checked_roles(roles: tuple[str, ...], cross_view_only: bool) -> tuple[str, ...]:
    if cross_view_only:
        raise ValueError(
            "`roles` says which views are compared, and so does `cross_view_only`. Received: both. Leave out "
            "cross_view_only."
        )
    known = isinstance(roles, (tuple, list)) and all(role in ROLES for role in roles)
    if not known or "anchor" not in roles or "positive" not in roles:
        raise ValueError(
            "`roles` must hold 'anchor', 'positive' or 'negative' for each view, with an anchor and a positive. "
            f"Received: roles={roles!r}. Use for example roles=('anchor', 'positive', 'negative')."
        )
    return tuple(roles)
