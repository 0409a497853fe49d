"""Quantizes an exported model to int8 or float16, and reports the loss of recall."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np

from keras_tfcl.export.architecture import convolves_most, nodes_of_final_normalization
from keras_tfcl.export.errors import ExportError, QuantizationError
from keras_tfcl.export.float16 import Rows, check_in_true_float16, to_half
from keras_tfcl.export.quantized_model import (
    QuantizationReport,
    check_rows,
    embed_different,
    open_float_model,
    write_quantized_model,
)
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.inputs import cast_input, split_inputs
from keras_tfcl.export.runtime.requirements import require
from keras_tfcl.export.runtime.typing import Inputs

if TYPE_CHECKING:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader

_MODES = ("auto", "dynamic", "static")
_CALIBRATION_BATCH = 16


def quantize(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    samples: Inputs,
    mode: Literal["auto", "dynamic", "static"] = "auto",
    calibration: Inputs | None = None,
    min_recall: float | None = None,
) -> QuantizationReport:
    """Quantize an exported encoder to int8, about a quarter of its size, and report the loss of recall.

    "dynamic" stores the matrices of MatMul and Gemm as int8, with one scale for each column, and rounds activations at
    run time. It suits transformers and dense networks. It takes the range of activations from the whole batch, so the
    embedding of a sample depends slightly on the other samples of its batch.

    "static" rounds convolutions, products and activations by ranges that were measured on `calibration`. It suits
    convolutional networks, which run several times slower in dynamic mode.

    "auto" chooses the mode that covers more of the multiplications. Int8 rounds differently on other processors, so
    measure on the machine that serves.

    Args:
        path: a float32 file written by `export_onnx`, or any file that `OnnxEncoder` accepts.
        out: the file to write, in a folder that exists. If an error is raised, no new file is written and an existing
            file is kept.
        samples: real samples on which neighbours are compared, preferably some hundreds: an array, a tuple of arrays in
            order, or a dict by input name.
        mode: "auto", "dynamic" or "static".
        calibration: samples on which "static" measures ranges; not for "dynamic". Defaults to every second sample of
            `samples`; the others are then used for the comparison.
        min_recall: the smallest accepted share, from 0 to 1, of the 10 nearest neighbours that are kept; None accepts
            any.

    Returns:
        A `QuantizationReport`, which is also stored in the file's metadata under `quantization`.

    Raises:
        RecallError: the recall is below `min_recall`. No file is written.
        QuantizationError: the file is already quantized, has nothing to quantize, or does not run afterwards.
        InputError, ValueError: an argument does not fit.
        ImportError: a package is missing; the message names the extra.

    Example:

    >>> print(quantize("encoder.onnx", "int8.onnx", samples=images, min_recall=0.95))     # doctest: +SKIP
    """
    if mode not in _MODES:
        raise ValueError(f"`mode` must be one of {list(_MODES)}. Received: mode={mode!r}.")
    if mode == "dynamic" and calibration is not None:
        raise ValueError("`calibration` is for mode 'static'. Received: mode='dynamic'. Leave it out.")
    float_model = open_float_model(path, out)
    path, source = float_model.path, require("onnx", "quantize").load(float_model.path)
    if mode == "auto":
        mode = "static" if convolves_most(source) else "dynamic"
    every_second = mode == "static" and calibration is None
    rows = check_rows(float_model, samples, min_recall, every_second)
    if mode == "dynamic":
        return write_quantized_model(
            float_model, out, mode, rows, min_recall, lambda folder, _: (_dynamic(path, source, folder), ())
        )
    if calibration is None:
        calibration = {name: array[::2] for name, array in rows.items()}
        rows = {name: array[1::2] for name, array in rows.items()}
    ranges = _calibration_rows(float_model, calibration)
    return write_quantized_model(
        float_model, out, mode, rows, min_recall, lambda folder, _: (_static(path, source, ranges, folder), ())
    )


def to_float16(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, samples: Inputs, min_recall: float | None = None
) -> QuantizationReport:
    """Convert an exported encoder to float16, half of its size, and report the loss of recall.

    Use it on GPUs: on a CPU it is as fast as float32 or slower. Inputs and the embedding keep their dtypes. The
    division by the length of an embedding stays in float32, and so does each operation whose values, on up to 256 of
    the samples, come near the largest float16, 65,504, or vanish in float16. The report names these operations. ONNX's
    reference evaluator then runs four samples, because it computes in float16 as a GPU does, while onnxruntime's CPU
    provider computes in float32.

    Arguments, result and errors are as in `quantize`, with one additional error.

    Raises:
        QuantizationError: an embedding in float16 is not finite, or differs by more than rounding.

    Example:

    >>> print(to_float16("encoder.onnx", "float16.onnx", samples=images))                    # doctest: +SKIP
    """
    float_model = open_float_model(path, out)
    rows = check_rows(float_model, samples, min_recall)
    return write_quantized_model(
        float_model, out, "float16", rows, min_recall, lambda _, expected: _float16(float_model, rows, expected)
    )


def _dynamic(path: Path, source: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    with _tools("onnxruntime.quantization") as tools:
        prepared, _ = _prepared(tools, path, folder)
        made = folder / "dynamic.onnx"
        tools.quantize_dynamic(prepared, made, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
    return _quantized(made, source, "dynamic", "MatMul or Gemm with constant weights")


def _static(path: Path, source: onnx.ModelProto, calibration: Rows, folder: Path) -> onnx.ModelProto:
    with _tools("onnxruntime.quantization") as tools:
        prepared, normalization = _prepared(tools, path, folder)
        made = folder / "static.onnx"
        tools.quantize_static(
            prepared,
            made,
            _reader(tools, calibration),
            quant_format=tools.QuantFormat.QDQ,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=normalization,
        )
    return _quantized(made, source, "static", "convolution or product")


def _float16(float_model: OnnxEncoder, rows: Rows, expected: np.ndarray) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the model in float16, and the operations that stay in float32 because of their values."""
    load = require("onnx", "quantize").load
    model, kept = to_half(load(float_model.path), rows)
    check_in_true_float16(model, load(float_model.path), float_model.output, rows, expected)
    return model, kept


def _prepared(tools: ModuleType, path: Path, folder: Path) -> tuple[Path, list[str]]:
    """Infer shapes and fold constants, as the quantizers require. Symbolic shapes fail on attention, so skip them.

    Returns:
        The prepared file, and the names of the nodes of its final normalization.
    """
    onnx = require("onnx", "quantize")
    prepared = folder / "prepared.onnx"
    tools.quant_pre_process(path, prepared, skip_symbolic_shape=True)
    model = onnx.load(prepared)
    normalization = nodes_of_final_normalization(model)
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Gemm" and len(node.input) < 3 else ():
            if attribute.name == "beta":  # of a bias that is not there; 0, as in Keras' attention, is not quantized
                attribute.f = 1
    onnx.save(model, prepared)
    return prepared, normalization


def _calibration_rows(float_model: OnnxEncoder, calibration: Inputs) -> Rows:
    arrays = split_inputs(calibration, float_model.inputs)
    if len(arrays[0]) == 0:
        raise ValueError("`calibration` must hold at least one row. Received: none. Give some hundreds of real rows.")
    rows = {spec.name: cast_input(array, spec) for spec, array in zip(float_model.inputs, arrays, strict=True)}
    embed_different(float_model, rows, "calibration")  # rows without an embedding are not to be blamed on the tools
    return rows


def _reader(tools: ModuleType, rows: Rows) -> CalibrationDataReader:
    count = len(next(iter(rows.values())))
    starts = iter(range(0, count, _CALIBRATION_BATCH))

    class Reader(tools.CalibrationDataReader):  # type: ignore[name-defined]  # imported only now
        def get_next(self) -> Rows | None:
            start = next(starts, None)
            if start is None:
                return None
            return {name: array[start : start + _CALIBRATION_BATCH] for name, array in rows.items()}

    return Reader()


def _quantized(made: Path, source: onnx.ModelProto, mode: str, what: str) -> onnx.ModelProto:
    """Return the model that the tools have made.

    Raises:
        QuantizationError: it has no int8 weights that `source` does not have.
    """
    model, known = require("onnx", "quantize").load(made), {tensor.name for tensor in source.graph.initializer}
    new = [tensor for tensor in model.graph.initializer if tensor.name not in known and len(tensor.dims) > 1]
    if not any(tensor.data_type in (tensor.INT8, tensor.UINT8) for tensor in new):
        raise QuantizationError(f"{mode!r} needs a {what} to quantize. Received: a model without. Try another mode.")
    return model


@contextlib.contextmanager
def _tools(module: str) -> Iterator[ModuleType]:
    """Yield a module of onnxruntime's tools, and undo what its import and logging change in the process."""
    path, root = list(sys.path), logging.getLogger()
    handlers, handler = list(root.handlers), logging.NullHandler()
    root.addHandler(handler)  # or the tools would install one that prints
    try:
        yield require(module, "quantize")
    except (ExportError, ImportError):
        raise
    except Exception as error:  # the tools may raise any exception
        raise QuantizationError(
            f"onnxruntime's tools must be able to convert the file. Received: {type(error).__name__}: {error}. "
            f"Try another mode."
        ) from error
    finally:
        root.handlers[:] = handlers
        sys.path[:] = path
