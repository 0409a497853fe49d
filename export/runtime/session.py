"""Load an ONNX file into onnxruntime, and read what it takes and gives."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from keras_tfcl.export.errors import ModelFileError, ParityWarning
from keras_tfcl.export.runtime.inputs import InputSpec
from keras_tfcl.export.runtime.metadata import Metadata
from keras_tfcl.export.runtime.providers import startable_providers

if TYPE_CHECKING:
    import onnxruntime

_NUMPY_TYPES = {"float": "float32", "double": "float64"}  # onnxruntime's names that NumPy spells otherwise
_FATAL_ONLY = 4
_MAX_DIMENSION = 1 << 20  # beyond it a hostile header would make `encode` ask for terabytes


def open_session(
    ort: ModuleType, path: Path, wanted: Mapping[str, Mapping[str, object]], threads: int | None, low_memory: bool
) -> onnxruntime.InferenceSession:
    """Return an `onnxruntime.InferenceSession` of the file.

    Raises:
        ModelFileError: onnxruntime rejects the file.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY  # what fails is raised, not printed
    options.intra_op_num_threads = threads or 0
    if low_memory:
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
    try:
        return ort.InferenceSession(os.fspath(path), options, providers=startable_providers(ort, wanted))
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise ModelFileError(
            f"Expected an ONNX file that onnxruntime {ort.__version__} can load. Received: {path}, which it "
            f"rejects: {error}. Export again, or upgrade onnxruntime."
        ) from error


def read_interface(session: onnxruntime.InferenceSession, path: Path) -> tuple[tuple[InputSpec, ...], str, int]:
    """Return the inputs, the name of the output, and the length of an embedding.

    Raises:
        ModelFileError: the file is not an encoder.
    """
    inputs = tuple(_input_spec(node) for node in session.get_inputs())
    outputs = session.get_outputs()
    shapes = [output.shape for output in outputs]
    if len(outputs) != 1 or len(shapes[0]) != 2 or not isinstance(shapes[0][1], int) or not inputs:
        raise ModelFileError(
            f"Expected an encoder with inputs and one output (batch, D). Received: {path} with "
            f"{len(inputs)} inputs and outputs {shapes}. Give a file written by export_onnx."
        )
    fixed = [node.name for node in (*session.get_inputs(), *outputs) if isinstance(node.shape[0], int)]
    if fixed:
        raise ModelFileError(
            f"Expected a free batch dimension. Received: {path}, where it is fixed for {fixed}. "
            f"Export with a dynamic first dimension."
        )
    if not 0 < shapes[0][1] <= _MAX_DIMENSION:
        raise ModelFileError(
            f"Expected embeddings of 1 to {_MAX_DIMENSION} numbers. Received: {path} with D={shapes[0][1]}. "
            f"Do not trust this file."
        )
    return inputs, outputs[0].name, shapes[0][1]


def check_metadata(metadata: Metadata, dimension: int, path: Path) -> None:
    """Raise if the metadata contradicts the graph, and warn if the export found embeddings that differ.

    Raises:
        ModelFileError: another length of embeddings is declared.
    """
    declared = metadata.get("dimension", dimension)
    if declared != dimension:
        raise ModelFileError(
            f"Expected metadata that agrees with the graph of {path}. Received: dimension {declared!r} in the "
            f"metadata, {dimension} in the graph. Export again."
        )
    parity = metadata.get("parity")
    if isinstance(parity, dict) and parity.get("passed") is False:
        warnings.warn(
            f"{path} was exported with allow_mismatch=True: its embeddings differ from the Keras model by up to "
            f"{parity.get('max_abs_diff')}.",
            ParityWarning,
            stacklevel=3,
        )


def _input_spec(node: onnxruntime.NodeArg) -> InputSpec:
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
