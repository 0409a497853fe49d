"""Turn the input of `OnnxEncoder` into batches of arrays: arrays, images, and iterables larger than memory."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from keras_tfcl.export.errors import InputError
from keras_tfcl.export.runtime.images import ImageRule, is_image, name_of_image
from keras_tfcl.export.runtime.inputs import InputSpec, not_finite, split_inputs
from keras_tfcl.export.runtime.typing import ImageLike, Inputs

Batch = list[np.ndarray]  # one array for each input, all with the same number of rows
# What to do about an image that cannot be read, or a row with NaN; a function takes its position, it, and the error
OnError = Literal["raise", "skip"] | Callable[[int, Any, Exception], None]
_MAX_TRIAL_NUMBERS = 1 << 26  # in one row of a trial run; more would be a hostile file


class BatchReader:
    """Makes batches of what an encoder is given.

    Args:
        specs: the inputs of the encoder.
        step: rows in a batch of gathered rows or images.
        image_rule: gives the rule by which images become rows, or raises InputError if the encoder takes none.
        on_error: as in `OnnxEncoder.encode_iter`.

    Attributes:
        skipped: what is left out so far, by position.

    Raises:
        ValueError: `on_error` is none of these.
    """

    def __init__(
        self, specs: Sequence[InputSpec], step: int, image_rule: Callable[[], ImageRule], on_error: OnError = "raise"
    ) -> None:
        check_on_error(on_error)
        self._specs, self._step, self._image_rule, self._on_error = specs, step, image_rule, on_error
        self.skipped: dict[int, ImageLike] = {}  # rows by their number alone

    def batches(self, x: Any) -> tuple[int | None, Iterator[Batch]]:
        """Return the number of rows, None where only the end of a stream will tell, and the batches.

        Arrays are cut, and images gathered, into `step` rows. So are the rows of a stream; its batches stay as they
        are. Images that cannot be read count as rows here.

        Raises:
            InputError: arrays do not fit the inputs. What a stream yields is checked when it comes.
        """
        if is_image(x):
            self._image_rule()
            raise InputError(f"Images must come in a list. Received: {x!r:.80} alone. Write [image].")
        if isinstance(x, Sequence) and x and is_image(x[0]):
            return len(x), self._decoded(iter(x), self._image_rule())
        if isinstance(x, (Mapping, tuple, list)) or hasattr(x, "shape"):
            arrays = split_inputs(x, self._specs)
            starts = range(0, len(arrays[0]), self._step)
            return len(arrays[0]), self._finite([x[start : start + self._step] for x in arrays] for start in starts)
        if isinstance(x, Iterable):
            return None, self._gathered(iter(x))
        raise InputError(
            f"The encoder takes arrays, a list of images, or an iterable of rows or batches. Received: "
            f"{type(x).__name__}."
        )

    def _gathered(self, stream: Iterator[Any]) -> Iterator[Batch]:
        first = next(stream, None)
        if first is None:
            return
        everything = itertools.chain([first], stream)
        if is_image(first):
            yield from self._decoded(everything, self._image_rule())
        elif _is_row(first, self._specs):
            groups = iter(lambda: list(itertools.islice(everything, self._step)), [])
            yield from self._finite(split_inputs(_stacked(rows, self._specs), self._specs) for rows in groups)
        else:
            yield from self._finite(split_inputs(batch, self._specs) for batch in everything)

    def _finite(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Leave out rows with NaN or infinity, unless they are to raise an error, which the run does."""
        if self._on_error == "raise":
            yield from batches
            return
        count = 0
        for batch in batches:
            bad = np.zeros(len(batch[0]), bool)
            for spec, array in zip(self._specs, batch, strict=True):
                bad |= not_finite(array, spec)
            for row in np.flatnonzero(bad):
                error = InputError(f"A row must be finite. Received: NaN or infinity in row {count + row}. Repair it.")
                rows = tuple(array[row] for array in batch)
                self._skip(count + int(row), rows if len(rows) > 1 else rows[0], error)
            count += len(bad)
            if not bad.all():
                yield [array[~bad] for array in batch] if bad.any() else batch
        self._report(count, "rows are not finite")

    def _decoded(self, images: Iterator[ImageLike], rule: ImageRule) -> Iterator[Batch]:
        """Read images in several threads, `step` of them at a time."""

        def read(image: ImageLike) -> np.ndarray | Exception:
            try:
                return rule.read(image)
            except (InputError, OSError) as error:
                if self._on_error == "raise":
                    raise
                return error

        positions = itertools.count()
        with ThreadPoolExecutor() as pool:
            while batch := list(itertools.islice(images, self._step)):
                if numbers := [item for item in batch if not is_image(item)]:
                    raise InputError(
                        f"Images must be paths, bytes of files or Pillow images alone. Received: "
                        f"{type(numbers[0]).__name__} among them. Give pixels as PIL.Image.fromarray(pixels)."
                    )
                rows = []
                for image, row in zip(batch, pool.map(read, batch), strict=True):
                    position = next(positions)
                    if isinstance(row, Exception):
                        self._skip(position, image, row)
                    else:
                        rows.append(row)
                if rows:
                    yield split_inputs(_stacked(rows, self._specs), self._specs)
        self._report(next(positions), "images could not be read")

    def _skip(self, position: int, item: object, error: Exception) -> None:
        self.skipped[position] = item if is_image(item) else str(position)
        if callable(self._on_error):
            self._on_error(position, item, error)

    def _report(self, count: int, fault: str) -> None:
        """Warn about what was skipped of `count` inputs, and raise if that is all of them."""
        if not self.skipped:
            return
        names = ", ".join(name_of_image(image) for image in self.skipped.values())
        if len(self.skipped) == count:
            kind = fault.partition(" ")[0].removesuffix("s")
            raise InputError(
                f"At least one {kind} must be usable. Received: {count} of {count} {fault}: {names}. Repair them."
            )
        if self._on_error == "skip":
            warnings.warn(f"{len(self.skipped)} of {count} {fault} and are left out: {names}.", stacklevel=2)


def check_on_error(on_error: object) -> None:
    """Raise ValueError unless it is one of `OnError`."""
    if on_error not in ("raise", "skip") and not callable(on_error):
        raise ValueError(
            f"`on_error` must be 'raise', 'skip' or a function. Received: on_error={on_error!r}. Use 'skip' to leave "
            f"out images that cannot be read."
        )


def rows_to_try(like: Inputs | None, specs: Sequence[InputSpec]) -> Batch:
    """Return `like` as arrays; if it is None one row of zeros, for which every size must be known.

    Raises:
        InputError: `like` is needed, or does not fit.
    """
    if like is not None:
        return split_inputs(like, specs)
    shapes = [[dim for dim in spec.shape[1:] if dim is not None] for spec in specs]
    if any(
        len(shape) < len(spec.shape) - 1 or math.prod(shape) > _MAX_TRIAL_NUMBERS
        for shape, spec in zip(shapes, specs, strict=True)
    ):
        raise InputError(
            f"A trial run needs rows of known size, below {_MAX_TRIAL_NUMBERS:,} numbers. Received: "
            f"{'; '.join(map(str, specs))}. Give a batch of real input."
        )
    return [np.zeros((1, *shape), spec.dtype) for shape, spec in zip(shapes, specs, strict=True)]


def bucket_size(rows: int, limit: int) -> int:
    """Return the smallest power of two that holds `rows`, but at most `limit`; `1 <= rows <= limit`.

    A GPU searches for the fastest convolution at each new batch size, so it should meet few.

    >>> [bucket_size(rows, limit=100) for rows in (1, 2, 3, 33, 70, 100)]
    [1, 2, 4, 64, 100, 100]
    """
    return min(1 << (rows - 1).bit_length(), limit)


def pad_rows(array: np.ndarray, rows: int) -> np.ndarray:
    """Repeat the last row until there are `rows`.

    A real row is valid input whatever the model; a row of zeros might be padding alone to an attention mask.

    >>> pad_rows(np.array([[1, 2], [3, 4]]), 4).tolist()
    [[1, 2], [3, 4], [3, 4], [3, 4]]
    """
    missing = rows - len(array)
    return array if missing == 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


def show_progress(parts: Iterable[np.ndarray], total: int | None) -> Iterator[np.ndarray]:
    """Yield the parts, and draw a bar of the rows that are done on stderr, where `rich` is installed.

    Args:
        parts: arrays of rows.
        total: rows in all; None for a stream of unknown length.
    """
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        yield from parts
        return
    columns = (
        progress.TextColumn("embedding"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("rows"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        for part in parts:
            bar.advance(task, len(part))
            yield part


def _is_row(item: Any, specs: Sequence[InputSpec]) -> bool:
    """Whether a stream's first item is one row rather than a batch, which has one axis more."""
    if isinstance(item, Mapping):
        item = item.get(specs[0].name)
    elif len(specs) > 1 and isinstance(item, (tuple, list)) and item:
        item = item[0]
    return np.ndim(item) == len(specs[0].shape) - 1


def _stacked(rows: Sequence[Any], specs: Sequence[InputSpec]) -> Inputs:
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
            f"Pad or resize them, or give batch_size=1."
        ) from error
