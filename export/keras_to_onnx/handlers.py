"""Write ONNX for the TensorFlow operations that tf2onnx lacks or converts with another meaning.

Each handler replaces one operation of the graph. Integer division and remainder follow Python, where ONNX rounds to
zero. One-hot vectors of numbers outside the range are zeros, where ONNX counts from the end. Nor does it count ids from
the end of a table more than Keras does. Resizing is to a size, not by a scale, and nearest resizing computes its own
indices, because the Resize of onnxruntime rounds them differently.
Convolutions in three dimensions keep their groups, and transposed ones the bias of every pixel. Operations that ONNX
lacks (erfc, log1p, expm1, xlogy, the sign bit, truncated remainders) are composed of operations that it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from keras_tfcl.export.runtime.requirements import require

if TYPE_CHECKING:
    import tf2onnx.graph

_WHERE_TYPES = {"bool": "uint8", "int8": "int32", "int16": "int32", "uint16": "int32", "uint32": "int64"}
_SIGN_BIT = np.iinfo(np.int32).min


class Writer:
    """Replaces one TensorFlow operation of the graph by ONNX operations."""

    def __init__(self, graph: tf2onnx.graph.Graph, node: tf2onnx.graph.Node) -> None:
        self.kind, self.inputs, self.dtype = node.type, list(node.input), graph.get_dtype(node.output[0])
        self._graph, self._name, self._output = graph, node.name, node.output[0]
        self._shape = graph.get_shape(node.output[0])
        graph.remove_node(node.name)

    def dtype_of(self, name: str) -> np.dtype:
        """The NumPy type of a tensor."""
        return np.dtype(require("tf2onnx.utils", "export").map_onnx_to_numpy_type(self._graph.get_dtype(name)))

    def shape_of(self, name: str) -> list[int] | None:
        """The shape of a tensor, -1 where it is free; None where not even its rank is known."""
        return self._graph.get_shape(name)

    def producer(self, name: str) -> tf2onnx.graph.Node | None:
        """The node that computes a tensor; None for an input."""
        return self._graph.get_node_by_output(name)

    def value_of(self, name: str) -> np.ndarray | None:
        """The value of a constant; None for any other tensor."""
        node = self.producer(name)
        return np.asarray(node.get_tensor_value(as_list=False)) if node is not None and node.is_const() else None

    def constant(self, value: ArrayLike, dtype: DTypeLike) -> str:
        """Add a constant and return its name."""
        return self._graph.make_const(self._new_name("constant"), np.asarray(value, dtype)).output[0]

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add an operation and return the name of its output."""
        return self._graph.make_node(kind, list(inputs), name=self._new_name(kind), attr=attributes).output[0]

    def cast(self, name: str, dtype: DTypeLike) -> str:
        """Convert a tensor to a NumPy type."""
        to = require("onnx.helper", "export").np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.op("Cast", name, to=to)

    def scan(self, kind: str, initial: str, items: str, axis: int, exclusive: bool, reverse: bool) -> str:
        """Accumulate the slices of `items` along `axis` with the operation `kind`, starting from `initial`."""
        dtype, shape = self._graph.get_dtype(items), self._graph.get_shape(items)
        slice_shape = [size for position, size in enumerate(shape) if position != axis]
        state, item, total, result = (self._new_name(name) for name in ("state", "item", "total", "result"))
        body = self._graph.create_new_graph_with_same_config()
        body.parent_graph = self._graph
        for name in (state, item):
            body.add_graph_input(name, dtype, slice_shape)
        known = {"dtypes": [dtype], "shapes": [slice_shape]}
        body.make_node(kind, [state, item], outputs=[total], **known)
        body.make_node("Identity", [state if exclusive else total], outputs=[result], **known)
        for name in (total, result):
            body.add_graph_output(name, dtype, slice_shape)
        attributes = {"scan_input_axes": [axis], "scan_output_axes": [axis], "num_scan_inputs": 1}
        directions = {"scan_input_directions": [int(reverse)], "scan_output_directions": [int(reverse)]}
        scan = self._graph.make_node(
            "Scan",
            [initial, items],
            name=self._new_name("Scan"),
            attr=attributes | directions,
            output_count=2,
            branches={"body": body},
            dtypes=[dtype, dtype],
            shapes=[slice_shape, shape],
        )
        return scan.output[1]

    def finish(self, kind: str, *inputs: str, **attributes: object) -> None:
        """Add the operation whose output replaces the original output."""
        self._graph.make_node(
            kind,
            list(inputs),
            name=self._name,
            attr=attributes,
            outputs=[self._output],
            dtypes=[self.dtype],
            shapes=[self._shape],
        )

    def finish_cast(self, name: str) -> None:
        """Convert a tensor to the dtype of the original output, and replace that output by it."""
        self.finish("Cast", name, to=self.dtype)

    def _new_name(self, kind: str) -> str:
        return require("tf2onnx.utils", "export").make_name(f"{self._name}/{kind}")


def _erfc(write: Writer) -> None:
    """`1 - erf(x)`."""
    (x,) = write.inputs
    write.finish("Sub", write.constant(1, write.dtype_of(x)), write.op("Erf", x))


def _log1p(write: Writer) -> None:
    """`log(u) · x / (u - 1)` with `u = 1 + x`, in which the rounding of u cancels (Kahan); x itself where u is 1."""
    (x,) = write.inputs
    one = write.constant(1, write.dtype_of(x))
    u = write.op("Add", x, one)
    rounded = write.op("Sub", u, one)
    exact = write.op("Equal", rounded, x)  # also at infinity
    correction = write.op("Where", exact, one, write.op("Div", x, rounded))
    tiny = write.op("Equal", u, one)
    write.finish("Where", tiny, x, write.op("Mul", write.op("Log", u), correction))


def _expm1(write: Writer) -> None:
    """`tanh(x / 2) · (exp(x) + 1)`, which loses no digits near 0."""
    (x,) = write.inputs
    half, one = (write.constant(value, write.dtype_of(x)) for value in (0.5, 1))
    write.finish("Mul", write.op("Tanh", write.op("Mul", x, half)), write.op("Add", write.op("Exp", x), one))


def _xlogy(write: Writer) -> None:
    """`x · log(y)`, and 0 wherever x is 0."""
    x, y = write.inputs
    zero = write.constant(0, write.dtype_of(x))
    write.finish("Where", write.op("Equal", x, zero), zero, write.op("Mul", x, write.op("Log", y)))


def _bitwise_and(write: Writer) -> None:
    """The sign bit of a float32, by which `keras.ops.argmax` tells -0.0 from 0.0. 1 / x shows it where x is 0."""
    bits, mask = write.inputs
    source, value = write.producer(bits), write.value_of(mask)
    if source is None or source.type != "Bitcast" or value is None or np.any(value != _SIGN_BIT):
        write.finish("BitwiseAnd", bits, mask)  # the check of operations refuses it if the opset lacks it
        return
    x = source.input[0]
    zero = write.constant(0, np.float32)
    negative_zero = write.op("And", write.op("Equal", x, zero), write.op("Less", write.op("Reciprocal", x), zero))
    negative = write.op("Or", write.op("Less", x, zero), negative_zero)
    write.finish("Where", negative, write.constant(_SIGN_BIT, np.int32), write.constant(0, np.int32))


def _floor_mod(write: Writer) -> None:
    """The remainder with the sign of the divisor, as in Python."""
    x, y = write.inputs
    if write.dtype_of(x).kind != "f":
        write.finish("Mod", x, _without_zeros(write, y), fmod=0)
        return
    zero = write.constant(0, write.dtype_of(x))
    rest = write.op("Mod", x, y, fmod=1)
    crossed = write.op("Xor", write.op("Less", rest, zero), write.op("Less", y, zero))
    wrong = write.op("And", crossed, write.op("Not", write.op("Equal", rest, zero)))
    write.finish("Where", wrong, write.op("Add", rest, y), rest)


def _truncate_mod(write: Writer) -> None:
    """The remainder with the sign of the dividend, as in C."""
    x, y = write.inputs
    write.finish("Mod", x, _without_zeros(write, y) if write.dtype_of(x).kind != "f" else y, fmod=1)


def _floor_div(write: Writer) -> None:
    """The quotient rounded down, as in Python; for integers by one less than ONNX's where that rounded up."""
    x, y = write.inputs
    if write.dtype_of(x).kind == "f":
        write.finish("Floor", write.op("Div", x, y))
        return
    y = _without_zeros(write, y)
    unsigned = write.dtype_of(x).kind == "u"
    wide = write.dtype_of(x) if write.dtype_of(x).itemsize > 2 else np.int32
    x, y = write.cast(x, wide), write.cast(y, wide)
    quotient = write.op("Div", x, y)
    if unsigned:
        write.finish_cast(quotient)
        return
    truncated_rest, rest = write.op("Mod", x, y, fmod=1), write.op("Mod", x, y, fmod=0)
    rounded_up = write.op("Not", write.op("Equal", truncated_rest, rest))
    write.finish_cast(write.op("Sub", quotient, write.cast(rounded_up, wide)))


def _without_zeros(write: Writer, divisor: str) -> str:
    """Replace 0 by 1 in a variable divisor, because an integer division by 0 would end the serving process."""
    value = write.value_of(divisor)
    if value is not None and np.all(value != 0):
        return divisor
    zero, one = (write.constant(number, write.dtype_of(divisor)) for number in (0, 1))
    return write.op("Where", write.op("Equal", divisor, zero), one, divisor)


def _one_hot(write: Writer, axis: int) -> None:
    """Compare each index with 0, 1, ..., depth - 1, so that others give zeros."""
    indices, depth, on, off = write.inputs
    rank = len(write.shape_of(indices))  # type: ignore[arg-type]  # without a rank there is no way to write it
    axis = rank if axis < 0 else axis
    index = write.cast(indices, np.int64)
    start, step = write.constant(0, np.int64), write.constant(1, np.int64)
    classes = write.op("Range", start, write.cast(depth, np.int64), step)
    trailing = write.constant([-1] + [1] * (rank - axis), np.int64)  # the classes, then the axes after them
    hot = write.op(
        "Equal", write.op("Unsqueeze", index, write.constant([axis], np.int64)), write.op("Reshape", classes, trailing)
    )
    if write.value_of(on) == 1 and write.value_of(off) == 0:
        write.finish_cast(hot)
    else:
        write.finish("Where", hot, on, off)


def _select(write: Writer) -> None:
    """Write `Where`. tf2onnx multiplies by 0 and 1 instead, so that infinity or NaN in the other branch gives NaN."""
    condition, x, y = write.inputs
    rank, condition_rank = (len(write.shape_of(name) or ()) for name in (x, condition))
    if write.kind == "Select" and condition_rank == 1 < rank:  # the older operation selects whole rows
        condition = write.op("Reshape", condition, write.constant([-1] + [1] * (rank - 1), np.int64))
    wide = _WHERE_TYPES.get(write.dtype_of(x).name)
    if wide:
        write.finish_cast(write.op("Where", condition, write.cast(x, wide), write.cast(y, wide)))
    else:
        write.finish("Where", condition, x, y)


def _cumprod(write: Writer, exclusive: bool, reverse: bool) -> None:
    """Multiply slice after slice; `exclusive` gives the product before its own slice."""
    x, axis = write.inputs[0], int(write.value_of(write.inputs[1]))  # type: ignore[arg-type]  # always a constant
    rank = len(write.shape_of(x))  # type: ignore[arg-type]  # without a rank there is no way to write it
    axis %= rank
    others = write.constant([other for other in range(rank) if other != axis], np.int64)
    slice_shape = write.op("Gather", write.cast(write.op("Shape", x), np.int64), others)
    ones = write.op("Expand", write.constant(1, write.dtype_of(x)), slice_shape)
    write.finish("Identity", write.scan("Mul", ones, x, axis, exclusive, reverse))


def _resize(write: Writer, align_corners: bool, half_pixel_centers: bool) -> None:
    """Resize to a size. tf2onnx gives a scale where it can, and 13 / 7 of 7 pixels are 12 or 13 after rounding."""
    images, size = write.inputs
    cubic = {"cubic_coeff_a": -0.5, "exclude_outside": 1} if write.kind == "ResizeBicubic" else {}
    corners = "align_corners" if align_corners else "half_pixel" if half_pixel_centers else "asymmetric"
    images = write.op("Transpose", images, perm=[0, 3, 1, 2])
    ends = (write.constant([position], np.int64) for position in (0, 2))
    sizes = write.op("Concat", write.op("Slice", write.op("Shape", images), *ends), write.cast(size, np.int64), axis=0)
    resized = write.op(
        "Resize",
        *(images, "", "", sizes),
        mode="cubic" if cubic else "linear",
        coordinate_transformation_mode=corners,
        **cubic,
    )
    write.finish("Transpose", resized, perm=[0, 2, 3, 1])


def _resize_nearest(write: Writer, align_corners: bool, half_pixel_centers: bool) -> None:
    """Gather the rows and columns that TensorFlow chooses, computing their indices in float32 as TensorFlow does."""
    images, size = write.inputs
    sizes = write.cast(size, np.int64)
    shape = write.cast(write.op("Shape", images), np.int64)
    for axis in (1, 2):
        old = write.op("Gather", shape, write.constant(axis, np.int64))
        new = write.op("Gather", sizes, write.constant(axis - 1, np.int64))
        images = write.op("Gather", images, _nearest(write, old, new, align_corners, half_pixel_centers), axis=axis)
    write.finish("Identity", images)


def _nearest(write: Writer, old: str, new: str, align_corners: bool, half_pixel: bool) -> str:
    """Return the index of the old pixel for each new pixel."""
    one = write.constant(1, np.int64)
    last = write.op("Sub", old, one)
    count = write.cast(write.op("Range", write.constant(0, np.int64), new, one), np.float32)
    scale = write.op("Div", write.cast(old, np.float32), write.cast(new, np.float32))
    if align_corners:  # where there is more than one new pixel
        steps = write.op("Sub", new, one)
        aligned = write.op("Div", write.cast(last, np.float32), write.cast(steps, np.float32))
        scale = write.op("Where", write.op("Equal", steps, write.constant(0, np.int64)), scale, aligned)
    if half_pixel:
        count = write.op("Add", count, write.constant(0.5, np.float32))
    position = write.op("Mul", count, scale)
    if align_corners:  # rounds half away from zero, as `roundf`
        position = write.op("Add", position, write.constant(0.5, np.float32))
    return write.op("Min", write.cast(write.op("Floor", position), np.int64), last)


def _convolve_transposed(graph: tf2onnx.graph.Graph, node: tf2onnx.graph.Node, name: str, args: list[object]) -> None:
    """Extend a kernel by zeros where the result reaches beyond it: tf2onnx pads the result, which lacks the bias there.

    A result of free size is taken to be `stride` times as long, as in a Keras layer.
    """
    kernel, x = node.input[1], graph.get_node_by_output(node.input[1])
    first = 1 if node.get_attr_value("data_format", b"NHWC").endswith(b"C") else 2
    values = x.get_tensor_value(as_list=False) if x is not None and x.is_const() else None
    if values is not None:
        sizes = [graph.get_shape(output)[first : first + values.ndim - 2] for output in (node.output[0], node.input[2])]
        missing = []
        for axis, (long, short) in enumerate(zip(*sizes, strict=True)):
            stride, dilation = (node.get_attr_value(key, [1] * 5)[first + axis] for key in ("strides", "dilations"))
            reach = dilation * (values.shape[axis] - 1) + 1
            missing.append(max(0, stride - reach if -1 in (long, short) else long - stride * (short - 1) - reach))
        if any(missing):
            padded = np.pad(values, [*((0, size) for size in missing), (0, 0), (0, 0)])
            constant = graph.make_const(require("tf2onnx.utils", "export").make_name(name), padded)
            graph.replace_input(node, kernel, constant.output[0], 1)
    require("tf2onnx.onnx_opset.nn", "export").ConvTranspose.version_1(graph, node)


def _convolve_volumes(graph: tf2onnx.graph.Graph, node: tf2onnx.graph.Node, name: str, args: list[object]) -> None:
    """Set the number of groups, which tf2onnx takes to be 1 in three dimensions."""
    axis = -1 if node.get_attr_value("data_format", b"NDHWC").endswith(b"C") else 1
    groups = graph.get_shape(node.input[0])[axis] // graph.get_shape(node.input[1])[-2]
    require("tf2onnx.onnx_opset.nn", "export").ConvOp.any_version(graph.opset, graph, node)
    node.set_attr("group", groups)


def _gather(graph: tf2onnx.graph.Graph, node: tf2onnx.graph.Node, name: str, args: list[object]) -> None:
    """Leave constant ids, and rows that are chosen for each sample, to tf2onnx."""
    sizes, (_, ids, axis) = graph.get_shape(node.input[0]), node.inputs
    if not sizes or ids.is_const() or not axis.is_const() or node.get_attr_value("batch_dims", 0):
        require("tf2onnx.onnx_opset.tensor", "export").GatherV2.version_12(graph, node)
    else:
        _gather_rows(Writer(graph, node), sizes)


def _gather_rows(write: Writer, sizes: list[int]) -> None:
    """Refuse the ids that TensorFlow refuses, where ONNX would count from the end of the table.

    `keras.ops.take` adds the number of rows N to negative ids. ONNX gets the ids without it, or it would count once
    more: -N - 1 would be the last row. Other negative ids become N, which onnxruntime refuses.
    """
    table, ids, axis = write.inputs
    number = int(write.value_of(axis))  # type: ignore[arg-type]  # always a constant
    rows, chosen = sizes[number], write.producer(ids)
    if rows > 0 and chosen is not None and chosen.type in ("SelectV2", "Where") and _adds(write, chosen, rows):
        ids = chosen.input[2]
    elif rows > 0:
        zero, beyond = (write.constant(value, write.dtype_of(ids)) for value in (0, rows))
        ids = write.op("Where", write.op("Less", ids, zero), beyond, ids)
    write.finish("Gather", table, ids, axis=number)


def _adds(write: Writer, chosen: tf2onnx.graph.Node, rows: int) -> bool:
    """Whether `Where(condition, ids + rows, ids)` is what a node computes."""
    _, counted, ids = chosen.input
    added = write.producer(counted)
    if added is None or added.type not in ("Add", "AddV2") or ids not in added.input:
        return False
    values = [write.value_of(name) for name in added.input]
    return any(value is not None and np.array_equal(value, rows) for value in values)


def custom_op_handlers() -> dict[str, tuple[Callable[..., None], list[object]]]:
    """Return the handlers in the form that `tf2onnx.convert` takes."""

    def handler(write_op: Callable[..., None], **defaults: bool | int) -> tuple[Callable[..., None], list[object]]:
        """Wrap a function of a writer and of attributes of the operation, given with their defaults."""

        def handle(graph: tf2onnx.graph.Graph, node: tf2onnx.graph.Node, name: str, args: list[object]) -> None:
            attributes = {key: type(value)(node.get_attr_value(key, value)) for key, value in defaults.items()}
            write_op(Writer(graph, node), **attributes)

        return handle, []

    return {
        "BitwiseAnd": handler(_bitwise_and),
        "Conv2DBackpropInput": (_convolve_transposed, []),
        "Conv3D": (_convolve_volumes, []),
        "Conv3DBackpropInputV2": (_convolve_transposed, []),
        "Cumprod": handler(_cumprod, exclusive=False, reverse=False),
        "Erfc": handler(_erfc),
        "Expm1": handler(_expm1),
        "FloorDiv": handler(_floor_div),
        "FloorMod": handler(_floor_mod),
        "GatherV2": (_gather, []),
        "Log1p": handler(_log1p),
        "OneHot": handler(_one_hot, axis=-1),
        "ResizeBicubic": handler(_resize, align_corners=False, half_pixel_centers=False),
        "ResizeBilinear": handler(_resize, align_corners=False, half_pixel_centers=False),
        "ResizeNearestNeighbor": handler(_resize_nearest, align_corners=False, half_pixel_centers=False),
        "Select": handler(_select),
        "SelectV2": handler(_select),
        "TruncateMod": handler(_truncate_mod),
        "Xlogy": handler(_xlogy),
    }
