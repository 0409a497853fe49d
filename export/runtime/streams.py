"""What `OnnxEncoder` takes, as batches of arrays: arrays, pictures, and iterables larger than memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_tfcl.export.errors import InputError
from keras_tfcl.export.runtime.images import is_image
from keras_tfcl.export.runtime.inputs import InputSpec, split_inputs

Batch = list[np.ndarray]  # one array for each input, all with the same number of rows


def as_batches(
    x: Any, specs: Sequence[InputSpec], step: int, read_image: Callable[[Any], np.ndarray]
) -> tuple[int | None, Iterator[Batch]]:
    """Return the number of rows, None where only the end of a stream will tell, and the batches.

    Arrays are cut, and pictures gathered, into `step` rows. So are the rows of a stream; its batches stay as they are.

    Raises:
        InputError: arrays do not fit the inputs. What a stream yields is checked when it comes.
    """
    if is_image(x):
        raise InputError(f"Pictures must come in a list. Received: {x!r:.80} alone. Write [picture].")
    if isinstance(x, Sequence) and x and is_image(x[0]):
        return len(x), _gathered(iter(x), specs, step, read_image)
    if isinstance(x, (Mapping, tuple, list)) or hasattr(x, "shape"):
        arrays = split_inputs(x, specs)
        return len(arrays[0]), _sliced(arrays, step)
    if isinstance(x, Iterable):
        return None, _gathered(iter(x), specs, step, read_image)
    raise InputError(
        f"The encoder takes arrays, a list of pictures, or an iterable of rows or batches. Received: "
        f"{type(x).__name__}."
    )


def rows_to_try(like: Any, specs: Sequence[InputSpec]) -> Batch:
    """Return `like` as arrays; if it is None one row of zeros, for which every size must be known.

    Raises:
        InputError: `like` is needed, or does not fit.
    """
    if like is not None:
        return split_inputs(like, specs)
    if any(None in spec.shape[1:] for spec in specs):
        raise InputError(
            f"A trial run needs rows whose size is known. Received: free dimensions in {'; '.join(map(str, specs))}. "
            f"Give a batch of real input."
        )
    return [np.zeros((1, *spec.shape[1:]), spec.dtype) for spec in specs]


def _sliced(arrays: Batch, step: int) -> Iterator[Batch]:
    for start in range(0, len(arrays[0]), step):
        yield [array[start : start + step] for array in arrays]


def _gathered(
    stream: Iterator[Any], specs: Sequence[InputSpec], step: int, read_image: Callable[[Any], np.ndarray]
) -> Iterator[Batch]:
    first = next(stream, None)
    if first is None:
        return
    everything = itertools.chain([first], stream)
    if is_image(first):
        yield from _decoded(everything, specs, step, read_image)
    elif _is_row(first, specs):
        while rows := list(itertools.islice(everything, step)):
            yield split_inputs(_stacked(rows, specs), specs)
    else:
        yield from (split_inputs(batch, specs) for batch in everything)


def _decoded(
    pictures: Iterator[Any], specs: Sequence[InputSpec], step: int, read_image: Callable[[Any], np.ndarray]
) -> Iterator[Batch]:
    """Read pictures in several threads, `step` of them at a time."""
    with ThreadPoolExecutor() as pool:
        while batch := list(itertools.islice(pictures, step)):
            if numbers := [item for item in batch if not is_image(item)]:
                raise InputError(
                    f"Pictures must be paths, bytes of files or Pillow images alone. Received: "
                    f"{type(numbers[0]).__name__} among them. Give pixels as PIL.Image.fromarray(pixels)."
                )
            yield split_inputs(_stacked(list(pool.map(read_image, batch)), specs), specs)


def _is_row(item: Any, specs: Sequence[InputSpec]) -> bool:
    """Whether a stream's first item is one row rather than a batch, which has one axis more."""
    if isinstance(item, Mapping):
        item = item.get(specs[0].name)
    elif len(specs) > 1 and isinstance(item, (tuple, list)) and item:
        item = item[0]
    return np.ndim(item) == len(specs[0].shape) - 1


def _stacked(rows: list[Any], specs: Sequence[InputSpec]) -> Any:
    """Make a batch of rows, nested as each of them is."""
    try:
        if isinstance(rows[0], Mapping):
            return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        if len(specs) > 1:
            return tuple(np.stack(column) for column in zip(*rows, strict=True))
        return np.stack(rows)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The rows of a stream must have one form and one shape. Received: {type(error).__name__}: {error}. "
            f"Pad or resize them, or stream batches of equal rows."
        ) from error
