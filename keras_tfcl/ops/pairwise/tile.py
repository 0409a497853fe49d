"""One tile of the matrix of pairs: its cosines and logits, and who is positive, negative or absent in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_tfcl.ops.pairwise.logits import Logits
from keras_tfcl.ops.sides import Side, pairs_of
from keras_tfcl.typing import Tensor

# A function of cosines: which negatives may count. None: all.
Allows = Callable[[tf.Tensor], tf.Tensor] | None


class Blocks(NamedTuple):
    """Unit embeddings `(T, B, D)` and their side, `(T, B)` each."""

    units: tf.Tensor
    side: Side

    @property
    def count(self) -> Tensor:
        """T, a number where it is known."""
        return tf.shape(self.units)[0] if self.units.shape[0] is None else self.units.shape[0]

    def with_threshold(self, threshold: tf.Tensor | None) -> Blocks:
        return self._replace(side=self.side._replace(threshold=threshold))


class Tile:
    """The pairs of a block of rows and a block of columns.

    Args:
        cosines: `(R, C)`.
        rows, columns: the sides, `(R,)` and `(C,)`.
        scaling: from cosines to logits.
        allows: a function of cosines: which negatives may count. None: all.
    """

    def __init__(self, cosines: tf.Tensor, rows: Side, columns: Side, scaling: Logits, allows: Allows = None) -> None:
        self.rows, self.columns, self.scaling = rows, columns, scaling
        compared, same = pairs_of(rows, columns)
        # Absent pairs, such as an embedding with itself, are kept from the poles of a scaling.
        self.positive = compared & same
        self.cosines = scaling.with_margin(tf.where(compared, cosines, 0.0), self.positive)
        self.logits = scaling(self.cosines)
        for axis, side in ((1, rows), (0, columns)):
            if side.log_probability is not None:
                self.logits -= tf.expand_dims(tf.cast(side.log_probability, self.logits.dtype), axis)
        allowed = None if allows is None else scaling.run(allows, cosines)

        def masks(reached: tf.Tensor | None) -> dict[str, tf.Tensor]:
            chosen = reached if allowed is None else allowed if reached is None else allowed & reached
            if chosen is None:
                return {"positive": self.positive, "negative": compared & ~same, "all": compared}
            return {"positive": self.positive, "negative": compared & ~same & chosen, "all": compared & (same | chosen)}

        # By axis: along axis 1 rows are summed up, along axis 0 columns, each with thresholds of their own.
        of_rows = masks(None if rows.threshold is None else cosines >= rows.threshold[:, None])
        unequal = rows.threshold is not None or columns.threshold is not None
        of_columns = masks(None if columns.threshold is None else cosines >= columns.threshold) if unequal else of_rows
        self._masks = of_columns, of_rows

    def mask(self, over: str, axis: int) -> tf.Tensor:
        """The `"positive"`, `"negative"` or `"all"` (both) pairs, for sums along `axis`."""
        return self._masks[axis][over]
