"""Serve an exported encoder with NumPy and onnxruntime only."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tfcl.export.errors import InputError, ModelFileError
from keras_tfcl.export.runtime.batches import BatchReader, OnError, check_on_error, rows_to_try, show_progress
from keras_tfcl.export.runtime.embedding_files import check_embedding_file, write_embeddings
from keras_tfcl.export.runtime.images import MAX_PIXELS, ImageRule, check_image_size, image_rule
from keras_tfcl.export.runtime.inputs import InputSpec, split_inputs
from keras_tfcl.export.runtime.metadata import Metadata
from keras_tfcl.export.runtime.model_file import check_model_file, hash_of, read_unchanged
from keras_tfcl.export.runtime.providers import Providers, check_providers, choose_providers, load_onnxruntime
from keras_tfcl.export.runtime.resume import encode_resumed
from keras_tfcl.export.runtime.runner import Runner
from keras_tfcl.export.runtime.sentence_folder import POOLINGS, Pooling, read_sentence_folder
from keras_tfcl.export.runtime.session import check_metadata, open_session, read_interface
from keras_tfcl.export.runtime.tokens import TextReader, TextRule, find_texts, text_rule
from keras_tfcl.export.runtime.typing import ImageLike, Inputs
from keras_tfcl.validation import positive_integer

if TYPE_CHECKING:
    import onnxruntime


class OnnxEncoder:
    """Computes embeddings of arrays, images and texts with an exported `.onnx` file, without TensorFlow or Keras.

    Several threads may use one encoder at the same time. onnxruntime keeps memory for the next run, so create one
    encoder per process and keep it. An encoder is pickled and copied as its path and arguments, so the other process
    needs the file, and opens it again; other weights in it raise an error.

    Args:
        path: a file written by `export_onnx`, or any ONNX file with one `(batch, D)` output and no external data. The
            external data that `export_onnx` writes beyond 2 GiB are read if their size and hash match the metadata. A
            folder of sentence-transformers with `model.onnx` or `onnx/model.onnx` also works; its tokenizer, pooling
            and normalization are read too.
        providers: `"auto"` (CUDA where this onnxruntime has it, then the CPU), a name such as `"cpu"`, `"cuda"` or
            `"CUDAExecutionProvider"`, or a list, in order of preference, of names or of pairs `(name, options)` such as
            `("cuda", {"device_id": 1, "arena_extend_strategy": "kSameAsRequested"})`.
        strict_providers: whether to raise an error, instead of a warning, if a requested provider does not run the
            model. Defaults to False.
        batch_size: number of samples in a run, a positive integer. Defaults to 256. A file with a fixed batch ignores
            it; its last run is padded.
        threads: number of threads inside one run, a positive integer. Defaults to None: onnxruntime chooses.
        buckets: whether to pad a run to the next power of two of samples (at most `batch_size`) by repeating the last
            sample. The padding is removed from the result, and embeddings stay equal up to float rounding. A GPU then
            meets few shapes; on a CPU it only adds work. Defaults to None: on unless the CPU runs the model.
        low_memory: whether to release memory after each run instead of keeping it for the next, which is slower. Use it
            for samples of many lengths or sizes. Defaults to False.
        output: name of the output to take from a file that has several.
        pooling: how an output `(batch, length, D)`, a vector for each token, becomes one embedding: "mean" of the
            tokens that the attention mask keeps, or "cls", the first. Defaults to what the folder says.
        spinning: whether the threads inside a run wait for each other in busy loops. This is faster on cores that do
            nothing else, and slower on cores with other work, as in a server. Defaults to True.

    Raises:
        FileNotFoundError: there is no such file.
        ModelFileError: the file is truncated, is not ONNX, was changed since its export, uses external data, or is not
            an encoder.
        ProviderError: a requested provider is not used, with `strict_providers`.
        ValueError: an unknown provider, or a number that is not a positive integer.
        ImportError: onnxruntime is missing; the message names the extra.

    Example:

    >>> encoder = OnnxEncoder("encoder.onnx")                       # doctest: +SKIP
    >>> encoder.encode(images).shape                                # doctest: +SKIP
    (1000, 128)
    >>> encoder.encode(["cat.jpg", "dog.png"]).shape                # doctest: +SKIP
    (2, 128)
    >>> OnnxEncoder("all-MiniLM-L6-v2").encode(["a text"]).shape    # doctest: +SKIP
    (1, 384)
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
        output: str | None = None,
        pooling: Pooling | None = None,
        spinning: bool = True,
    ) -> None:
        settings = (providers, strict_providers, batch_size, threads, buckets, low_memory, output, pooling, spinning)
        self._arguments = (Path(path).absolute(), *settings)
        if pooling not in (None, *POOLINGS):
            raise ValueError(f"`pooling` must be one of {', '.join(POOLINGS)}. Received: pooling={pooling!r}.")
        self._batch_size = positive_integer("batch_size", batch_size, "256 is the default.")
        if threads is not None:
            positive_integer("threads", threads, "Leave it out to let onnxruntime choose.")
        folder = read_sentence_folder(Path(path).resolve()) if Path(path).is_dir() else None
        pooling = pooling or (folder.pooling if folder else None)
        self._path = folder.model if folder else Path(path)
        self._metadata, content, self._session = read_unchanged(
            self._path, lambda: self._read(providers, strict_providers, threads, low_memory, spinning)
        )
        check_image_size(self._metadata, self._path)
        interface = read_interface(self._session, self._path, output, pooling)
        check_metadata(self._metadata, interface.dimension, self._path)
        if folder and folder.tokenizer:
            self._metadata["tokenizer"] = folder.tokenizer
        buckets = self.providers[0] != "CPUExecutionProvider" if buckets is None else bool(buckets)
        normalize = folder is not None and folder.normalize
        self._runner = Runner(self._session, interface, self._path, pooling, normalize, buckets)
        weights, tokenizer = self._metadata.get("weights_sha256"), self._metadata.get("tokenizer")
        images = [self._metadata.get("preprocessing"), (self._metadata.get("notes") or {}).get("image")]
        pooled_by = pooling if interface.per_token else None
        identity = [weights or content, interface.output, pooled_by, normalize, tokenizer, *images]
        self._weights_hash = _sha256(identity) if not weights or tokenizer or any(images) else weights
        self._text_rule: TextRule | None = None  # made when the first text comes

    def __reduce__(self) -> tuple[Callable[..., OnnxEncoder], tuple[object, ...]]:
        return _opened_again, (functools.partial(type(self), *self._arguments), self._weights_hash)

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self._path

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""
        return self._runner.dimension

    @property
    def batch_size(self) -> int:
        """Rows per run."""
        return self._batch_size

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Name, dtype and shape of each input."""
        return self._runner.inputs

    @property
    def output(self) -> str:
        """Name of the output that holds the embeddings."""
        return self._runner.output

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the weights, as `export_onnx` records it, and of the tokenizer or the rule for images, if any.

        An int8 or float16 file has the hash of its float model. If another tool wrote the file, it is the hash of the
        whole file and of what else decides on the embeddings: output, pooling, normalization and tokenizer.
        """
        return self._weights_hash

    @property
    def takes_text(self) -> bool:
        """Whether there is a tokenizer, so that `encode` takes texts."""
        return "tokenizer" in self._metadata

    @property
    def text_rule(self) -> TextRule:
        """How texts become rows.

        Raises:
            InputError: there is no tokenizer, or the inputs are not those of one.
            ImportError: the package `tokenizers` is missing; the message names the extra.
        """
        if not self.takes_text:
            raise InputError(
                f"Texts need a tokenizer. Received: {self._path}, which has none. Export with "
                f"export_onnx(model, path, tokenizer=tokenizer)."
            )
        if self._text_rule is None:
            self._text_rule = text_rule(self.inputs, self._metadata, self._path)
        return self._text_rule

    @property
    def metadata(self) -> Metadata:
        """The metadata that `export_onnx` stored in the file; empty for other files."""
        return copy.deepcopy(self._metadata)

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that run the model, as the session reports them."""
        return tuple(self._session.get_providers())

    @property
    def requested_providers(self) -> tuple[str, ...]:
        """The requested execution providers."""
        return self._requested

    def encode(
        self, x: Inputs | Sequence[ImageLike], batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        """Return the embeddings of `x`, float32 `(N, D)`.

        Args:
            x: an array `(N, ...)`; for several inputs a tuple of arrays in order, or a dict by input name. Floats are
                rounded to the input's type; integers are converted when every value stays exact. For an image encoder
                also a list of images: paths, bytes of files or Pillow images, read as the metadata say,
                `batch_size` of them at a time. Arrays are passed to the model unchanged; prepare pixels with
                `read_image`.
                For an encoder with a tokenizer also a list of texts, which are sorted by length, so that a run has
                little padding and at most 16,384 tokens; the embeddings come in the order of the texts.
            batch_size: number of samples in a run. Defaults to the encoder's.
            progress: draw a progress bar on stderr, where `rich` is installed.

        Raises:
            InputError: a shape, dtype or value does not fit the input. NaN and infinity are refused.
            NonFiniteError: the model gave NaN or infinity.
        """
        step = self._step(batch_size)
        if type(x) is np.ndarray and x.ndim and 0 < len(x) <= step and not progress and x.dtype.kind in "biuf":
            return self._runner(split_inputs(x, self.inputs), step)  # one run: as fast as a server needs it
        rows, parts, _ = self._embeddings_of(x, step, progress)
        if rows is None:
            raise InputError(
                f"`encode` takes arrays or a list of images or texts. Received: {type(x).__name__}, whose length is "
                f"unknown. Use encode_iter(x), or encode_to(x, path)."
            )
        embeddings = np.empty((rows, self.dimension), np.float32)
        start = 0
        for part in parts:
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
            stream: an iterable of batches, each of which gives one array; or of single samples, which are gathered into
                batches of `batch_size`. The first item decides: a batch has one axis more than a sample. With several
                inputs an item is a tuple in order, or a dict by name.
            batch_size, progress: as in `encode`.
            on_error: what to do about an image that cannot be read, a text without tokens, or a sample with NaN or
                infinity: "raise" its error; "skip" it, with one warning at the end that names all of them; or skip it
                and call a function with its position, the input and the error. If all are skipped, an error is raised.

        Raises:
            InputError, NonFiniteError: as in `encode`, when the item comes.

        Example:

        >>> for embeddings in encoder.encode_iter(dataset):         # doctest: +SKIP
        ...     index.add(embeddings)
        """
        _, parts, _ = self._embeddings_of(stream, self._step(batch_size), progress, on_error)
        return parts

    def encode_to(
        self,
        x: Inputs | Iterable[Inputs | ImageLike],
        path: str | os.PathLike[str],
        ids: Iterable[object] | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        on_error: OnError = "raise",
        resume: bool = False,
    ) -> int:
        """Write the embeddings of `x` to a file, batch by batch, and return how many there are.

        The file gets its name when it is complete. A failure leaves no new file and keeps an old one.

        Args:
            x: what `encode` or `encode_iter` takes.
            path: `.npy`, float32 `(N, D)`, to be read by `numpy.load(path, mmap_mode="r")`; `.npz`, arrays `id` and
                `embedding`; or `.parquet`, columns `id` and `embedding` in groups of 16,384 rows or more, and this
                encoder's metadata. In a folder that exists.
            ids: integers or strings, one for each row of `x`, not for `.npy`. Defaults to row numbers.
            batch_size, progress: as in `encode`.
            on_error: as in `encode_iter`. The ids of skipped samples are left out too.
            resume: continue what an earlier run with `resume` began, killed or not: rows whose ids are in the file, or
                in the folder of its parts, are not embedded again. For `.parquet`, and a list or an array.

        Raises:
            ValueError: for another kind of file, ids for `.npy`, another number of ids than of samples, and repeated
                ids with `resume`.
            ImportError: `.parquet` without pyarrow; the message names the extra.
            InputError, NonFiniteError: as in `encode`.
        """
        if resume:
            return encode_resumed(self, x, Path(path), ids, on_error, batch_size=batch_size, progress=progress)
        path = check_embedding_file(path, ids)
        _, parts, skipped = self._embeddings_of(x, self._step(batch_size), progress, on_error)
        return write_embeddings(parts, path, self, ids, skipped)

    def read_image(self, image: ImageLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Return one image as a row of the encoder's input, decoded, turned and resized by the rule in its file.

        Args:
            image: a path (never a URL), the bytes of a file, a Pillow image, or a uint8 array `(H, W)` or `(H, W, C)`.
            max_pixels: the largest image that is decoded. Defaults to 50 million.

        Raises:
            InputError: it is damaged or has more pixels; or the file records no rule for images.
            ImportError: Pillow is missing; the message names the extra.
        """
        return self._image_rule().read(image, max_pixels)

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Return texts as rows of each input, padded to the longest, such as `quantize` takes for `samples`.

        Raises:
            InputError: there is no tokenizer.
            ImportError: the package `tokenizers` is missing; the message names the extra.
        """
        rule = self.text_rule
        rows = rule.rows(rule.tokenize(list(texts)))
        return {spec.name: array for spec, array in zip(self.inputs, rows, strict=True)}

    def warmup(self, sizes: Sequence[int] = (1,), like: Inputs | None = None) -> dict[int, float]:
        """Run once at each batch size, so that the first request does not pay for it; return the seconds of each.

        Args:
            sizes: batch sizes; with `buckets` powers of two. A file with a fixed batch runs its own.
            like: a batch of real input, needed where a dimension besides the batch is free.

        Raises:
            InputError: `like` is needed, or does not fit.
        """
        arrays, fixed = rows_to_try(like, self.inputs), self._runner.fixed
        seconds = {}
        for size in (positive_integer("sizes", size, "Pass a list of batch sizes.") for size in sizes):
            batch = [np.resize(array, (fixed or size, *array.shape[1:])) for array in arrays]
            started = time.perf_counter()
            self._runner.padded(batch, fixed or size)
            seconds[size] = time.perf_counter() - started
        return seconds

    def __repr__(self) -> str:
        inputs = "; ".join(map(str, self.inputs))
        return f"OnnxEncoder({str(self._path)!r}, {inputs} -> ({self.dimension}), {self.providers[0]})"

    def _read(
        self, providers: Providers, strict: bool, threads: int | None, low_memory: bool, spinning: bool
    ) -> tuple[Metadata, str, onnxruntime.InferenceSession]:
        """Return the metadata of the file, the hash of its content, and a session."""
        metadata = check_model_file(self._path)
        content = metadata.get("content_hash") or hash_of(self._path)
        ort = load_onnxruntime()
        wanted = choose_providers(ort, providers)
        self._requested = tuple(wanted)
        session = open_session(ort, self._path, wanted, threads, low_memory, spinning)
        check_providers(wanted, session.get_providers(), strict)
        return metadata, content, session

    def _step(self, batch_size: int | None) -> int:
        size = self._batch_size if batch_size is None else batch_size
        return positive_integer("batch_size", size, f"Leave it out for {self._batch_size}.")

    def _image_rule(self) -> ImageRule:
        return image_rule(self.inputs, self._metadata, self._path)

    def _embeddings_of(
        self, x: Any, step: int, progress: bool, on_error: OnError = "raise"
    ) -> tuple[int | None, Iterator[np.ndarray], Container[int]]:
        """Return the number of rows where it is known, their embeddings, and the positions of skipped samples."""
        check_on_error(on_error)
        reader: TextReader | BatchReader
        if getattr(getattr(x, "dtype", None), "kind", "") in ("O", "U", "T") and np.ndim(x) == 1:
            x = x.tolist()  # paths or texts, as an array or a column of pandas
        found, x = find_texts(x) if self.takes_text else (None, x)
        if found:
            reader = TextReader(self.text_rule, step, on_error)
            rows, texts = found
            parts = reader.embeddings(texts, self._runner)
        else:
            reader = BatchReader(self.inputs, step, self._image_rule, on_error)
            rows, batches = reader.batches(x)
            parts = self._runner.each(batches, step)
        return rows, show_progress(parts, rows) if progress else parts, reader.skipped


def _opened_again(open_file: Callable[[], OnnxEncoder], weights_hash: str) -> OnnxEncoder:
    """Return an encoder that was pickled."""
    encoder = open_file()
    if encoder.weights_hash != weights_hash:
        raise ModelFileError(
            f"A pickled encoder must find the weights that it had. Received: {encoder.path}, which was replaced by a "
            f"file with others. Create the encoder again."
        )
    return encoder


def _sha256(content: object) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"
