"""Inputs on which the model and the file are compared, and the embeddings that the model computes for them.

Usual inputs are random inputs of usual sizes, which a server can generate again. Edge inputs are inputs on which
conversions often fail: zeros, constants and padding, negative and large integers, images and sequences of odd, small
and large sizes. Samples come from the user.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from keras_tfcl.export.errors import ModelInputError, ModelOutputError, UnsupportedLayerError, text_of
from keras_tfcl.export.keras_to_onnx.kernel_logs import kernel_logs_held_back
from keras_tfcl.export.keras_to_onnx.source import Source, computing_in_float64
from keras_tfcl.export.runtime.golden_inputs import Generator
from keras_tfcl.export.runtime.inputs import cast_input, split_inputs
from keras_tfcl.export.runtime.parity import Parity, compare, unit_rows
from keras_tfcl.export.runtime.requirements import require
from keras_tfcl.export.runtime.typing import Inputs

if TYPE_CHECKING:
    import keras

    from keras_tfcl.typing import Structure, Tensor

_BATCHES = (1, 7)  # one sample, and an odd number that suits no hardware
_IMAGE_SIZES = (64, 96)  # for free dimensions, one size per batch
_LENGTHS = (16, 23)
_EDGE_IMAGE_SIZES = ((37, 53), (14, 9), (1, 1), (150, 97), (203, 330))
_EDGE_LENGTHS = (1, 2, 7, 67)
_LARGE_INTEGERS = (1_000, 1_000_000)
_MOST_NUMBERS = 2_000_000  # in one edge input
_SAMPLE_BATCH = 64
_MOST_STATE = 1 << 16  # numbers in a weight that a layer may count in
_ROUNDING = 1e-5  # relative, to see whether an embedding is rounding noise


@dataclass(frozen=True)
class Golden:
    """One batch of inputs and the model's embeddings of it, computed eagerly with `training=False`.

    Attributes:
        inputs: one array for each input of the file.
        reference: the embeddings, `(N, D)`.
        about: name of the inputs in an error.
        generators: generate usual inputs again; empty for edge inputs and samples.
        edge: whether these are edge inputs, whose embeddings may be rounding noise.
    """

    inputs: tuple[np.ndarray, ...]
    reference: np.ndarray
    about: str
    generators: tuple[Generator, ...] = ()
    edge: bool = False


def make_golden_inputs(source: Source, *, normalize: bool, samples: Inputs | None = None) -> list[Golden]:
    """Return usual inputs at batch 1 and 7, edge inputs, and one batch per 64 `samples`.

    The values of usual inputs are a guess. If the model does not accept them, `samples` replace them, and there are no
    edge inputs. Edge inputs that the model does not accept are left out.

    Raises:
        ModelInputError: the model accepts none of them.
        ModelOutputError: the model does not give one `(batch, D)` embedding.
        InputError: `samples` do not fit the inputs.
    """
    given = _cast_samples(source, samples)
    with _weights_kept(source):
        golden = _golden_inputs(source, normalize, given)
    _check_one_length(golden)
    return golden


def _golden_inputs(source: Source, normalize: bool, given: list[np.ndarray]) -> list[Golden]:
    domains = _domains(source, given)
    try:
        golden = [
            _embed(source, [generator.rows() for generator in generators], normalize, "random inputs", generators)
            for generators in _usual(source, given, domains)
        ]
        golden += _edges(source, golden[1].inputs, domains, normalize)
    except _UnusableInputs as error:
        if not given:
            raise ModelInputError(
                f"The model must run on rows to compare with. Received: {error.reason}, on synthetic rows "
                f"for {', '.join(map(str, source.inputs))}. Give `samples`, a few rows of real input."
            ) from error
        golden = [_embed_samples(source, [np.resize(x, (n, *x.shape[1:])) for x in given], normalize) for n in _BATCHES]
    return golden + [_embed_samples(source, batch, normalize) for batch in _in_batches(given)]


@contextlib.contextmanager
def _weights_kept(source: Source) -> Iterator[None]:
    """Restore weights that a call of the model has changed, and raise."""
    small = [weight for weight in source.weights if math.prod(weight.shape) <= _MOST_STATE]
    before = [np.array(weight) for weight in small]
    yield
    changed = [
        (weight, value)
        for weight, value in zip(small, before, strict=True)
        if not np.array_equal(value, np.array(weight), equal_nan="float" in value.dtype.name)
    ]
    for weight, value in changed:
        weight.assign(value)
    if changed:
        names = ", ".join(f"`{weight.path}`" for weight, _ in changed)
        raise UnsupportedLayerError(
            f"A file keeps no state from one batch to the next. Received: a model that changes {names} when it is "
            f"called with training=False. Change weights in training only: `if training:` around the assignment."
        )


def difference_of(source: Source, golden: Sequence[Golden], normalize: bool) -> Parity | None:
    """Compare the references with the embeddings that the model computes now; None if these are not finite."""
    usual = [batch for batch in golden if not batch.edge]
    try:
        now = [_embed(source, batch.inputs, normalize, batch.about).reference for batch in usual]
    except _UnusableInputs:
        return None
    return compare(np.concatenate(now), np.concatenate([batch.reference for batch in usual]))


def rounding_noise(source: Source, golden: Golden, normalize: bool) -> np.ndarray:
    """Return the change of each embedding, `(N,)`, when layers compute in float64, or round their outputs to 1e-5.

    After a group normalization, for example, a constant image is 0 divided by 0 except for rounding, so no file can
    compute the same embedding of it. TensorFlow adds the pixels of a channel one after another: its mean of 224 x 224
    equal pixels is off by 3e-4 of its value.
    """
    moved = np.zeros(len(golden.reference))
    roundings = [_rounding(source.layers, np.random.default_rng(seed)) for seed in range(3)]
    for otherwise in (computing_in_float64(source.layers), *roundings):
        with otherwise, contextlib.suppress(_UnusableInputs):
            now = _embed(source, golden.inputs, normalize, golden.about).reference
            moved = np.maximum(moved, np.abs(now - golden.reference).max(axis=1))
    return moved


@contextlib.contextmanager
def _rounding(layers: Sequence[keras.Layer], noise: np.random.Generator) -> Iterator[None]:
    """Multiply the channels of each layer's output by numbers close to 1 inside the block."""
    keras, tf = require("keras", "tf"), require("tensorflow", "tf")

    def round_channels(value: Tensor) -> Tensor:
        if not tf.is_tensor(value) or not value.dtype.is_floating or not value.shape.rank:
            return value
        return value * tf.constant(1 + _ROUNDING * noise.standard_normal(value.shape[-1]), value.dtype)

    def rounded(call: Callable[..., Structure]) -> Callable[..., Structure]:
        return lambda *args, **kwargs: keras.tree.map_structure(round_channels, call(*args, **kwargs))

    for layer in layers:
        vars(layer)["call"] = rounded(layer.call)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["call"]


class _UnusableInputs(Exception):
    """The model raised, or gave NaN or infinity."""

    @property
    def reason(self) -> str:
        return text_of(self.__cause__) if self.__cause__ else str(self)


def _cast_samples(source: Source, samples: Inputs | None) -> list[np.ndarray]:
    if samples is None:
        return []
    arrays = split_inputs(_by_public_name(source, samples), source.inputs)
    if len(arrays[0]) == 0:
        raise ModelInputError("`samples` must hold at least one row. Received: none. Leave it out or give rows.")
    return [cast_input(array, spec) for array, spec in zip(arrays, source.inputs, strict=True)]


def _by_public_name(source: Source, samples: Inputs) -> Inputs:
    """Rename the keys of the model's dict, which may differ from the input names of the file."""
    structure = source.structure
    if not isinstance(samples, Mapping) or not isinstance(structure, Mapping) or set(samples) != set(structure):
        return samples
    keys = require("keras", "tf").tree.flatten({key: key for key in samples})  # Keras flattens a dict in its own order
    return {spec.name: samples[key] for spec, key in zip(source.inputs, keys, strict=True)}


def _in_batches(arrays: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    for start in range(0, len(arrays[0]) if arrays else 0, _SAMPLE_BATCH):
        yield [array[start : start + _SAMPLE_BATCH] for array in arrays]


def _embed_samples(source: Source, inputs: list[np.ndarray], normalize: bool) -> Golden:
    try:
        return _embed(source, inputs, normalize, "samples")
    except _UnusableInputs as error:
        raise ModelOutputError(
            f"The model must give finite embeddings of `samples`. Received: {error.reason}. "
            f"Check that model.predict(samples) works."
        ) from error


def _embed(
    source: Source,
    inputs: Sequence[np.ndarray],
    normalize: bool,
    about: str,
    generators: tuple[Generator, ...] = (),
    edge: bool = False,
) -> Golden:
    tf = require("tensorflow", "tf")
    try:
        with tf.device("/cpu:0"), kernel_logs_held_back():  # a GPU may round to TF32, coarser than the tolerance
            output = source(*map(tf.convert_to_tensor, inputs))
    except Exception as error:  # the user's layers may raise any exception
        raise _UnusableInputs from error
    reference = _embedding_of(output, source, rows=len(inputs[0]))
    if not np.isfinite(reference).all():
        raise _UnusableInputs("NaN or infinite embeddings")
    return Golden(tuple(inputs), unit_rows(reference) if normalize else reference, about, generators, edge)


def _embedding_of(output: Tensor, source: Source, rows: int) -> np.ndarray:
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) != 2 or shape[0] != rows or shape[1] == 0 or not output.dtype.is_floating:
        received = f"{output.dtype.name} {shape}" if shape else _describe_structure(output)
        raise ModelOutputError(
            f"The model must give one float embedding (batch, D). Received: {received} for {rows} rows. "
            f"{_remedy(output, source, rows)}"
        )
    return output.numpy().astype(np.float64 if output.dtype.name == "float64" else np.float32)


def _describe_structure(output: Structure) -> str:
    if isinstance(output, Mapping):
        return f"a dict with the keys {list(output)}"
    return f"a {type(output).__name__} of {len(output)}" if isinstance(output, (list, tuple)) else type(output).__name__


def _remedy(output: Tensor, source: Source, rows: int) -> str:
    """Return code that turns an output into one embedding."""
    if not getattr(source.encoder, "inputs", None):
        start, whole, inputs = "x = keras.Input(shape, dtype=...); ", "model(x)", "x"
    elif type(source.encoder).__name__ == "Sequential":  # has no `input` as long as no other model contains it
        start, whole, inputs = "", "model.outputs[0]", "model.inputs"
    else:
        start, whole, inputs = "", "model.output", "model.input"
    if isinstance(output, Mapping):
        return f"Choose one: {start}keras.Model({inputs}, {whole}[{next(iter(output))!r}])."
    if isinstance(output, (list, tuple)):
        return f"Choose one: {start}keras.Model({inputs}, {whole}[0])."
    shape = tuple(getattr(output, "shape", ()))
    if not shape or shape[0] != rows:
        return "Give one row of numbers for each row of the input: keep the first axis in `call`."
    pool = {3: "GlobalAveragePooling1D", 4: "GlobalAveragePooling2D", 5: "GlobalAveragePooling3D"}
    floats = whole if output.dtype.is_floating else f'keras.ops.cast({whole}, "float32")'
    if len(shape) == 2:
        return f"Give floats: {start}keras.Model({inputs}, {floats})."
    layer = f"keras.layers.{pool.get(len(shape), 'Reshape')}"
    layer += "()" if len(shape) in pool else "((-1,))"
    return f"Pool or flatten it: {start}keras.Model({inputs}, {layer}({floats}))."


def _check_one_length(golden: Sequence[Golden]) -> None:
    """Raise if the length of an embedding depends on the size of the input."""
    lengths = {batch.reference.shape[1]: batch for batch in golden}
    if len(lengths) > 1:
        found = "; ".join(f"{d} numbers for {[x.shape for x in batch.inputs]}" for d, batch in lengths.items())
        raise ModelOutputError(
            f"The model must give embeddings of one length. Received: {found}. Pool over the free dimensions, or "
            f"declare their sizes: keras.Input(shape)."
        )


@dataclass(frozen=True)
class _Domain:
    """The assumed values of an input: from `low` to below `high`, or any integers if `counts`."""

    low: float
    high: float
    counts: bool = False


def _domains(source: Source, given: list[np.ndarray]) -> list[_Domain]:
    """Guess the values of each input."""
    pixels = any(type(layer).__name__ == "Rescaling" for layer in source.layers)
    vocabulary, counts = _vocabulary(source, given)
    domains = []
    for spec in source.inputs:
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            domains.append(_Domain(*((0, 255) if pixels else (-2, 2))))
        elif dtype.kind == "b":
            domains.append(_Domain(0, 2))
        elif len(spec.shape) == 4:
            domains.append(_Domain(0, min(256, np.iinfo(dtype).max + 1)))
        else:
            domains.append(_Domain(0, min(vocabulary, np.iinfo(dtype).max + 1), counts))
    return domains


def _vocabulary(source: Source, given: list[np.ndarray]) -> tuple[int, bool]:
    """Return the number of ids that the model knows, and whether it accepts all other integers too.

    An `Embedding` raises an error for an unknown id, so the largest `input_dim` that the model accepts is the number.
    An `Embedding` of positions, or one after a remainder, does not limit the ids.
    """
    limits = sorted({layer.input_dim for layer in source.layers if type(layer).__name__ == "Embedding"}, reverse=True)
    shapes = _usual_shapes(source, given, batch=0)
    for limit in (None, *limits[:-1]) if limits else ():
        values = max(2 * limits[0], _LARGE_INTEGERS[-1]) if limit is None else limit - 1
        rows = [
            _clipped(np.full(shape, values), np.dtype(spec.dtype))
            for shape, spec in zip(shapes, source.inputs, strict=True)
        ]
        try:
            _embed(source, rows, False, "ids")
        except _UnusableInputs:
            continue
        return limit or limits[0], limit is None
    return (limits[-1], False) if limits else (2, True)


def _usual_shapes(source: Source, given: list[np.ndarray], batch: int) -> list[tuple[int, ...]]:
    """The shape of each input at a batch size, with free dimensions as in the samples or of a usual size."""
    shapes = []
    for position, spec in enumerate(source.inputs):
        usual = [_IMAGE_SIZES[batch] if len(spec.shape) == 4 else _LENGTHS[batch]] * (len(spec.shape) - 1)
        sizes = given[position].shape[1:] if given else usual
        row = (size if dim is None else dim for dim, size in zip(spec.shape[1:], sizes, strict=True))
        shapes.append((_BATCHES[batch], *row))
    return shapes


def _usual(source: Source, given: list[np.ndarray], domains: Sequence[_Domain]) -> Iterator[tuple[Generator, ...]]:
    """Yield generators of random inputs at each batch size."""
    for batch in range(len(_BATCHES)):
        parts = zip(source.inputs, _usual_shapes(source, given, batch), domains, strict=True)
        yield tuple(
            Generator(spec.dtype, shape, domain.low, domain.high, seed=len(source.inputs) * batch + position)
            for position, (spec, shape, domain) in enumerate(parts)
        )


def _edges(
    source: Source, usual: Sequence[np.ndarray], domains: Sequence[_Domain], normalize: bool
) -> Iterator[Golden]:
    """Yield the edge inputs that the model accepts, as whole batches or single samples."""
    for about, arrays in itertools.chain(_edge_values(usual, domains), _edge_sizes(source, usual, domains)):
        try:
            yield _embed(source, arrays, normalize, about, edge=True)
        except _UnusableInputs:
            for row in range(len(arrays[0]) if len(arrays[0]) > 1 else 0):
                try:
                    yield _embed(source, [array[row : row + 1] for array in arrays], normalize, about, edge=True)
                except _UnusableInputs:
                    continue


def _edge_values(usual: Sequence[np.ndarray], domains: Sequence[_Domain]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield constant and padded samples of the usual size, and large integers if the model accepts all integers."""
    about = "rows of zeros, constants and padding"
    rows = [_edge_rows(x[0], domain) for x, domain in zip(usual, domains, strict=True)]
    yield about, rows
    if len(rows) > 1:  # so that empty samples of one input meet other samples of the next
        yield about, [np.roll(values, 3 * position, axis=0) for position, values in enumerate(rows)]
    for size in _LARGE_INTEGERS if any(domain.counts for domain in domains) else ():
        noise = np.random.default_rng(size)
        yield (
            f"integers from {-size} to {size}",
            [
                _clipped(noise.integers(-size, size, x.shape), x.dtype) if domain.counts else x
                for x, domain in zip(usual, domains, strict=True)
            ],
        )


def _edge_rows(row: np.ndarray, domain: _Domain) -> np.ndarray:
    """Return samples of one value, and copies of `row` whose second half is padding."""
    low, padding = domain.low, -1 if domain.counts else 0
    last = domain.high if row.dtype.kind == "f" else domain.high - 1
    constants = [np.full_like(row, _clipped(value, row.dtype)) for value in (0, min(1, last), low, last, padding)]
    padded = []
    for value in (0, padding) if row.ndim else ():
        padded.append(row.copy())
        padded[-1][(len(row) + 1) // 2 :] = _clipped(value, row.dtype)
    return np.stack([*constants, *padded])


def _clipped(values: ArrayLike, dtype: np.dtype) -> np.ndarray:
    """Clip to the range of `dtype` and convert."""
    limits = np.iinfo(dtype) if dtype.kind in "iu" else None
    return np.asarray(values if limits is None else np.clip(values, limits.min, limits.max)).astype(dtype)


def _edge_sizes(
    source: Source, usual: Sequence[np.ndarray], domains: Sequence[_Domain]
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield one sample of each of several sizes, if a dimension besides the batch is free."""
    free = [[axis for axis, dim in enumerate(spec.shape) if dim is None and axis > 0] for spec in source.inputs]
    if not any(free):
        return
    images = [*_EDGE_IMAGE_SIZES, *_sizes_around_targets(source)]
    has_image = any(axes and len(spec.shape) == 4 for axes, spec in zip(free, source.inputs, strict=True))
    for number in range(len(images) if has_image else len(_EDGE_LENGTHS)):
        arrays = []
        for x, axes, domain in zip(usual, free, domains, strict=True):
            length = _EDGE_LENGTHS[number % len(_EDGE_LENGTHS)]
            shape = [1, *x.shape[1:]]
            for axis, size in zip(axes, images[number] if x.ndim == 4 else itertools.repeat(length), strict=False):
                shape[axis] = size
            arrays.append(Generator(x.dtype.name, tuple(shape), domain.low, domain.high, seed=number))
        if all(math.prod(generator.shape) <= _MOST_NUMBERS for generator in arrays):
            about = " and ".join(str(generator.shape) for generator in arrays)
            yield f"an input of shape {about}", [generator.rows() for generator in arrays]


def _sizes_around_targets(source: Source) -> Iterator[tuple[int, int]]:
    """Yield image sizes around the target of each layer that crops or resizes: smaller on one or both sides, larger."""
    layers = [layer for layer in source.layers if type(layer).__name__ in ("CenterCrop", "Resizing", "RandomCrop")]
    for height, width in dict.fromkeys((layer.height, layer.width) for layer in layers):
        yield max(1, height - 1), width + 7
        yield height + 3, max(1, width // 2)
        yield max(1, height // 2), max(1, width - 5)
        yield 2 * height + 1, 3 * width + 2
        yield 10 * height // 3, 14 * width // 3  # a pixel lies between two others, so that rounding decides
