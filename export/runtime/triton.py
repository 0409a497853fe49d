"""An exported file in the folder layout of the Triton inference server."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from keras_tfcl.atomic_write import locked_file, write_atomically
from keras_tfcl.export.errors import ModelFileError
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.validation import positive_integer

_TYPES = {
    "bool": "TYPE_BOOL", "uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64", "int8": "TYPE_INT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64",
}  # fmt: skip


def write_triton_repository(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    name: str | None = None,
    max_batch_size: int = 64,
    gpu: bool = False,
) -> Path:
    """Writes `folder/NAME/config.pbtxt` and `folder/NAME/1/model.onnx`, with external data beside the model.

    The configuration gives names, types and shapes without the batch axis, as Triton wants them, and lets it gather
    requests into batches. For a file with a fixed batch the shapes have that axis, `max_batch_size` is 0, and each
    request must hold one whole batch. A new version of an existing model gets the next number. Several processes may
    write into one repository.

    Args:
        path: an ONNX file that `OnnxEncoder` takes.
        folder: the model repository, made if need be.
        name: of the model. Defaults to the file's.
        max_batch_size: largest batch, a positive integer. A fixed batch takes no account of it.
        gpu: run it on GPUs; on the CPU by default.

    Returns:
        The folder of the new version.

    Raises:
        ModelFileError: the file is no encoder, or a folder.
        ValueError: `max_batch_size` is not a positive integer, or the name does not name a folder.
    """
    positive_integer("max_batch_size", max_batch_size, "Pass the largest batch that Triton may make.")
    source = Path(path)
    if source.is_dir():
        raise ModelFileError(
            f"Expected an ONNX file. Received: {path}, a folder, whose pooling and normalization Triton would leave "
            f"out. Export the whole model to one (batch, D) output, and give that file."
        )
    name = name or source.stem
    if Path(name).name != name or name.startswith("."):
        raise ValueError(
            f"`name` must name a folder in the repository. Received: name={name!r}. Pass for example 'cat'."
        )
    encoder = OnnxEncoder(source, "cpu")
    model = Path(folder) / name
    model.mkdir(parents=True, exist_ok=True)
    draft = model / ".draft"  # Triton passes over what is no number
    with locked_file(Path(folder)):
        shutil.rmtree(draft, ignore_errors=True)  # left by a process that was killed
        draft.mkdir()
        shutil.copyfile(source, draft / "model.onnx")
        external = encoder.metadata.get("data_file")
        if external:
            shutil.copyfile(source.with_name(external["name"]), draft / external["name"])
        copy = OnnxEncoder(draft / "model.onnx", "cpu")  # another process may have replaced the file meanwhile
        write_atomically(model / "config.pbtxt", _configuration(copy, model.name, max_batch_size, gpu).encode())
        versions = [int(entry.name) for entry in model.iterdir() if entry.is_dir() and entry.name.isdigit()]
        return draft.rename(model / str(max(versions, default=0) + 1))


def _configuration(encoder: OnnxEncoder, name: str, max_batch_size: int, gpu: bool) -> str:
    batch = encoder.inputs[0].shape[0]
    axis = [] if batch is None else [batch]
    inputs = [
        _tensor("input", spec.name, spec.dtype, axis + [-1 if side is None else side for side in spec.shape[1:]])
        for spec in encoder.inputs
    ]
    output = _tensor("output", encoder.output, "float32", [*axis, encoder.dimension])
    kind = "KIND_GPU" if gpu else "KIND_CPU"
    return "\n".join(
        [
            f"name: {_quoted(name)}",
            'platform: "onnxruntime_onnx"',
            f"max_batch_size: {max_batch_size if batch is None else 0}",
            *inputs,
            output,
            *(["dynamic_batching { }"] if batch is None else []),
            f"instance_group [ {{ count: 1 kind: {kind} }} ]",
            "",
        ]
    )


def _tensor(role: str, name: str, dtype: str, dims: list[int]) -> str:
    sides = ", ".join(map(str, dims or [1]))
    reshape = "" if dims else " reshape: { shape: [ ] }"  # a number for each sample: Triton takes no empty shape
    return f"{role} [ {{ name: {_quoted(name)} data_type: {_TYPES[dtype]} dims: [ {sides} ]{reshape} }} ]"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
