"""Convert Keras layers to an ONNX model, with corrections of tf2onnx, which only this module uses.

`model.export(format="onnx")` writes files that do not load or do not match. These steps differ from it. The model is
traced in inference mode. Nested functions are traced inline, because tf2onnx does not support XLA calls (grouped
convolution). Layers that ask for sizes are traced as with free sizes. Constants that the trace captured do not become
inputs. Divisions keep their rounding. handlers.py writes the operations that tf2onnx lacks or converts wrongly. Padding
before a MaxPool is protected from onnxruntime, which would change its value. Means over several axes that are
subtracted are computed axis by axis, because onnxruntime sums with less precision than TensorFlow.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from keras_tfcl.export.errors import UnsupportedOpError, text_of
from keras_tfcl.export.keras_to_onnx.external_data import external_specs, inputs_to_initializers, reading_from
from keras_tfcl.export.keras_to_onnx.free_sizes import free_sizes
from keras_tfcl.export.keras_to_onnx.handlers import custom_op_handlers
from keras_tfcl.export.keras_to_onnx.source import OUTPUT, Source
from keras_tfcl.export.keras_to_onnx.unsupported import all_nodes, lint_graph
from keras_tfcl.export.runtime.requirements import require

if TYPE_CHECKING:
    import keras
    import onnx
    import tensorflow as tf

    from keras_tfcl.typing import Tensor

_WAS_DIVISION = "_keras_tfcl_division"


def supported_opsets() -> range:
    """The ONNX opsets that this module and the installed tf2onnx can write."""
    constants = require("tf2onnx.constants", "export")
    return range(13, max(constants.OPSET_TO_IR_VERSION) + 1)


def check_eager() -> None:
    """Raise inside a `tf.function` or a `tf.Graph`, where the model gives symbols instead of numbers.

    Raises:
        RuntimeError: operations are not executed eagerly here.
    """
    tf = require("tensorflow", "tf")
    if not tf.executing_eagerly():
        raise RuntimeError(
            "Export must run eagerly. Received: a call inside a `tf.function` or a `with tf.Graph().as_default()` "
            "block, or after tf.compat.v1.disable_eager_execution(). Call it outside of them."
        )


def convert(
    source: Source,
    *,
    dimension: int,
    normalize: bool,
    opset: int,
    external: Sequence[keras.Variable] = (),
    progress: Callable[[str], None],
) -> onnx.ModelProto:
    """Return the ONNX model of `source`, an `onnx.ModelProto`, in which the weights `external` have no values yet.

    Switches the whole process to eager functions for a moment, so the caller holds the lock of `computing_in_float32`.

    Raises:
        UnsupportedOpError: an operation has no ONNX counterpart.
    """
    with _quiet_logs():
        progress("trace the model")
        specs = _specs(source, external)
        function = _trace(source, specs, normalize, external)
        extract = require("tensorflow", "tf").compat.v1.graph_util.extract_sub_graph
        needed = extract(function.graph.as_graph_def(), [function.outputs[0].op.name])  # not what only training uses
        lint_graph(needed, source.layers)
        progress("convert to ONNX, which can take a minute")
        try:
            model = _to_onnx(function, [spec.name for spec in specs], opset)
        except Exception as error:  # handlers of tf2onnx may raise any exception
            raise UnsupportedOpError(
                f"Every operation must have an ONNX counterpart. Received: a graph that tf2onnx cannot convert "
                f"({text_of(error)}). Move the operation outside the model, or write it with keras.ops."
            ) from error
    _keep_zero_padding(model.graph)
    _average_axis_by_axis(model.graph)
    inputs_to_initializers(model.graph)
    _name_dimensions(model.graph, source.inputs[0].shape[0], dimension)
    return model


def frozen_graph(source: Source, normalize: bool) -> tf.compat.v1.GraphDef:
    """Return the `tf.GraphDef` that `convert` starts from, with the weights as constants."""
    with _quiet_logs():
        function = _trace(source, _specs(source, ()), normalize, ())
        return _freeze(function)


def _specs(source: Source, external: Sequence[keras.Variable]) -> list[tf.TensorSpec]:
    tf = require("tensorflow", "tf")
    return [tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in source.inputs] + external_specs(external)


def _trace(
    source: Source, specs: Sequence[tf.TensorSpec], normalize: bool, external: Sequence[keras.Variable]
) -> tf.types.experimental.ConcreteFunction:
    tf = require("tensorflow", "tf")
    count = len(source.inputs)

    def embed(*tensors: Tensor) -> Tensor:
        with reading_from(external, tensors[count:]) if external else contextlib.nullcontext():
            embedding = tf.cast(source(*tensors[:count]), tf.float32)
        return _l2_normalize(tf, embedding) if normalize else tf.identity(embedding)

    try:
        # on the CPU, so that a GPU host does not put its own recurrent kernels into the graph
        with free_sizes(source.layers), _nested_functions_inlined(tf), _whole_tracebacks(), tf.device("/cpu:0"):
            return tf.function(embed, autograph=False).get_concrete_function(*specs)
    except Exception as error:  # the user's layers may raise any exception
        layer = _failing_layer(error, source.layers)
        if type(layer).__module__.partition(".")[0] == "keras":
            remedy = "Give keras.Input a fixed size, which this layer of Keras may need, or move the layer outside."
        else:
            remedy = "Use keras.ops alone inside `call`, without .numpy() and without `if` on values."
        where = "the model" if layer is None else f"layer `{layer.name}` ({type(layer).__name__})"
        raise UnsupportedOpError(
            f"The model must run in a TensorFlow graph. Received: {text_of(error)}, in {where}. {remedy}"
        ) from error


def _failing_layer(error: Exception, layers: Sequence[keras.Layer]) -> keras.Layer | None:
    """The innermost layer that was being called when `error` was raised, or None."""
    known, found, step = {id(layer) for layer in layers}, None, error.__traceback__
    while step is not None:
        owner = step.tb_frame.f_locals.get("self")
        found = owner if id(owner) in known else found
        step = step.tb_next
    return found


def _l2_normalize(tf: ModuleType, rows: Tensor) -> Tensor:
    """Divide each row by its largest entry, so that no square over- or underflows, and then by its length."""
    scaled = tf.math.divide_no_nan(rows, tf.reduce_max(tf.abs(rows), axis=-1, keepdims=True))
    length = tf.sqrt(tf.reduce_sum(tf.square(scaled), axis=-1, keepdims=True))
    return tf.math.divide_no_nan(scaled, length)


def _to_onnx(function: tf.types.experimental.ConcreteFunction, names: Sequence[str], opset: int) -> onnx.ModelProto:
    tf2onnx = require("tf2onnx", "export")
    loader = require("tf2onnx.tf_loader", "export")
    inputs, outputs = _true_inputs(function), [tensor.name for tensor in function.outputs]
    renamed = dict(zip(inputs, names, strict=True)) | {outputs[0]: OUTPUT}
    frozen = _freeze(function)
    with _exact_divisions(loader), _garbage_collected_often():
        model, _ = tf2onnx.convert.from_graph_def(
            frozen,
            input_names=inputs,
            output_names=outputs,
            opset=opset,
            custom_op_handlers=custom_op_handlers(),
            tensors_to_rename=renamed,
        )
    return model


def _freeze(function: tf.types.experimental.ConcreteFunction) -> tf.compat.v1.GraphDef:
    loader = require("tf2onnx.tf_loader", "export")
    with _exact_divisions(loader):
        return loader.from_function(function, _true_inputs(function), [tensor.name for tensor in function.outputs])


def _true_inputs(function: tf.types.experimental.ConcreteFunction) -> list[str]:
    """The names of the inputs that were declared, without the constants that the trace captured."""
    return [tensor.name for tensor in function.inputs[: len(function.inputs) - len(function.captured_inputs)]]


@contextlib.contextmanager
def _exact_divisions(loader: Any) -> Iterator[None]:
    """Keep TensorFlow's graph optimizer from making `x * (1 / c)` of `x / c`.

    The two round differently, so that a later `floor`, as in `tf.image.resize_with_pad`, can differ by one. The
    optimizer does not change `DivNoNan`, so divisions have that name while it runs.
    """
    optimize = loader.tf_optimize

    def optimize_others(
        input_names: list[str], output_names: list[str], graph_def: tf.compat.v1.GraphDef
    ) -> tf.compat.v1.GraphDef:
        for node in all_nodes(graph_def):
            if node.op == "RealDiv":
                node.op = "DivNoNan"
                node.attr[_WAS_DIVISION].b = True
        optimized = optimize(input_names, output_names, graph_def)
        for graph in (graph_def, optimized):
            for node in all_nodes(graph):
                if _WAS_DIVISION in node.attr:
                    node.op = "RealDiv"
                    del node.attr[_WAS_DIVISION]
        return optimized

    loader.tf_optimize = optimize_others
    try:
        yield
    finally:
        loader.tf_optimize = optimize


def _keep_zero_padding(graph: onnx.GraphProto) -> None:
    """Set `auto_pad="VALID"`, which does not change the result of a MaxPool after a Pad.

    Otherwise onnxruntime (since microsoft/onnxruntime#18136) fuses them into one MaxPool, which pads with -infinity
    where the model pads with 0. ResNetV2 and every window of negative values would be wrong.
    """
    padded = {output for node in graph.node if node.op_type == "Pad" for output in node.output}
    for node in graph.node:
        if node.op_type == "MaxPool" and node.input[0] in padded:
            names = [attribute.name for attribute in node.attribute]
            if "auto_pad" not in names and "pads" not in names:
                node.attribute.append(require("onnx.helper", "export").make_attribute("auto_pad", "VALID"))


def _average_axis_by_axis(graph: onnx.GraphProto) -> None:
    """Before a mean over several axes that is subtracted from what it averages, average over all axes but the first.

    onnxruntime adds the numbers of all axes one after another: the mean of 300 x 200 equal pixels is off by 1e-4 of its
    value. A normalization of an image with little contrast shows that error 30-fold. Sums over one axis are short.
    """
    helper, to_array = require("onnx.helper", "export"), require("onnx.numpy_helper", "export").to_array
    constants = {tensor.name: tensor for tensor in graph.initializer}
    subtracted = {tuple(node.input) for node in graph.node if node.op_type == "Sub"}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "ReduceMean" and (node.input[0], node.output[0]) in subtracted:
            attributes = {attribute.name: list(attribute.ints) for attribute in node.attribute}
            given = len(node.input) > 1 and node.input[1] in constants  # since opset 18
            axes = to_array(constants[node.input[1]]).tolist() if given else attributes.get("axes", [])
            for number, axis in enumerate(sorted(axes, reverse=True)[:-1]):
                mean = f"{node.name}/axis_{number}"
                if given:
                    graph.initializer.append(helper.make_tensor(f"{mean}/axes", 7, [1], [axis]))  # 7: int64
                    made = helper.make_node("ReduceMean", [node.input[0], f"{mean}/axes"], [mean], name=mean)
                else:
                    made = helper.make_node("ReduceMean", [node.input[0]], [mean], name=mean, axes=[axis])
                nodes.append(made)
                node.input[0] = mean
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _name_dimensions(graph: onnx.GraphProto, batch: int | None, dimension: int) -> None:
    """Call a free first dimension `batch` everywhere, and give others names that do not change between runs."""
    for tensor in graph.input:
        for axis, dim in enumerate(tensor.type.tensor_type.shape.dim):
            if axis == 0 and batch is None:
                dim.dim_param = "batch"
            elif not dim.HasField("dim_value"):
                dim.dim_param = f"{tensor.name}_{axis}"
    output = graph.output[0].type.tensor_type.shape
    output.ClearField("dim")  # the trace of a subclassed model may not know its shape
    output.dim.add(dim_param="batch") if batch is None else output.dim.add(dim_value=batch)
    output.dim.add(dim_value=dimension)


@contextlib.contextmanager
def _nested_functions_inlined(tf: ModuleType) -> Iterator[None]:
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


@contextlib.contextmanager
def _whole_tracebacks() -> Iterator[None]:
    """Keep the frames of layer calls in tracebacks, which Keras removes."""
    config = require("keras", "tf").config
    before = config.is_traceback_filtering_enabled()
    config.disable_traceback_filtering()
    try:
        yield
    finally:
        if before:
            config.enable_traceback_filtering()


@contextlib.contextmanager
def _garbage_collected_often() -> Iterator[None]:
    """Free the copies of the graph, with all weights, that each of tf2onnx's optimizers leaves behind.

    The copies are in reference cycles. Python searches for cycles after a number of new objects, whatever their size,
    so the export of a ResNet50V2 took 7.8 GB instead of 3.2 GB. Objects that exist already are not searched, unless
    other code has frozen them.
    """
    thresholds, ours = gc.get_threshold(), gc.get_freeze_count() == 0
    if ours:
        gc.collect()
        gc.freeze()
    gc.collect()  # so that Python knows that few objects are left to search
    gc.set_threshold(500, 5, 2)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if ours:
            gc.unfreeze()


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """Silence loggers whose warnings either do not matter or are raised as our errors."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "tf2onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
