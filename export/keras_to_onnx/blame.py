"""Find the operation and the layer behind a wrong file, for the error message."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_tfcl.export.keras_to_onnx.convert import frozen_graph
from keras_tfcl.export.keras_to_onnx.source import Source
from keras_tfcl.export.keras_to_onnx.unsupported import layer_of, resizers
from keras_tfcl.export.runtime.parity import RELATIVE_TOLERANCE
from keras_tfcl.export.runtime.providers import load_onnxruntime
from keras_tfcl.export.runtime.requirements import require

if TYPE_CHECKING:
    import keras
    import onnx

_HALF_TYPES = (10, 16)  # TensorProto.FLOAT16 and BFLOAT16
_MOVES = "Reshape Transpose Identity Cast Squeeze Unsqueeze ExpandDims Concat ConcatV2 Shape".split()
_LAYOUTS = ((0, 3, 1, 2), (0, 2, 3, 1))  # tf2onnx transposes images from (N, H, W, C) to (N, C, H, W) and back


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of an ONNX graph, also of the graphs inside conditions and loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_of(inner)


def describe_node(node: onnx.NodeProto, layers: Sequence[keras.Layer]) -> str:
    """Name the operation and layer of a node."""
    return f"{node.op_type} in {layer_of(node.name, layers)}"


def failing_nodes(error: object, model: onnx.ModelProto, layers: Sequence[keras.Layer]) -> list[str]:
    """Name the nodes that an error of onnxruntime mentions by name or, if there are none, by type."""
    text = str(error)
    by_name = [node for node in nodes_of(model.graph) if node.name and node.name in text]
    by_type = [node for node in nodes_of(model.graph) if re.search(rf"\b{node.op_type}\b", text)]
    return list(dict.fromkeys(describe_node(node, layers) for node in by_name or by_type))


def batch_reductions(model: onnx.ModelProto, layers: Sequence[keras.Layer]) -> list[str]:
    """Name the operations that sum, average or compare over the first axis, with their layers."""
    constants = {tensor.name: list(tensor.int64_data) or tensor.raw_data for tensor in model.graph.initializer}
    first = (0).to_bytes(8, "little")
    found = []
    for node in nodes_of(model.graph):
        axes = [axis for attribute in node.attribute if attribute.name == "axes" for axis in attribute.ints]
        given = constants.get(node.input[1], b"") if len(node.input) > 1 else b""
        if node.op_type.startswith("Reduce") and (0 in axes or given in (first, [0])):
            found.append(describe_node(node, layers))
    return list(dict.fromkeys(found))


def differing_operations(
    model: onnx.ModelProto, source: Source, normalize: bool, inputs: Sequence[np.ndarray]
) -> list[str]:
    """Name the operations, with their layers, that are known to differ or, if there are none, the first that do."""
    return _known_differences(model, source) or _first_differences(model, source, normalize, inputs)


def _known_differences(model: onnx.ModelProto, source: Source) -> list[str]:
    found = []
    for node in nodes_of(model.graph):
        settings = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Resize" and settings["mode"].s == b"cubic":
            found.append(f"the cubic {describe_node(node, source.layers)}")
        if node.op_type == "Cast" and settings["to"].i in _HALF_TYPES:
            found.append(f"the rounding to half precision, {describe_node(node, source.layers)}")
    if any("int" in spec.dtype and len(spec.shape) == 4 for spec in source.inputs):
        found += [
            f"layer `{layer.name}` ({type(layer).__name__}), which rounds integer images in an eager call but not in "
            f"`predict`: put Rescaling before it"
            for layer in resizers(source.layers)
        ]
    return list(dict.fromkeys(found))


def _first_differences(
    model: onnx.ModelProto, source: Source, normalize: bool, inputs: Sequence[np.ndarray]
) -> list[str]:
    """Compare the tensors inside the file with the tensors of the same names in the TensorFlow graph.

    The first tensors that differ are named, unless all results computed from them agree: then the converter has merged
    the operation with the next one.
    """
    if any(tensor.external_data for tensor in model.graph.initializer):
        return []  # the weights do not fit into one TensorFlow graph
    nodes = {name: node for node in model.graph.node for name in node.output}
    rows = source.inputs[0].shape[0] or len(inputs[0])
    feed = {
        spec.name: np.resize(array, (rows, *array.shape[1:])) for spec, array in zip(source.inputs, inputs, strict=True)
    }
    try:
        kinds, expected = _run_tensorflow(source, normalize, feed, list(nodes))
        received = _run_onnx(model, feed, list(expected))
    except Exception:  # the file is known to be wrong; without this comparison the error is only less exact
        return []
    agree = {name: _agrees(value, received[name]) for name, value in expected.items()}
    if agree and all(agree.values()):
        return ["a layer whose output in a graph, as in `model.predict`, differs from its output in an eager call"]
    inputs_of = {name: list(node.input) for name, node in nodes.items()}
    uses_of: dict[str, list[str]] = {}
    for name, node in nodes.items():
        for used in node.input:
            uses_of.setdefault(used, []).append(name)
    found = []
    for name in (name for name, same in agree.items() if not same):
        before, between = _nearest(name, inputs_of, agree)
        after, _ = _nearest(name, uses_of, agree)
        if all(before) and not (after and all(after)):
            hidden = [nodes[other] for other in between if other in nodes and nodes[other].op_type not in _MOVES]
            if kinds[name] in _MOVES and hidden:
                found += [describe_node(node, source.layers) for node in hidden]
            else:
                found.append(f"{kinds[name]} in {layer_of(name.partition(':')[0], source.layers)}")
    return list(dict.fromkeys(found))[:3]


def _nearest(
    name: str, neighbours: Mapping[str, Sequence[str]], agree: Mapping[str, bool]
) -> tuple[list[bool], list[str]]:
    """Return whether the nearest comparable tensors around `name` agree, and the names of the tensors in between."""
    found, between, open_names = [], [], list(neighbours.get(name, ()))
    while open_names:
        other = open_names.pop()
        if other in agree:
            found.append(agree[other])
        elif other not in between:
            between.append(other)
            open_names.extend(neighbours.get(other, ()))
    return found, between


def _run_tensorflow(
    source: Source, normalize: bool, feed: Mapping[str, np.ndarray], names: Sequence[str]
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Return the types and values of the tensors of the TensorFlow graph that are in `names`."""
    tf = require("tensorflow", "tf")
    graph_def = frozen_graph(source, normalize)
    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    kinds, values = {}, {}
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph, config=config) as session:
        tf.import_graph_def(graph_def, name="")
        tensors = {tensor.name: tensor for operation in graph.get_operations() for tensor in operation.outputs}
        wanted = {name: tensors[name] for name in names if name in tensors and tensors[name].dtype.is_numpy_compatible}
        placeholders = {f"{name}:0": value for name, value in feed.items()}
        for name, tensor in wanted.items():
            kinds[name] = tensor.op.type
        values = session.run(wanted, placeholders)
    return kinds, values


def _run_onnx(model: onnx.ModelProto, feed: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the values of tensors inside an ONNX model."""
    onnx, ort = require("onnx", "export"), load_onnxruntime()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = ort.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), dict(feed)), strict=True))


def _agrees(expected: np.ndarray, received: np.ndarray) -> bool:
    layouts = [received] + [received.transpose(axes) for axes in _LAYOUTS if received.ndim == len(axes)]
    same_shape = [values for values in layouts if values.shape == expected.shape]
    if expected.dtype.kind not in "biuf" or not same_shape or not expected.size:
        return True  # not comparable
    wanted = expected.astype("float64")
    tolerance = RELATIVE_TOLERANCE * np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
    return any(np.allclose(values.astype("float64"), wanted, 0, tolerance, equal_nan=True) for values in same_shape)
