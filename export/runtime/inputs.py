"""The declared inputs of an encoder, and the check that arrays fit them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_tfcl.export.errors import InputError
from keras_tfcl.export.runtime.typing import Inputs


@dataclass(frozen=True)
class InputSpec:
    """One input of an encoder: name, dtype and shape, where None is a free dimension.

    The first dimension is the batch, a number only if the file runs exactly that many samples at a time.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @cached_property
    def type(self) -> np.dtype[Any]:
        return np.dtype(self.dtype)

    @cached_property
    def row(self) -> tuple[int | None, ...]:
        """The shape of one sample."""
        return self.shape[1:]

    @property
    def shape_text(self) -> str:
        batch = "batch" if self.shape[0] is None else f"batch of {self.shape[0]}"
        return "(" + ", ".join([batch, *("any" if dim is None else str(dim) for dim in self.shape[1:])]) + ")"

    @property
    def is_image(self) -> bool:
        """Whether the shape has the rank of a batch of images."""
        return len(self.shape) == 4

    @property
    def is_tokens(self) -> bool:
        """Whether it looks like the numbers of tokens: integers `(batch, length)`."""
        return len(self.shape) == 2 and np.dtype(self.dtype).kind in "iu"

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} {self.shape_text}"

    def to_dict(self) -> dict[str, object]:
        return asdict(self) | {"shape": list(self.shape)}


def split_inputs(x: Inputs, specs: Sequence[InputSpec]) -> list[np.ndarray]:
    """Return one array per spec, all with the same number of rows. Values are not cast yet.

    Args:
        x: one array; or, for several inputs, a tuple or list of arrays in order, or a dict by input name.
        specs: the inputs of the encoder.

    Raises:
        InputError: inputs are missing or unknown, a shape does not fit, or the numbers of rows differ.
    """
    if len(specs) == 1 and type(x) is np.ndarray and x.ndim and x.shape[1:] == specs[0].row:
        if x.dtype.kind in "biuf":
            return [x]  # the usual case, quickly
    arrays = [_to_array(value, spec) for value, spec in zip(_by_position(x, specs), specs, strict=True)]
    for array, spec in zip(arrays, specs, strict=True):
        _check_shape(array, spec)
    if len(arrays) > 1 and len({len(array) for array in arrays}) > 1:
        rows = {spec.name: len(array) for array, spec in zip(arrays, specs, strict=True)}
        raise InputError(
            f"All inputs must have the same number of rows. Received: {rows}. Give one row of each input per sample."
        )
    return arrays


def cast_input(values: np.ndarray, spec: InputSpec, first_row: int = 0) -> np.ndarray:
    """Return `values` contiguous in the dtype of `spec`.

    A float may be rounded to another float type; an integer or bool becomes any type that holds each value exactly.

    Raises:
        InputError: the cast would lose more than float rounding, or a value is NaN or infinite.
    """
    have, want = values.dtype, spec.type
    if have is want and values.flags.c_contiguous and (want.kind != "f" or all_finite(values)):
        return values
    if have.kind not in "biuf" or (have.kind == "f" and want.kind != "f") or (have.kind != "b" and want.kind == "b"):
        raise InputError(
            f"Input `{spec.name}` must be {want} or convert to it without loss. Received: dtype {have}. "
            f"Convert it yourself if that is what you mean: x.astype('{want}')."
        )
    if have == want:
        result = np.ascontiguousarray(values)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            result = np.ascontiguousarray(values, dtype=want)
    if have.kind != "f" and not np.can_cast(have, want, "safe") and not np.array_equal(result, values):
        raise InputError(
            f"Input `{spec.name}` must hold values that {want} can represent. Received: dtype {have} with values from "
            f"{values.min()} to {values.max()}. Check the range of the input."
        )
    if want.kind == "f" and not all_finite(result):
        row = first_row + int(np.argwhere(~np.isfinite(result))[0][0])
        raise InputError(
            f"Input `{spec.name}` must be finite in {want}. Received: NaN or infinity in row {row}. "
            f"Remove or repair that row."
        )
    return result


def all_finite(array: np.ndarray) -> bool:
    """Whether no number is NaN or infinite.

    If one is, so is the sum of the squares, which takes half the time of a look at each number. Squares of large
    numbers overflow, though, so that a sum that is not finite decides nothing.
    """
    if array.itemsize > 2 and math.isfinite(np.vdot(array, array)):  # float16 would overflow often, and is slow to add
        return True
    return np.count_nonzero(np.isfinite(array)) == array.size


def not_finite(array: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Which rows hold NaN or infinity in the type of the input."""
    if array.dtype.kind != "f" or spec.type.kind != "f":
        return np.zeros(len(array), bool)
    with np.errstate(over="ignore"):
        values = array.astype(spec.type, copy=False)
    if all_finite(values):
        return np.zeros(len(array), bool)
    return ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))


def _by_position(x: Any, specs: Sequence[InputSpec]) -> list[ArrayLike]:
    if isinstance(x, np.ndarray) and len(specs) == 1:
        return [x]
    names = [spec.name for spec in specs]
    if isinstance(x, Mapping):
        if set(x) != set(names):
            raise InputError(
                f"The inputs must be named {names}. Received: {sorted(map(str, x))}. Rename them: "
                f"{{{', '.join(f'{name!r}: ...' for name in names)}}}, in a .npz file np.savez(path, "
                f"{', '.join(f'{name}=...' for name in names)})."
            )
        return [x[name] for name in names]
    if len(specs) == 1:
        return [x]
    if isinstance(x, str):
        raise _kind_error(specs[0], "text")
    if not isinstance(x, (tuple, list)) or len(x) != len(specs):
        received = f"{len(x)} of them" if isinstance(x, (tuple, list)) else type(x).__name__
        raise InputError(
            f"The encoder takes {len(specs)} inputs, {names}. Received: {received}. "
            f"Give a tuple of arrays in this order, or a dict by name."
        )
    return list(x)


def _to_array(value: ArrayLike, spec: InputSpec) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(
            f"Input `{spec.name}` must be an array with rows of one shape. Received: {type(value).__name__} that is "
            f"not one ({error}). Pad or resize the rows to the shape {spec.shape_text}."
        ) from error
    if array.dtype.kind in "UST" or (array.dtype.kind == "O" and array.size and not isinstance(array.flat[0], Number)):
        first = array.flat[0] if array.size else ""
        raise _kind_error(spec, "text" if isinstance(first, (str, bytes)) else f"{type(first).__name__} objects")
    if array.shape == (0,):  # an empty list has no row shape to check
        return np.zeros((0, *(dim or 0 for dim in spec.shape[1:])), spec.dtype)
    return array


def _kind_error(spec: InputSpec, received: str) -> InputError:
    if spec.is_image:
        remedy = "Images come as a list of paths, of bytes of files, or of Pillow images: encode(list(paths))."
    elif spec.is_tokens:
        remedy = (
            "Turn texts into tokens with the tokenizer that the model was trained with, and give their numbers; or "
            "export with export_onnx(model, path, tokenizer=tokenizer)."
        )
    else:
        remedy = "Give an array of numbers."
    return InputError(
        f"Input `{spec.name}` takes numbers, {spec.dtype} {spec.shape_text}. Received: {received}. {remedy}"
    )


def _check_shape(array: np.ndarray, spec: InputSpec) -> None:
    have, want = array.shape[1:], spec.shape[1:]
    fits = have == want or (len(have) == len(want) and all(b in (None, a) for a, b in zip(have, want, strict=True)))
    if fits and array.ndim:
        return
    single = array.ndim == len(spec.shape) - 1
    remedy = "Add the batch dimension: x[None]." if single else "Reshape or resize the rows first."
    raise InputError(f"Input `{spec.name}` must have the shape {spec.shape_text}. Received: {array.shape}. {remedy}")
