"""Rows to compare the model and the file on, and what the model makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_tfcl.export.errors import ModelInputError, ModelOutputError, text_of
from keras_tfcl.export.keras_to_onnx.source import Source
from keras_tfcl.export.runtime.generators import Recipe
from keras_tfcl.export.runtime.inputs import InputSpec, cast_input, split_inputs
from keras_tfcl.export.runtime.parity import Parity, compare, unit_rows
from keras_tfcl.export.runtime.requirements import require

_BATCHES = (1, 7)  # one row, and an odd number that no hardware prefers
_IMAGE_SIZES = (64, 96)  # for free dimensions, one size per batch
_LENGTHS = (16, 23)
_SAMPLE_BATCH = 64


@dataclass(frozen=True)
class Probe:
    """One batch of inputs and the model's embeddings of it, computed eagerly with `training=False`.

    `recipes` say how to make synthetic inputs again; there are none for samples.
    """

    inputs: tuple[np.ndarray, ...]
    reference: np.ndarray
    recipes: tuple[Recipe, ...] = ()


def make_probes(source: Source, *, normalize: bool, samples: Any = None) -> list[Probe]:
    """Return probes at batch 1 and 7 of synthetic rows, and one probe per 64 `samples`.

    The values of synthetic rows are a guess. Where the model cannot take them, rows of `samples` stand in.

    Raises:
        ModelInputError: the model takes neither.
        ModelOutputError: the model does not give one `(batch, D)` embedding.
        InputError: `samples` do not fit the inputs.
    """
    given = _cast_samples(source, samples)
    try:
        probes = [
            _probe(source, [recipe.rows() for recipe in recipes], normalize, recipes)
            for recipes in _synthetic(source, given)
        ]
    except _UnusableProbe as error:
        if not given:
            raise ModelInputError(
                f"The model must run on rows to compare with. Received: {error.reason}, on synthetic rows "
                f"for {', '.join(map(str, source.inputs))}. Give `samples`, a few rows of real input."
            ) from error
        probes = [_sample_probe(source, [np.resize(x, (n, *x.shape[1:])) for x in given], normalize) for n in _BATCHES]
    return probes + [_sample_probe(source, batch, normalize) for batch in _in_batches(given)]


def difference_of(source: Source, probes: list[Probe], normalize: bool) -> Parity | None:
    """Compare the references with what the model gives now; None where that is NaN or infinite."""
    try:
        now = [_probe(source, probe.inputs, normalize).reference for probe in probes]
    except _UnusableProbe:
        return None
    return compare(np.concatenate(now), np.concatenate([probe.reference for probe in probes]))


class _UnusableProbe(Exception):
    """The model raised, or gave NaN or infinity."""

    @property
    def reason(self) -> str:
        return text_of(self.__cause__) if self.__cause__ else str(self)


def _cast_samples(source: Source, samples: Any) -> list[np.ndarray]:
    if samples is None:
        return []
    arrays = split_inputs(_by_public_name(source, samples), source.inputs)
    if len(arrays[0]) == 0:
        raise ModelInputError("`samples` must hold at least one row. Received: none. Leave it out or give rows.")
    return [cast_input(array, spec) for array, spec in zip(arrays, source.inputs, strict=True)]


def _by_public_name(source: Source, samples: Any) -> Any:
    """Rename a dict with the keys that the model takes, which are not always the names of the file's inputs."""
    structure = source.structure
    if not isinstance(samples, Mapping) or not isinstance(structure, Mapping) or set(samples) != set(structure):
        return samples
    keys = require("keras", "tf").tree.flatten({key: key for key in samples})  # Keras flattens a dict in its own order
    return {spec.name: samples[key] for spec, key in zip(source.inputs, keys, strict=True)}


def _in_batches(arrays: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    for start in range(0, len(arrays[0]) if arrays else 0, _SAMPLE_BATCH):
        yield [array[start : start + _SAMPLE_BATCH] for array in arrays]


def _sample_probe(source: Source, inputs: list[np.ndarray], normalize: bool) -> Probe:
    try:
        return _probe(source, inputs, normalize)
    except _UnusableProbe as error:
        raise ModelOutputError(
            f"The model must give finite embeddings of `samples`. Received: {error.reason}. "
            f"Check that model.predict(samples) works."
        ) from error


def _probe(source: Source, inputs: Sequence[np.ndarray], normalize: bool, recipes: tuple[Recipe, ...] = ()) -> Probe:
    tf = require("tensorflow", "tf")
    try:
        with tf.device("/cpu:0"):  # a GPU may round to TF32, which is coarser than the tolerance
            output = source(*map(tf.convert_to_tensor, inputs))
    except Exception as error:  # whatever the user's layers raise
        raise _UnusableProbe from error
    reference = _embedding_of(output, rows=len(inputs[0]))
    if not np.isfinite(reference).all():
        raise _UnusableProbe("NaN or infinite embeddings")
    return Probe(tuple(inputs), unit_rows(reference) if normalize else reference, recipes)


def _embedding_of(output: Any, rows: int) -> np.ndarray:
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) != 2 or shape[0] != rows or shape[1] == 0 or not output.dtype.is_floating:
        received = f"{output.dtype.name} {shape}" if shape else type(output).__name__
        raise ModelOutputError(
            f"The model must give one float embedding (batch, D). Received: {received} for {rows} rows. Pool, flatten "
            f"or choose: keras.Model(model.input, keras.layers.GlobalAveragePooling2D()(model.output))."
        )
    return output.numpy().astype(np.float64 if output.dtype.name == "float64" else np.float32)


def _synthetic(source: Source, given: list[np.ndarray]) -> Iterator[tuple[Recipe, ...]]:
    """Yield recipes for the inputs at each batch size, with free dimensions as in the samples or a usual size."""
    vocabulary = min((layer.input_dim for layer in source.layers if type(layer).__name__ == "Embedding"), default=2)
    pixels = any(type(layer).__name__ == "Rescaling" for layer in source.layers)
    for batch, rows in enumerate(_BATCHES):
        recipes = []
        for position, spec in enumerate(source.inputs):
            usual = [_IMAGE_SIZES[batch] if len(spec.shape) == 4 else _LENGTHS[batch]] * (len(spec.shape) - 1)
            free = given[position].shape[1:] if given else usual
            shape = (rows, *(size if dim is None else dim for dim, size in zip(spec.shape[1:], free, strict=True)))
            low, high = _value_range(spec, vocabulary, pixels)
            recipes.append(Recipe(spec.dtype, shape, low, high, seed=len(source.inputs) * batch + position))
        yield tuple(recipes)


def _value_range(spec: InputSpec, vocabulary: int, pixels: bool) -> tuple[float, float]:
    """Guess the values that an input takes."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return (0, 255) if pixels else (-2, 2)
    if dtype.kind == "b":
        return 0, 2
    return 0, min(256 if len(spec.shape) == 4 else vocabulary, np.iinfo(dtype).max + 1)
