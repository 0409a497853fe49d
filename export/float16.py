"""Convert an ONNX graph to float16 where its values fit, and leave the rest in float32.

Which values fit is measured: the float32 graph runs on samples, one at a time, with all its tensors as outputs. An
operation stays in float32 if one of its tensors comes near the largest float16, or is so small that float16 would keep
nothing of it. Between two operations that stay nothing is rounded, as it would be by onnxruntime's own converter, which
gives every operation that it keeps float16 inputs and outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tfcl.export.architecture import nodes_of_final_normalization
from keras_tfcl.export.errors import ParityWarning, QuantizationError
from keras_tfcl.export.runtime.parity import cosines
from keras_tfcl.export.runtime.requirements import require

if TYPE_CHECKING:
    import onnx.reference
    import onnxruntime
    from google.protobuf.message import Message
    from onnx import NodeProto
    from onnx.defs import OpSchema
    from onnx.reference.op_run import OpRun

_LARGEST = 65504 / 2  # half of the largest float16: samples hardly show the largest value that will come
_SMALLEST = 2.0**-14  # smallest normal float16: below it digits are lost
_HIDDEN_SUMS = {"LpNormalization", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"}  # of values that are in no tensor
_MEASURED_SAMPLES = 256
_CHECKED_SAMPLES = 4
_MIN_COSINE = 0.99
_HALF = "_as_float16"  # at the end of the names of converted tensors

Rows = dict[str, np.ndarray]  # one array for each input of the encoder


def to_half(model: onnx.ModelProto, rows: Rows) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return `model` with float16 operations, and the operations that stay in float32 because of their values.

    Inputs and outputs keep their types. The division by an embedding's length, and all arithmetic on
    sizes alone, stay in float32 in any case.

    Args:
        model: an `onnx.ModelProto` in float32, which is changed.
        rows: samples of real input.

    Raises:
        QuantizationError: no weights are left for float16.
    """
    normalization = nodes_of_final_normalization(model)  # names every node
    _constants_to_initializers(model.graph)
    float32 = _peaks(model, rows)
    outside = {
        name
        for name, peaks in float32.items()
        if (peaks > _LARGEST).any() or ((peaks != 0) & (peaks < _SMALLEST)).any()
    }
    kept = {
        node.name: node.op_type
        for node in model.graph.node
        if node.op_type in _HIDDEN_SUMS or outside.intersection(node.input) or outside.intersection(node.output)
    }
    _convert(model, set(float32), {*kept, *normalization, *_size_arithmetic(model.graph)})
    if not any(tensor.name.endswith(_HALF) and len(tensor.dims) > 1 for tensor in model.graph.initializer):
        raise QuantizationError(
            "A model must have weights to store in float16, between values that float16 can hold. Received: one "
            "without on these samples. Keep the float32 file, or scale its inputs to ordinary values."
        )
    return model, tuple(f"{operation} {name}" for name, operation in kept.items() if name not in normalization)


def check_in_true_float16(
    float16: onnx.ModelProto, float32: onnx.ModelProto, output: str, rows: Rows, expected: np.ndarray
) -> None:
    """Raise unless a float16 model computes the embeddings of the float32 model, where float16 is not emulated.

    onnxruntime computes most float16 operations in float32 on the CPU, which hides errors that a GPU would show. ONNX's
    reference evaluator computes in float16. It is slow, so it runs four samples, including those with the largest and
    the smallest values. If it cannot reproduce the float32 model either, there is a ParityWarning.

    Raises:
        QuantizationError: the embeddings are not finite, or differ by more than rounding.
    """
    fault = _fault(float16, output, rows, expected)
    if fault is None:
        return
    if _fault(float32, output, rows, expected) is None:
        raise QuantizationError(
            f"The embeddings in float16 must have a cosine of at least {_MIN_COSINE} to those in float32. Received: "
            f"{fault}. Give samples with the largest activations, or keep the float32 file."
        )
    warnings.warn(
        f"The float16 file could not be checked in true float16, because ONNX's reference evaluator does not "
        f"reproduce the float32 model either: {fault}. Look at check_probes(path, providers='cuda') on your GPU.",
        ParityWarning,
        stacklevel=2,
    )


def _fault(model: onnx.ModelProto, output: str, rows: Rows, expected: np.ndarray) -> str | None:
    """Return an error of the embeddings that ONNX's reference evaluator computes as `output`, or None."""
    evaluator = _reference_evaluator(model)
    flat = (array.reshape(len(array), -1).astype(np.float64) for array in rows.values())
    order = np.argsort(np.max([np.abs(values).max(axis=1, initial=0) for values in flat], axis=0))
    for row in {*order[np.linspace(0, len(order) - 1, _CHECKED_SAMPLES).astype(int)].tolist()}:
        one = {name: array[row : row + 1] for name, array in rows.items()}
        try:
            with np.errstate(all="ignore"):
                tensors: Any = evaluator.run(None, one, intermediate=True)
        except Exception as error:  # its operations may raise any exception
            return f"{type(error).__name__}: {error}"
        cosine = _cosine(tensors[output], expected[row])
        if not cosine >= _MIN_COSINE:
            return f"{cosine:.3f} for row {row}{_first_infinity(model, tensors)}"
    return None


def _reference_evaluator(model: onnx.ModelProto) -> onnx.reference.ReferenceEvaluator:
    """Return ONNX's reference evaluator, with products ten times faster and a corrected pooling."""
    reference, op_run = require("onnx.reference", "quantize"), require("onnx.reference.op_run", "quantize")
    ops = "onnx.reference.ops"

    class GlobalMaxPool(op_run.OpRun):  # type: ignore[name-defined]  # imported only now
        """The implementation in onnx 1.23 is right for two spatial axes alone."""

        op_domain = ""

        def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
            return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)

    products = [
        _summed_in_float32("Conv", require(f"{ops}.op_conv", "quantize").Conv),
        _summed_in_float32("MatMul", require(f"{ops}.op_matmul", "quantize").MatMul),
        _summed_in_float32("Gemm", require(f"{ops}.op_gemm", "quantize").Gemm_7),
    ]
    return reference.ReferenceEvaluator(model, new_ops=[GlobalMaxPool, *products])


def _summed_in_float32(name: str, operation: Any) -> type[OpRun]:
    """Return an operation that rounds to float16 after its sums, as GPUs do, and NumPy too, which takes its time."""

    def run(self: Any, *arrays: np.ndarray | None, **attributes: object) -> tuple[np.ndarray, ...]:
        if not any(array is not None and array.dtype == np.float16 for array in arrays):
            return operation._run(self, *arrays, **attributes)
        wide = [array if array is None else array.astype(np.float32) for array in arrays]
        return tuple(result.astype(np.float16) for result in operation._run(self, *wide, **attributes))

    return type(name, (operation,), {"op_domain": "", "_run": run})


def _cosine(embedding: np.ndarray, expected: np.ndarray) -> float:
    """NaN if the embedding is not finite; 1 if both are zeros."""
    row = embedding.reshape(1, -1)
    return float(cosines(expected.reshape(1, -1), row)[0]) if np.isfinite(row).all() else float("nan")


def _first_infinity(model: onnx.ModelProto, tensors: Mapping[str, np.ndarray]) -> str:
    for node in model.graph.node:
        given = [np.isfinite(np.asarray(tensors[name])).all() for name in node.input if _is_float(tensors.get(name))]
        made = [np.isfinite(tensors[name]).all() for name in node.output if _is_float(tensors.get(name))]
        if all(given) and not all(made):
            return f", where {node.op_type} {node.name} is the first to give NaN or infinity"
    return ""


def _is_float(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Make each Constant an initializer, so that there is one kind of weight."""
    for node in [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]:
        graph.initializer.add().CopyFrom(node.attribute[0].t)
        graph.initializer[-1].name = node.output[0]
        graph.node.remove(node)


def _peaks(model: onnx.ModelProto, rows: Rows) -> dict[str, np.ndarray]:
    """Return the largest finite absolute value of each float32 tensor, one for each sample; of a weight only one."""
    onnx = require("onnx", "quantize")
    session, computed = _session_of_all_tensors(model)
    found: dict[str, list[float]] = {}
    count = len(next(iter(rows.values())))
    for row in np.unique(np.linspace(0, count - 1, min(count, _MEASURED_SAMPLES)).astype(int)):
        one = {name: array[row : row + 1] for name, array in rows.items()}
        for name, value in (one | dict(zip(computed, session.run(computed, one), strict=True))).items():
            if isinstance(value, np.ndarray) and value.dtype == np.float32:
                found.setdefault(name, []).append(_peak(value))
    for tensor in model.graph.initializer:
        if tensor.data_type == tensor.FLOAT:
            found[tensor.name] = [_peak(onnx.numpy_helper.to_array(tensor))]
    return {name: np.array(peaks) for name, peaks in found.items()}


def _session_of_all_tensors(model: onnx.ModelProto) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """Return an onnxruntime session that gives all tensors, none of them fused away, and their names."""
    onnx, ort = require("onnx", "quantize"), require("onnxruntime", "serve")
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    computed = [name for node in model.graph.node for name in node.output if name]
    declared = {output.name for output in model.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed if name not in declared)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"]), computed


def _peak(values: np.ndarray) -> float:
    """The largest finite absolute value; infinities, as in a mask, are the same in float16."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0))


def _size_arithmetic(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the nodes that compute with sizes alone, where rounding would change a shape."""
    data, sizes, names = {value.name for value in graph.input}, set(), set()
    for node in graph.node:
        if node.op_type in ("Shape", "Size"):
            sizes.update(node.output)
        elif data.intersection(node.input) or data.intersection(_captured(node)):
            data.update(node.output)
        elif sizes.intersection(node.input):
            sizes.update(node.output)
            names.add(node.name)
    return names


def _convert(model: onnx.ModelProto, float32: set[str], keep: set[str]) -> None:
    """Let all nodes outside `keep` compute in float16 where the ONNX standard allows it, with casts in between."""
    onnx = require("onnx", "quantize")
    graph, helper = model.graph, onnx.helper
    weights = {tensor.name: tensor for tensor in graph.initializer}
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    captured = {name for node in graph.node for name in _captured(node)}
    outputs = {output.name for output in graph.output}
    nodes: list[NodeProto] = []
    converted: set[str] = set()  # the tensors that are float16 now

    def as_type(name: str, kind: int) -> str:
        """Return the name of the tensor in this type; add the cast, or the converted weight, at its first use."""
        if (name in converted) == (kind == onnx.TensorProto.FLOAT16):
            return name
        other = f"{name}{_HALF if kind == onnx.TensorProto.FLOAT16 else '_as_float32'}"
        if other not in made:
            made.add(other)
            if name in weights:
                values = onnx.numpy_helper.to_array(weights[name]).astype(np.float16)
                graph.initializer.append(onnx.numpy_helper.from_array(values, other))
            else:
                nodes.append(helper.make_node("Cast", [name], [other], name=other, to=kind))
        return other

    made: set[str] = set()
    for node in list(graph.node):
        inputs, made_half = _half_slots(node, opsets, float32)
        if node.name in keep or captured.intersection(node.output):
            inputs, made_half = set(), set()
        for slot, name in enumerate(node.input):
            if name in float32:
                node.input[slot] = as_type(name, onnx.TensorProto.FLOAT16 if slot in inputs else onnx.TensorProto.FLOAT)
        nodes.append(node)
        for slot in made_half:
            name = node.output[slot]
            if name in outputs:
                node.output[slot] = f"{name}_in_float16"
                nodes.append(helper.make_node("Cast", [node.output[slot]], [name], name=f"{name}_cast", to=1))
            else:
                converted.add(name)
        if made_half and node.op_type == "Cast":
            node.attribute[0].i = onnx.TensorProto.FLOAT16
    used = {name for node in nodes for name in node.input} | captured | {value.name for value in graph.input} | outputs
    _set(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in used])
    _set(graph.node, nodes)
    _set(graph.value_info, [])


def _half_slots(node: onnx.NodeProto, opsets: dict[str, int], float32: set[str]) -> tuple[set[int], set[int]]:
    """Return the positions of the inputs and outputs that become float16; none if no output can."""
    onnx = require("onnx", "quantize")
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets[node.domain], node.domain)
    except (onnx.defs.SchemaError, KeyError):
        return set(), set()
    free = {kind.type_param_str for kind in schema.type_constraints if "tensor(float16)" in kind.allowed_type_strs}

    def kinds(formal: Sequence[OpSchema.FormalParameter], names: Sequence[str]) -> dict[int, str]:
        """The type variable of each float32 tensor that may be float16."""
        variables = [formal[min(slot, len(formal) - 1)].type_str for slot in range(len(names))]
        return {slot: kind for slot, kind in enumerate(variables) if names[slot] in float32 and kind in free}

    inputs, outputs = kinds(schema.inputs, node.input), kinds(schema.outputs, node.output)
    if node.op_type != "Cast":  # the type of all others follows from an input, or they stay
        outputs = {slot: kind for slot, kind in outputs.items() if kind in inputs.values()}
    has_graph = any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in node.attribute)
    return (set(), set()) if has_graph or not outputs else (set(inputs), set(outputs))


def _captured(node: onnx.NodeProto) -> set[str]:
    """Return the names that the branches or the body of a node read, those from outside among them."""
    bodies = [attribute.g for attribute in node.attribute if attribute.type == attribute.GRAPH]
    inner = {name for body in bodies for child in body.node for name in {*child.input, *_captured(child)}}
    return inner | {output.name for body in bodies for output in body.output}


def _set(repeated: MutableSequence[Message], messages: Sequence[Message]) -> None:
    kept = [type(message).FromString(message.SerializeToString()) for message in messages]
    del repeated[:]
    repeated.extend(kept)
