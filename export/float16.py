"""Convert the body of an encoder to float16, and leave the division by an embedding's length in float32.

The converter of onnxruntime, told to keep nodes in float32, still rounds to float16 between any two of them. So the
nodes that end the graph are taken off before, and put back behind its result after.
"""

from __future__ import annotations

from typing import Any

from keras_tfcl.export.architecture import nodes_of_final_normalization
from keras_tfcl.export.errors import QuantizationError
from keras_tfcl.export.runtime.requirements import require


def halve(model: Any, converter: Any) -> Any:
    """Return `model` with float16 weights, and inputs and output as they were.

    Args:
        model: an `onnx.ModelProto`, which is changed.
        converter: the module `onnxruntime.transformers.float16`.

    Raises:
        QuantizationError: the model ends in a normalization of its own input.
    """
    onnx = require("onnx", "quantize")
    graph = model.graph
    names = set(nodes_of_final_normalization(model))
    tail = [_copied(node) for node in graph.node if node.name in names]
    outputs = [_copied(output) for output in graph.output]
    body = [_copied(node) for node in graph.node if node.name not in names]
    made_by_body = {output for node in body for output in node.output}
    between = sorted({name for node in tail for name in node.input} & made_by_body) or [outputs[0].name]
    if not made_by_body.issuperset(between):
        raise QuantizationError("A model must have weights to halve. Received: one that only normalizes its input.")
    _own_constants(graph, tail, body)
    _set(graph.node, body)
    _set(graph.output, [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in between])
    half = converter.convert_float_to_float16(model, keep_io_types=True)
    _set(half.graph.output, outputs)
    # A tensor that several nodes need in float32 is cast once for each of them, under one name.
    nodes = {tuple(node.output): node for node in (*half.graph.node, *tail)}
    _set(half.graph.node, [_copied(node) for node in nodes.values()])
    _set(half.graph.value_info, [])  # which the converter leaves doubled as well
    sorter = require("onnxruntime.quantization.onnx_model", "quantize").ONNXModel(half)
    sorter.topological_sort()
    return sorter.model


def _own_constants(graph: Any, tail: list[Any], body: list[Any]) -> None:
    """Give the tail copies of the constants that it shares with the body, since those become float16."""
    shared = {name for node in body for name in node.input}
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name in shared}
    for node in tail:
        for position, name in enumerate(node.input):
            if name in constants:
                node.input[position] = f"{name}_in_float32"
    used = {name for node in tail for name in node.input}
    for name, tensor in constants.items():
        if f"{name}_in_float32" in used:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = f"{name}_in_float32"


def _copied(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _set(repeated: Any, messages: list[Any]) -> None:
    del repeated[:]
    repeated.extend(messages)
