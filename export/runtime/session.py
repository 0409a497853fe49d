"""Load an ONNX file into onnxruntime, and read its inputs and its output."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_tfcl.export.errors import ModelFileError, ParityWarning
from keras_tfcl.export.runtime.inputs import InputSpec
from keras_tfcl.export.runtime.metadata import Metadata
from keras_tfcl.export.runtime.providers import startable_providers

if TYPE_CHECKING:
    import onnxruntime

_NUMPY_TYPES = {"float": "float32", "double": "float64"}  # onnxruntime's names that NumPy spells otherwise
_FATAL_ONLY = 4
_TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")  # as transformers and sentence-transformers call them
_MAX_DIMENSION = 1 << 20  # beyond it a hostile header would make `encode` ask for terabytes


class Interface(NamedTuple):
    """What a session takes and gives.

    Attributes:
        inputs: name, dtype and shape of each input.
        output: name of the output.
        dimension: length of an embedding.
        per_token: whether the output holds a vector for each token.
    """

    inputs: tuple[InputSpec, ...]
    output: str
    dimension: int
    per_token: bool


def open_session(
    ort: ModuleType,
    path: Path,
    wanted: Mapping[str, Mapping[str, object]],
    threads: int | None,
    low_memory: bool,
    spinning: bool = True,
) -> onnxruntime.InferenceSession:
    """Return an `onnxruntime.InferenceSession` of the file.

    Raises:
        ModelFileError: onnxruntime rejects the file.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY  # what fails is raised, not printed
    options.intra_op_num_threads = threads or 0
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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


def read_interface(
    session: onnxruntime.InferenceSession, path: Path, name: str | None = None, pooling: str | None = None
) -> Interface:
    """Return the inputs and the output of a session.

    Args:
        session: of onnxruntime.
        path: of the file, for messages.
        name: of the output; None takes the only one, or the one that transformers usually call so.
        pooling: of the vectors of tokens, None if they must not be pooled.

    Raises:
        ModelFileError: the file is not an encoder, or has no output of that name.
    """
    inputs = tuple(_input_spec(node) for node in session.get_inputs())
    output = _output(session.get_outputs(), path, name, pooling)
    rank = len(output.shape)
    if rank not in (2, 3) or (rank == 3 and not pooling) or not isinstance(output.shape[-1], int) or not inputs:
        remedy = "Give pooling='mean' or pooling='cls'." if rank == 3 else "Give a file written by export_onnx."
        raise ModelFileError(
            f"Expected an encoder with inputs and one output (batch, D). Received: {path} with "
            f"{len(inputs)} inputs and the output {output.name} {output.shape}. {remedy}"
        )
    batches = {node.name: node.shape[0] for node in (*session.get_inputs(), output)}
    fixed = {size for size in batches.values() if isinstance(size, int)}
    if len(fixed) > 1 or (fixed and any(spec.shape[0] is None for spec in inputs)) or fixed & {0, -1}:
        raise ModelFileError(
            f"Expected a batch dimension that is free, or one number for all inputs. Received: {path} with {batches}. "
            f"Export with a dynamic first dimension."
        )
    if not 0 < output.shape[-1] <= _MAX_DIMENSION:
        raise ModelFileError(
            f"Expected embeddings of 1 to {_MAX_DIMENSION} numbers. Received: {path} with D={output.shape[-1]}. "
            f"Do not trust this file."
        )
    return Interface(inputs, output.name, output.shape[-1], rank == 3)


def _output(
    outputs: Sequence[onnxruntime.NodeArg], path: Path, name: str | None, pooling: str | None
) -> onnxruntime.NodeArg:
    by_name = {output.name: output for output in outputs}
    usual = _TOKEN_OUTPUTS if pooling and name is None else ("embedding", "sentence_embedding")
    wanted = (
        [name] if name else [output for output in usual if output in by_name][:1] if len(by_name) > 1 else [*by_name]
    )
    if len(wanted) != 1 or wanted[0] not in by_name:
        received = f"output={name!r} for {path}" if name else f"{path}"
        shapes = ", ".join(f"{output.name} {output.shape}" for output in outputs)
        raise ModelFileError(
            f"Expected an encoder with inputs and one output (batch, D). Received: {received} with the outputs "
            f"{shapes}. Name one of them by output=, and pooling='mean' or 'cls' for one with a vector for each token."
        )
    return by_name[wanted[0]]


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
