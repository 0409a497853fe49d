"""What an ONNX graph spends its work on, and how it ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from keras_tfcl.export.runtime.requirements import require

if TYPE_CHECKING:
    import onnx

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_PRODUCTS = ("MatMul", "Gemm")
# What tf2onnx makes of e / |e|, and no operation with weights
_NORMALIZING = (
    "Abs Cast Clip Div Equal Greater Identity Max Mul Not Pow Reciprocal ReduceL2 ReduceMax ReduceSum ReduceSumSquare "
    "Reshape Sqrt Squeeze Unsqueeze Where"
).split()


def convolves_most(model: onnx.ModelProto) -> bool:
    """Whether convolutions multiply more than products with constant matrices do."""
    graph = require("onnx", "quantize").shape_inference.infer_shapes(model).graph
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    shapes = {value.name: _shape(value) for value in (*graph.value_info, *graph.output)}
    work = dict.fromkeys((*_CONVOLUTIONS, *_PRODUCTS), 0)
    for node in graph.node:
        if node.op_type in work and len(node.input) > 1:
            work[node.op_type] += sizes.get(node.input[1], 0) * _positions(node, shapes.get(node.output[0], []))
    return sum(work[name] for name in _CONVOLUTIONS) > sum(work[name] for name in _PRODUCTS)


def nodes_of_final_normalization(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes between the last operation with weights and the output.

    Nodes without a name get one first, since the quantizers tell nodes apart by name.
    """
    for position, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{position}"
    producers = {output: node for node in model.graph.node for output in node.output}
    names, open_tensors = set(), [output.name for output in model.graph.output]
    while open_tensors:
        node = producers.get(open_tensors.pop())
        if node is not None and node.op_type in _NORMALIZING and node.name not in names:
            names.add(node.name)
            open_tensors.extend(node.input)
    return sorted(names)


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """The dimensions of a tensor, with 1 for those that are free."""
    return [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]


def _positions(node: onnx.NodeProto, shape: list[int]) -> int:
    """How often a row applies each weight: pixels of a convolution's output, tokens of a product's."""
    places = shape[2:] if node.op_type in _CONVOLUTIONS else shape[1:-1]
    return int(np.prod(places, dtype=np.int64))
