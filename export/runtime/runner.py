"""Run batches of arrays through an onnxruntime session, and check the embeddings that come out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_tfcl.export.errors import InputError, ModelFileError, NonFiniteError
from keras_tfcl.export.runtime.batches import Batch, bucket_size, pad_rows
from keras_tfcl.export.runtime.inputs import all_finite, cast_input
from keras_tfcl.export.runtime.sentence_folder import Pooling, pooled
from keras_tfcl.export.runtime.session import Interface
from keras_tfcl.export.runtime.tokens import is_mask

if TYPE_CHECKING:
    import onnxruntime


class Runner:
    """Computes the embeddings of batches that fit the inputs of a session.

    Args:
        session: of onnxruntime.
        interface: its inputs and its output.
        path: of the file, for messages.
        pooling: of an output with a vector for each token.
        normalize: whether to divide each embedding by its length.
        buckets: whether to pad a run to the next power of two of samples.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        interface: Interface,
        path: Path,
        pooling: Pooling | None,
        normalize: bool,
        buckets: bool,
    ) -> None:
        self.session, self.inputs, self.dimension = session, interface.inputs, interface.dimension
        self.fixed = interface.inputs[0].shape[0]  # the number of samples in every run, or None
        self.output, self._path = interface.output, path
        self._pooling = pooling if interface.per_token else None
        self._normalize, self._buckets = normalize, buckets

    def each(self, batches: Iterable[Batch], most: int) -> Iterator[np.ndarray]:
        """Yield the embeddings of each batch, in runs of at most `most` samples."""
        first_row = 0
        for batch in batches:
            rows = len(batch[0])
            runs = [self(_part(batch, start, most), most, first_row + start) for start in range(0, rows, most)]
            first_row += rows
            yield runs[0] if len(runs) == 1 else np.concatenate([np.empty((0, self.dimension), np.float32), *runs])

    def __call__(self, batch: Batch, most: int, first_row: int = 0) -> np.ndarray:
        """Return the embeddings of a batch of at most `most` samples, float32 `(N, D)`.

        Args:
            batch: one array for each input.
            most: samples in a run, to which buckets are limited.
            first_row: number of its first row, for messages.

        Raises:
            InputError: onnxruntime rejects the batch, or a value is lost in the input's type.
            NonFiniteError: an embedding is not finite.
        """
        rows = len(batch[0])
        if self.fixed and rows > self.fixed:
            starts = range(0, rows, self.fixed)
            return np.concatenate([self(_part(batch, start, self.fixed), most, first_row + start) for start in starts])
        size = self.fixed or (bucket_size(rows, most) if self._buckets else rows)
        embeddings = self.padded(batch, size, first_row)
        if not all_finite(embeddings):
            row = first_row + int(np.argwhere(~np.isfinite(embeddings))[0][0])
            raise NonFiniteError(
                f"Expected finite embeddings. Received: NaN or infinity for row {row}. Check that its values are in "
                f"the range the model was trained on."
            )
        return embeddings

    def padded(self, batch: Batch, size: int, first_row: int = 0) -> np.ndarray:
        """Return the embeddings of a batch that is padded to `size` samples, finite or not."""
        rows = len(batch[0])
        feed = {}
        for spec, array in zip(self.inputs, batch, strict=True):  # faster than a comprehension
            feed[spec.name] = pad_rows(cast_input(array, spec, first_row), size)
        try:
            (output,) = self.session.run([self.output], feed)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise InputError(
                f"Expected rows that the model can embed. Received: rows {first_row} to {first_row + rows - 1}, which "
                f"onnxruntime rejects: {error}. Check sizes and index ranges."
            ) from error
        if output.dtype != np.float32:  # before the pooling: a mean in float16 would be off by percents
            with np.errstate(over="ignore"):  # beyond float32 it becomes infinite, which the caller checks
                output = output.astype(np.float32)
        embeddings = output
        if self._pooling is not None:
            mask = next((array for name, array in feed.items() if is_mask(name)), None)
            embeddings = pooled(output, mask, self._pooling)
        if embeddings.shape != (size, self.dimension):
            raise ModelFileError(
                f"Expected one embedding of length {self.dimension} per row. Received: shape {embeddings.shape} for "
                f"{size} rows from {self._path}. Export again."
            )
        if self._normalize:
            embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return embeddings if size == rows else embeddings[:rows]


def _part(batch: Batch, start: int, rows: int) -> Batch:
    return [array[start : start + rows] for array in batch]
