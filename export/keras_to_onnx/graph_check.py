"""Is a converted file valid ONNX with the interface that was asked for?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_tfcl.export.errors import ModelFileError, UnsupportedOpError, VerificationError
from keras_tfcl.export.keras_to_onnx.source import OUTPUT, Source
from keras_tfcl.export.keras_to_onnx.unsupported import layer_of, resizers
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.inputs import InputSpec
from keras_tfcl.export.runtime.model_file import check_model_file
from keras_tfcl.export.runtime.requirements import require

_HALF_TYPES = (10, 16)  # TensorProto.FLOAT16 and BFLOAT16


def load_checked(path: Path, inputs: Sequence[InputSpec], dimension: int, layers: Sequence[Any]) -> OnnxEncoder:
    """Check the file at `path` and load it as a server would.

    tf2onnx writes operations that ONNX lacks and inputs that nobody declared, and reports neither; `onnx.checker`
    passes both. So the standard, the declaration, the checker and onnxruntime are all asked.

    Raises:
        UnsupportedOpError: an operation is not in the ONNX standard, or onnxruntime cannot run it.
        VerificationError: the interface differs, or the file is not valid.
    """
    onnx = require("onnx", "export")
    check_model_file(path)
    model = onnx.load(path, load_external_data=False)
    _check_operations(onnx, model, layers)
    _check_interface(onnx, model.graph, inputs, dimension)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(f"Expected a valid ONNX model. Received: {error}. Please report this model.") from error
    return _load(path, model, layers)


def _check_operations(onnx: Any, model: Any, layers: Sequence[Any]) -> None:
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    unknown = {
        (node.op_type, _layer_of(node, layers)): None
        for node in (*_nodes(model.graph), *(node for function in model.functions for node in function.node))
        if not _in_standard(onnx, node, opsets)
    }
    if unknown:
        found = "; ".join(f"{op} in {layer}" for op, layer in unknown)
        raise UnsupportedOpError(
            f"Every operation must be in ONNX opset {opsets.get('')}. Received: {found}. "
            f"Move it outside the model, write it with other keras.ops, or try a higher `opset`."
        )


def _in_standard(onnx: Any, node: Any, opsets: dict[str, int]) -> bool:
    try:
        onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 0), node.domain)
    except onnx.defs.SchemaError:
        return False
    return True


def _nodes(graph: Any) -> Iterator[Any]:
    """Every node, also of the graphs inside conditions and loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def find_suspects(model: Any, source: Source) -> list[str]:
    """Name what is known to differ between Keras and onnxruntime, with its layers."""
    found = []
    for node in _nodes(model.graph):
        settings = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Resize" and settings["mode"].s == b"cubic":
            found.append(f"the cubic Resize in {_layer_of(node, source.layers)}")
        if node.op_type == "Cast" and settings["to"].i in _HALF_TYPES:
            found.append(f"the rounding to half precision in {_layer_of(node, source.layers)}")
    if any("int" in spec.dtype and len(spec.shape) == 4 for spec in source.inputs):
        found += [
            f"layer `{layer.name}` ({type(layer).__name__}), which rounds integer images in an eager call but not in "
            f"`predict`: put Rescaling before it"
            for layer in resizers(source.layers)
        ]
    return list(dict.fromkeys(found))


def find_batch_reductions(model: Any, layers: Sequence[Any]) -> list[str]:
    """Name the operations that sum, average or compare over the first axis, with their layers."""
    constants = {tensor.name: list(tensor.int64_data) or tensor.raw_data for tensor in model.graph.initializer}
    first = (0).to_bytes(8, "little")
    found = []
    for node in _nodes(model.graph):
        axes = [axis for attribute in node.attribute if attribute.name == "axes" for axis in attribute.ints]
        given = constants.get(node.input[1], b"") if len(node.input) > 1 else b""
        if node.op_type.startswith("Reduce") and (0 in axes or given in (first, [0])):
            found.append(f"{node.op_type} in {_layer_of(node, layers)}")
    return list(dict.fromkeys(found))


def _check_interface(onnx: Any, graph: Any, inputs: Sequence[InputSpec], dimension: int) -> None:
    received = [_describe(onnx, tensor) for tensor in (*graph.input, *graph.output)]
    expected = [str(spec) for spec in (*inputs, InputSpec(OUTPUT, "float32", (None, dimension)))]
    if received != expected:
        raise VerificationError(
            f"Expected the inputs and output {expected}. Received: {received}. A layer may hold a constant that the "
            f"conversion turned into an input: make it a weight."
        )


def _layer_of(node: Any, layers: Sequence[Any]) -> str:
    """Name the layer of a node; a Resize loses its name in the conversion, so all layers that resize are named."""
    candidates = [f"layer `{layer.name}` ({type(layer).__name__})" for layer in resizers(layers)]
    named = layer_of(node.name, layers)
    return " or ".join(candidates) if node.op_type == "Resize" and named.startswith("node") and candidates else named


def _describe(onnx: Any, value: Any) -> str:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return str(InputSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, shape))


def _load(path: Path, model: Any, layers: Sequence[Any]) -> OnnxEncoder:
    try:
        return OnnxEncoder(path, providers="cpu")
    except ModelFileError as error:
        by_name = [node for node in model.graph.node if node.name and node.name in str(error)]
        by_type = [node for node in model.graph.node if re.search(rf"\b{node.op_type}\b", str(error))]
        blamed = dict.fromkeys(f"{node.op_type} in {_layer_of(node, layers)}" for node in by_name or by_type)
        raise UnsupportedOpError(
            f"Every operation must run in onnxruntime. Received: {'; '.join(blamed) or 'an unnamed one'}. {error} "
            f"Do this step outside the model, or in another way."
        ) from error
