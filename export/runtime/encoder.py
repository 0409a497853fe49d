"""Serve an exported encoder with NumPy and onnxruntime alone."""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from keras_tfcl.export.errors import InputError, ModelFileError, NonFiniteError
from keras_tfcl.export.runtime.batches import (
    Batch,
    BatchReader,
    OnError,
    bucket_size,
    pad_rows,
    progress_bar,
    rows_to_try,
)
from keras_tfcl.export.runtime.embedding_files import check_embedding_file, write_embeddings
from keras_tfcl.export.runtime.images import ImageRule, check_image_size, image_rule
from keras_tfcl.export.runtime.inputs import InputSpec, all_finite, cast_input, split_inputs
from keras_tfcl.export.runtime.metadata import Metadata
from keras_tfcl.export.runtime.model_file import check_model_file
from keras_tfcl.export.runtime.providers import Providers, check_providers, choose_providers, load_onnxruntime
from keras_tfcl.export.runtime.session import check_metadata, open_session, read_interface
from keras_tfcl.export.runtime.typing import ImageLike, Inputs


class OnnxEncoder:
    """Embeds arrays and images with an exported `.onnx` file. Needs neither TensorFlow nor Keras.

    One encoder may be used from several threads at once. onnxruntime keeps memory for the next run, so make one encoder
    per process and keep it. A pickled or copied encoder is the path with these arguments: the other process needs the
    file, and opens it anew.

    Args:
        path: a file written by `export_onnx`, or any ONNX file with one `(batch, D)` output and no data outside it.
            What `export_onnx` puts beside a file of more than 2 GiB is read if size and hash are those recorded.
        providers: `"auto"` (CUDA where this onnxruntime has it, then the CPU), a name such as `"cpu"`, `"cuda"` or
            `"CUDAExecutionProvider"`, or a list, in order of preference, of names or of pairs `(name, options)` such as
            `("cuda", {"device_id": 1, "arena_extend_strategy": "kSameAsRequested"})`.
        strict_providers: raise, instead of warn, when a provider asked for does not run the model.
        batch_size: rows per run, a positive integer.
        threads: threads inside one run, a positive integer; None leaves the choice to onnxruntime.
        buckets: pad a run to the next power of two of rows (at most `batch_size`) by repeating its last row, and drop
            what comes of it; embeddings stay equal up to float rounding. A GPU then prepares itself for few shapes
            instead of each; a CPU only has more work. None: on unless the CPU runs the model.
        low_memory: give memory back after each run instead of keeping it for the next; slower. For rows of many
            lengths or sizes.

    Raises:
        FileNotFoundError: there is no such file.
        ModelFileError: the file is truncated, is not ONNX, was changed since its export, uses external data, or is not
            an encoder.
        ProviderError: `strict_providers` and a provider asked for is not used.
        ValueError: an unknown provider, or a number that is not a positive integer.
        ImportError: onnxruntime is missing; the message names the extra.

    Example:

    >>> encoder = OnnxEncoder("encoder.onnx")                       # doctest: +SKIP
    >>> encoder.encode(images).shape                                # doctest: +SKIP
    (1000, 128)
    >>> encoder.encode(["cat.jpg", "dog.png"]).shape                # doctest: +SKIP
    (2, 128)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        providers: Providers = "auto",
        strict_providers: bool = False,
        batch_size: int = 256,
        threads: int | None = None,
        buckets: bool | None = None,
        low_memory: bool = False,
    ) -> None:
        self._path = Path(path)
        self._arguments = (self._path.absolute(), providers, strict_providers, batch_size, threads, buckets, low_memory)
        self._batch_size = _positive("batch_size", batch_size)
        if threads is not None:
            _positive("threads", threads)
        self._metadata = check_model_file(self._path)
        check_image_size(self._metadata, self._path)
        self._open(providers, strict_providers, threads, low_memory)
        self._buckets = self.providers[0] != "CPUExecutionProvider" if buckets is None else bool(buckets)
        self._inputs, self._output, self._dimension = read_interface(self._session, self._path)
        check_metadata(self._metadata, self._dimension, self._path)

    def __reduce__(self) -> tuple[type[OnnxEncoder], tuple[object, ...]]:
        return type(self), self._arguments

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""
        return self._dimension

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Name, dtype and shape of each input."""
        return self._inputs

    @property
    def metadata(self) -> Metadata:
        """What `export_onnx` recorded in the file; empty for a file that it did not write."""
        return copy.deepcopy(self._metadata)

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that really run the model, as the session reports them."""
        return tuple(self._session.get_providers())

    @property
    def requested_providers(self) -> tuple[str, ...]:
        """The execution providers that were asked for."""
        return self._requested

    def encode(
        self, x: Inputs | Sequence[ImageLike], batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        """Return the embeddings of `x`, float32 `(N, D)`.

        Args:
            x: an array `(N, ...)`; for several inputs a tuple of arrays in order, or a dict by input name. Floats are
                rounded to the input's type; integers are converted when every value stays exact. For an image encoder
                also a list of images: paths, bytes of files or Pillow images, decoded by the rule in the file,
                `batch_size` of them at a time. Arrays are rows as they are: turn pixels into one by `read_image`.
            batch_size: rows per run. Defaults to the encoder's.
            progress: draw a progress bar on stderr, where `rich` is installed.

        Raises:
            InputError: a shape, dtype or value does not fit the input. NaN and infinity are refused.
            NonFiniteError: the model gave NaN or infinity.
        """
        step = self._step(batch_size)
        if isinstance(x, np.ndarray) and x.ndim and 0 < len(x) <= step and not progress:
            return self._checked_run(split_inputs(x, self._inputs), step, 0)  # one run: as fast as a server needs it
        rows, batches = self._reader(step).batches(x)
        if rows is None:
            raise InputError(
                f"`encode` takes arrays or a list of images. Received: {type(x).__name__}, whose length is unknown. "
                f"Use encode_iter(x), or encode_to(x, path)."
            )
        embeddings = np.empty((rows, self._dimension), np.float32)
        start = 0
        for part in self._embed(batches, step, rows, progress):
            embeddings[start : start + len(part)] = part
            start += len(part)
        return embeddings

    __call__ = encode

    def encode_iter(
        self,
        stream: Iterable[Inputs | ImageLike],
        batch_size: int | None = None,
        progress: bool = False,
        on_error: OnError = "raise",
    ) -> Iterator[np.ndarray]:
        """Yield the embeddings of a stream that may be larger than memory, in order, float32 `(n, D)` each.

        Args:
            stream: an iterable of batches, which give one array each; or of rows or images, which are gathered into
                `batch_size`. The first item tells which: a batch has one axis more than a row. With several inputs an
                item is a tuple in order, or a dict by name.
            batch_size, progress: as in `encode`.
            on_error: what to do about an image that cannot be read: "raise" its error; "skip" it, with one warning at
                the end that names all of them; or skip it and call a function with its position, the image and the
                error. That no image can be read is an error in any case.

        Raises:
            InputError, NonFiniteError: as in `encode`, when the item comes.

        Example:

        >>> for embeddings in encoder.encode_iter(dataset):         # doctest: +SKIP
        ...     index.add(embeddings)
        """
        rows, batches = self._reader(step := self._step(batch_size), on_error).batches(stream)
        return self._embed(batches, step, rows, progress)

    def encode_to(
        self,
        x: Inputs | Iterable[Inputs | ImageLike],
        path: str | os.PathLike[str],
        ids: Iterable[object] | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        on_error: OnError = "raise",
    ) -> int:
        """Write the embeddings of `x` to a file, batch by batch, and return how many there are.

        The file gets its name when it is complete; what fails leaves no new file and keeps an old one.

        Args:
            x: what `encode` or `encode_iter` takes.
            path: `.npy`, float32 `(N, D)`, to be read by `numpy.load(path, mmap_mode="r")`; `.npz`, arrays `id` and
                `embedding`; or `.parquet`, columns `id` and `embedding` in groups of 16,384 rows or more, and this
                encoder's metadata. In a folder that exists.
            ids: integers or strings, one for each row of `x`, not for `.npy`. Defaults to row numbers.
            batch_size, progress: as in `encode`.
            on_error: as in `encode_iter`. Images left out take their ids with them.

        Raises:
            ValueError: another kind of file; ids for `.npy`; not as many ids as rows.
            ImportError: `.parquet` without pyarrow; the message names the extra.
            InputError, NonFiniteError: as in `encode`.
        """
        path = check_embedding_file(path, ids)
        reader = self._reader(step := self._step(batch_size), on_error)
        rows, batches = reader.batches(x)
        parts = self._embed(batches, step, rows, progress)
        return write_embeddings(parts, path, self._dimension, ids, reader.skipped, self._metadata)

    def read_image(self, image: ImageLike) -> np.ndarray:
        """Return one image as a row of the encoder's input, decoded, turned and resized by the rule in its file.

        Args:
            image: a path (never a URL), the bytes of a file, a Pillow image, or a uint8 array `(H, W)` or `(H, W, C)`.

        Raises:
            InputError: it is damaged or has more than 50 million pixels; or the file records no rule for images.
            ImportError: Pillow is missing; the message names the extra.
        """
        return self._image_rule().read(image)

    def warmup(self, sizes: Sequence[int] = (1,), like: Inputs | None = None) -> dict[int, float]:
        """Run once at each batch size, so that the first request does not pay for it; return the seconds of each.

        Args:
            sizes: batch sizes; with `buckets` powers of two.
            like: a batch of real input, needed where a dimension besides the batch is free.

        Raises:
            InputError: `like` is needed, or does not fit.
        """
        arrays = rows_to_try(like, self._inputs)
        seconds = {}
        for size in (_positive("sizes", size) for size in sizes):
            batch = [np.resize(array, (size, *array.shape[1:])) for array in arrays]
            started = time.perf_counter()
            self._run(batch, size, first_row=0)
            seconds[size] = time.perf_counter() - started
        return seconds

    def __repr__(self) -> str:
        inputs = "; ".join(map(str, self._inputs))
        return f"OnnxEncoder({str(self._path)!r}, {inputs} -> ({self._dimension}), {self.providers[0]})"

    def _open(self, providers: Providers, strict: bool, threads: int | None, low_memory: bool) -> None:
        ort = load_onnxruntime()
        wanted = choose_providers(ort, providers)
        self._requested = tuple(wanted)
        self._session = open_session(ort, self._path, wanted, threads, low_memory)
        check_providers(wanted, self._session.get_providers(), strict)

    def _step(self, batch_size: int | None) -> int:
        return self._batch_size if batch_size is None else _positive("batch_size", batch_size)

    def _reader(self, step: int, on_error: OnError = "raise") -> BatchReader:
        return BatchReader(self._inputs, step, self._image_rule, on_error)

    def _image_rule(self) -> ImageRule:
        return image_rule(self._inputs, self._metadata, self._path)

    def _embed(self, batches: Iterator[Batch], step: int, rows: int | None, progress: bool) -> Iterator[np.ndarray]:
        """Yield the embeddings of each batch, in runs of at most `step` rows."""
        first_row = 0
        with progress_bar(rows) if progress else contextlib.nullcontext() as advance:
            for batch in batches:
                size = len(batch[0])
                runs = [
                    self._checked_run([array[start : start + step] for array in batch], step, first_row + start)
                    for start in range(0, size, step)
                ]
                first_row += size
                if advance:
                    advance(size)
                yield runs[0] if len(runs) == 1 else np.concatenate([np.empty((0, self._dimension), np.float32), *runs])

    def _checked_run(self, batch: Batch, step: int, first_row: int) -> np.ndarray:
        rows = len(batch[0])
        embeddings = self._run(batch, bucket_size(rows, step) if self._buckets else rows, first_row)
        if not all_finite(embeddings):
            row = first_row + int(np.argwhere(~np.isfinite(embeddings))[0][0])
            raise NonFiniteError(
                f"Expected finite embeddings. Received: NaN or infinity for row {row}. Check that its values are in "
                f"the range the model was trained on."
            )
        return embeddings

    def _run(self, batch: Batch, size: int, first_row: int) -> np.ndarray:
        """Embed a batch padded to `size` rows, and return the embeddings of the batch in float32."""
        rows = len(batch[0])
        feed = {}
        for spec, array in zip(self._inputs, batch, strict=True):
            feed[spec.name] = pad_rows(cast_input(array, spec, first_row), size)
        try:
            (embeddings,) = self._session.run([self._output], feed)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise InputError(
                f"Expected rows that the model can embed. Received: rows {first_row} to {first_row + rows - 1}, which "
                f"onnxruntime rejects: {error}. Check sizes and index ranges."
            ) from error
        if embeddings.shape != (size, self._dimension):
            raise ModelFileError(
                f"Expected one embedding of length {self._dimension} per row. Received: shape {embeddings.shape} for "
                f"{size} rows from {self._path}. Export again."
            )
        if embeddings.dtype != np.float32:
            with np.errstate(over="ignore"):  # beyond float32 it becomes infinite, which the caller checks
                embeddings = embeddings.astype(np.float32)
        return embeddings[:rows]


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")
    return int(value)
