"""Serve an exported encoder with NumPy and onnxruntime alone."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_tfcl.export.errors import InputError, ModelFileError, NonFiniteError, ParityWarning
from keras_tfcl.export.inputs import InputSpec, cast_input, split_inputs
from keras_tfcl.export.metadata import KEY, parse_metadata
from keras_tfcl.export.modelfile import check_model_file
from keras_tfcl.export.providers import check_providers, choose_providers, load_onnxruntime, startable_providers

_NUMPY_TYPES = {"float": "float32", "double": "float64"}  # onnxruntime's names that NumPy spells otherwise
_FATAL_ONLY = 4
_MAX_DIMENSION = 1 << 20  # beyond it a hostile header would make `encode` ask for terabytes


class OnnxEncoder:
    """Embeds arrays with an exported `.onnx` file. Needs neither TensorFlow nor Keras.

    One encoder may be used from several threads at once. onnxruntime keeps memory for each shape it has seen, so make
    one encoder per process and keep it.

    Args:
        path: a file written by `export_onnx`, or any ONNX file with one `(batch, D)` output and no external data.
        providers: `"auto"` (CUDA where this onnxruntime has it, then the CPU), a name such as `"cpu"`, `"cuda"` or
            `"CUDAExecutionProvider"`, or a list of names in order of preference.
        strict_providers: raise, instead of warn, when a provider asked for does not run the model.
        batch_size: rows per run, a positive integer.
        threads: threads inside one run, a positive integer; None leaves the choice to onnxruntime.

    Raises:
        FileNotFoundError: there is no such file.
        ModelFileError: the file is truncated, is not ONNX, uses external data, or is not an encoder.
        ProviderError: `strict_providers` and a provider asked for is not used.
        ValueError: an unknown provider, or a number that is not a positive integer.
        ImportError: onnxruntime is missing; the message names the extra.

    Example:

    >>> encoder = OnnxEncoder("encoder.onnx")                       # doctest: +SKIP
    >>> encoder.encode(images).shape                                # doctest: +SKIP
    (1000, 128)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        providers: str | Sequence[str] = "auto",
        strict_providers: bool = False,
        batch_size: int = 256,
        threads: int | None = None,
    ) -> None:
        self._path = Path(path)
        self._batch_size = _positive("batch_size", batch_size)
        if threads is not None:
            _positive("threads", threads)
        self._open(providers, strict_providers, threads)
        self._metadata = parse_metadata(self._session.get_modelmeta().custom_metadata_map.get(KEY), self._path)
        self._read_interface()
        self._check_metadata()

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""
        return self._dimension

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Name, dtype and shape of each input."""
        return self._inputs

    @property
    def metadata(self) -> dict[str, Any]:
        """What `export_onnx` recorded in the file; empty for a file that it did not write."""
        return copy.deepcopy(self._metadata)

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that really run the model, as the session reports them."""
        return tuple(self._session.get_providers())

    def encode(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """Return the embeddings of `x`, float32 `(N, D)`.

        Args:
            x: an array `(N, ...)`; for several inputs a tuple of arrays in order, or a dict by input name. Floats are
                rounded to the input's type; integers are converted when every value stays exact.
            batch_size: rows per run; default: that of the encoder.

        Raises:
            InputError: a shape, dtype or value does not fit the input. NaN and infinity are refused.
            NonFiniteError: the model gave NaN or infinity.
        """
        step = self._batch_size if batch_size is None else _positive("batch_size", batch_size)
        arrays = split_inputs(x, self._inputs)
        rows = len(arrays[0])
        embeddings = np.empty((rows, self._dimension), np.float32)
        for start in range(0, rows, step):
            batch = [array[start : start + step] for array in arrays]
            embeddings[start : start + step] = self._run(batch, start)
        return embeddings

    __call__ = encode

    def __repr__(self) -> str:
        inputs = "; ".join(map(str, self._inputs))
        return f"OnnxEncoder({str(self._path)!r}, {inputs} -> ({self._dimension}), {self.providers[0]})"

    def _open(self, providers: str | Sequence[str], strict: bool, threads: int | None) -> None:
        check_model_file(self._path)
        ort = load_onnxruntime()
        wanted = choose_providers(ort, providers)
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL_ONLY  # what fails is raised, not printed
        options.intra_op_num_threads = threads or 0
        try:
            self._session = ort.InferenceSession(
                os.fspath(self._path), options, providers=startable_providers(ort, wanted)
            )
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise ModelFileError(
                f"Expected an ONNX file that onnxruntime {ort.__version__} can load. Received: {self._path}, which it "
                f"rejects: {error}. Export again, or upgrade onnxruntime."
            ) from error
        check_providers(wanted, self._session.get_providers(), strict)

    def _read_interface(self) -> None:
        self._inputs = tuple(_input_spec(node) for node in self._session.get_inputs())
        outputs = self._session.get_outputs()
        shapes = [output.shape for output in outputs]
        if len(outputs) != 1 or len(shapes[0]) != 2 or not isinstance(shapes[0][1], int) or not self._inputs:
            raise ModelFileError(
                f"Expected an encoder with inputs and one output (batch, D). Received: {self._path} with "
                f"{len(self._inputs)} inputs and outputs {shapes}. Give a file written by export_onnx."
            )
        fixed = [node.name for node in (*self._session.get_inputs(), *outputs) if isinstance(node.shape[0], int)]
        if fixed:
            raise ModelFileError(
                f"Expected a free batch dimension. Received: {self._path}, where it is fixed for {fixed}. "
                f"Export with a dynamic first dimension."
            )
        if not 0 < shapes[0][1] <= _MAX_DIMENSION:
            raise ModelFileError(
                f"Expected embeddings of 1 to {_MAX_DIMENSION} numbers. Received: {self._path} with D={shapes[0][1]}. "
                f"Do not trust this file."
            )
        self._output = outputs[0].name
        self._dimension = shapes[0][1]

    def _check_metadata(self) -> None:
        declared = self._metadata.get("dimension", self._dimension)
        if declared != self._dimension:
            raise ModelFileError(
                f"Expected metadata that agrees with the graph of {self._path}. Received: dimension {declared!r} in "
                f"the metadata, {self._dimension} in the graph. Export again."
            )
        parity = self._metadata.get("parity")
        if isinstance(parity, dict) and parity.get("passed") is False:
            warnings.warn(
                f"{self._path} was exported with allow_mismatch=True: its embeddings differ from the Keras model by "
                f"up to {parity.get('max_abs_diff')}.",
                ParityWarning,
                stacklevel=3,
            )

    def _run(self, batch: list[np.ndarray], first_row: int) -> np.ndarray:
        feed = {spec.name: cast_input(rows, spec, first_row) for spec, rows in zip(self._inputs, batch, strict=True)}
        try:
            (embeddings,) = self._session.run([self._output], feed)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise InputError(
                f"Expected rows that the model can embed. Received: rows {first_row} to "
                f"{first_row + len(batch[0]) - 1}, which onnxruntime rejects: {error}. Check sizes and index ranges."
            ) from error
        if embeddings.shape != (len(batch[0]), self._dimension):
            raise ModelFileError(
                f"Expected one embedding of length {self._dimension} per row. Received: shape {embeddings.shape} for "
                f"{len(batch[0])} rows from {self._path}. Export again."
            )
        if not np.isfinite(embeddings).all():
            row = first_row + int(np.argwhere(~np.isfinite(embeddings))[0][0])
            raise NonFiniteError(
                f"Expected finite embeddings. Received: NaN or infinity for row {row}. Check that its values are in "
                f"the range the model was trained on."
            )
        return embeddings


def _input_spec(node: Any) -> InputSpec:
    inner = node.type.removeprefix("tensor(").removesuffix(")")
    dtype = _NUMPY_TYPES.get(inner, inner)
    try:
        kind = np.dtype(dtype).kind
    except TypeError:
        kind = "unknown"
    if kind not in "biuf" or not node.shape:
        raise ModelFileError(
            f"Expected numeric inputs with a batch dimension. Received: input `{node.name}` of type {node.type}, shape "
            f"{node.shape}. Tokenise or decode outside the model."
        )
    return InputSpec(node.name, dtype, tuple(dim if isinstance(dim, int) else None for dim in node.shape))


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")
    return int(value)
