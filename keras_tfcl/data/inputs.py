"""Converts x, y and sample_weight to arrays and tensors that can be cut into batches, or raises an error."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.typing import BatchSource, Structure, Tensor, TensorLike


def brings_batches(x: object) -> bool:
    """Whether x is a source of batches, not an array or a structure of arrays."""
    return isinstance(x, (tf.data.Dataset, keras.utils.PyDataset, Iterator))


def checked_source(x: BatchSource, y: object = None, sample_weight: object = None) -> BatchSource:
    """Returns a source of batches unchanged.

    Raises:
        ValueError: for a source that is known to be empty or holds sparse or ragged tensors, and for y or sample_weight
            next to it.
    """
    count = x.cardinality() if isinstance(x, tf.data.Dataset) else getattr(x, "num_batches", None)
    if count is not None and int(count) == 0:
        raise ValueError("`x` must hold at least one batch. Received: an empty data set. Check what filters it.")
    received = [name for name, value in (("y", y), ("sample_weight", sample_weight)) if value is not None]
    if received:
        raise ValueError(
            "A source of batches brings y and sample_weight itself, in elements (x, y) or (x, y, sample_weight). "
            f"Received: {' and '.join(received)} beside a {type(x).__name__}. Put them into its elements."
        )
    if isinstance(x, tf.data.Dataset):
        for spec in tf.nest.flatten(x.element_spec):
            _refuse_sparse_and_ragged(spec, "An element of `x`")
    return x


def as_samples(x: Structure, name: str = "x") -> Structure:
    """Returns x as arrays and tensors, with one sample in each row.

    Args:
        x: array, tensor or data frame; a dict of them; a tuple of such: ready-made views.
        name: what an error calls it.

    Returns:
        The same structure of NumPy arrays and tensors; strings of any kind as a `tf.string` tensor.

    Raises:
        ValueError: for lists, sparse and ragged tensors, arrays of Python objects, and anything else that is not an
            array.
    """
    if isinstance(x, tuple):
        return tuple(as_samples(part, name) for part in x)
    if isinstance(x, dict):
        return {key: as_samples(part, f"{name}[{key!r}]") for key, part in x.items()}
    if isinstance(x, list):
        raise ValueError(
            f"`{name}` must be an array of samples, or a tuple of arrays with one view each. Received: a list of "
            f"{len(x)}. Pass np.array(x) for samples, tuple(x) for views, or a dict of arrays by input name for an "
            "encoder of several inputs."
        )
    _refuse_sparse_and_ragged(x, f"`{name}`")
    return _as_array(x, name, "one sample a row")


def as_targets(values: Structure | None, name: str = "y") -> Structure | None:
    """Returns labels or weights as arrays or tensors, one for each sample; lists become arrays. None stays None.

    Raises:
        ValueError: for text and other Python objects, sparse and ragged tensors.
    """
    if values is None:
        return None
    if isinstance(values, dict):
        return {key: as_targets(part, f"{name}[{key!r}]") for key, part in values.items()}
    _refuse_sparse_and_ragged(values, f"`{name}`")
    if isinstance(values, (list, tuple)):
        try:
            values = np.array(values)
        except ValueError as error:
            raise ValueError(
                f"`{name}` must hold one number for each sample. Received: a {type(values).__name__} of {len(values)} "
                "entries of unequal sizes. Pass an array of numbers."
            ) from error
    values = _as_array(values, name, "one number for each sample")
    if keras.backend.standardize_dtype(values.dtype) == "string":
        raise ValueError(
            f"`{name}` must hold numbers. Received: text, dtype=string. Number the labels: "
            f"np.unique({name}, return_inverse=True)[1]."
        )
    return values


def as_weights(sample_weight: Structure | None) -> Structure | None:
    """Returns the weights of samples as `as_targets` does; raises ValueError for weights below 0 or not finite."""
    weights = as_targets(sample_weight, "sample_weight")
    if isinstance(weights, np.ndarray) and not np.all(np.isfinite(weights) & (weights >= 0)):
        wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        raise ValueError(
            "`sample_weight` must be finite and at least 0: a negative weight would train a sample away from its "
            f"positives. Received: {weights.reshape(-1)[wrong[0]]}, and {len(wrong)} such in all. Use 0 to leave out "
            "the loss of a sample."
        )
    return weights


def row_count(arrays: Structure) -> int:
    """The number of samples that all arrays share.

    Raises:
        ValueError: if there is none, or they disagree.
    """
    lengths = [len(array) for array in tf.nest.flatten(arrays)]
    if not lengths or lengths[0] == 0:
        raise ValueError(
            "`x` must hold at least one sample. Received: an empty data set. Check what selects its samples."
        )
    if len(set(lengths)) > 1:
        raise ValueError(f"x, y and sample_weight must have equally many samples. Received: {lengths}.")
    return lengths[0]


def _as_array(values: TensorLike, name: str, content: str) -> Tensor | np.ndarray:
    if hasattr(values, "to_numpy"):  # a pandas or polars data frame or column
        values = values.to_numpy()
    shape = getattr(values, "shape", None)
    if shape is None or len(shape) == 0:
        received = type(values).__name__ if shape is None else "a single number, shape=()"
        raise ValueError(f"`{name}` must be an array with {content}. Received: {received}. Pass np.array([...]).")
    if isinstance(values, np.ndarray) and values.dtype.kind in "OUS":
        return _strings(values, name)
    if isinstance(values, np.ndarray) and values.dtype.kind not in "biufV":  # V: bfloat16 and float8
        raise ValueError(
            f"`{name}` must hold real numbers or text. Received: dtype={values.dtype}. Pass the numbers in it, such as "
            f"{name}.real, or {name}.astype('int64') of dates."
        )
    return values


def _strings(values: np.ndarray, name: str) -> tf.Tensor:
    types = {type(value) for value in values.flat}
    if not all(issubclass(entry, (str, bytes)) for entry in types):
        if all(issubclass(entry, Integral) for entry in types):
            remedy = f"Pass {name}.astype('int64')."
        elif all(issubclass(entry, Real) for entry in types):
            remedy = f"Pass {name}.astype('float32')."
        else:
            remedy = (
                "Fill in what is missing, pass numbers and text as two arrays of a dict, and pad sequences of unequal "
                "lengths with keras.utils.pad_sequences."
            )
        raise ValueError(
            f"`{name}` must hold numbers of one dtype, or text. Received: dtype=object with entries of type "
            f"{', '.join(sorted(entry.__name__ for entry in types)[:3])}. {remedy}"
        )
    return tf.convert_to_tensor(values.astype(object))


def _refuse_sparse_and_ragged(values: object, owner: str) -> None:
    if isinstance(values, (tf.SparseTensor, tf.SparseTensorSpec)):
        kind, remedy = "a tf.SparseTensor", "Pass tf.sparse.to_dense(x)"
    elif isinstance(values, (tf.RaggedTensor, tf.RaggedTensorSpec)):
        kind, remedy = "a tf.RaggedTensor", "Pass x.to_tensor(), which pads with zeros, and mask_zero=True in Embedding"
    elif type(values).__module__.startswith("scipy.sparse"):
        kind, remedy = "a sparse matrix of SciPy", "Pass x.toarray()"
    else:
        return
    raise ValueError(
        f"{owner} must be dense. Received: {kind}. {remedy}; where that is too large at once, make each batch dense in "
        "a tf.data.Dataset or keras.utils.PyDataset."
    )
