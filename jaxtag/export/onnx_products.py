"""Primitives that sum: reductions, products of matrices, convolutions and pooling."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxtag.export.onnx_elementwise import cast_to, handles, result_type
from jaxtag.export.onnx_graph import Graph, UnsupportedError, Value, onnx_type


def _reduction(op: str) -> Callable[[Graph, Any, list[Value]], Value]:
    def handle(graph: Graph, equation: Any, operands: list[Value]) -> Value:
        x, (shape, dtype) = graph.whole(operands[0]), result_type(equation)
        axes = Value.constant(np.array(equation.params["axes"], np.int64))
        return graph.add(op, [x, axes], shape, dtype, keepdims=0)

    return handle


for _name, _op in (("sum", "Sum"), ("max", "Max"), ("min", "Min"), ("prod", "Prod")):
    handles(f"reduce_{_name}")(_reduction(f"Reduce{_op}"))


def _logical(op: str) -> Callable[[Graph, Any, list[Value]], Value]:
    """A reduction of booleans, which ONNX has of numbers alone."""

    def handle(graph: Graph, equation: Any, operands: list[Value]) -> Value:
        numbers = [cast_to(graph, graph.whole(operands[0]), np.dtype(np.int32))]
        axes = Value.constant(np.array(equation.params["axes"], np.int64))
        shape, dtype = result_type(equation)
        return cast_to(graph, graph.add(op, [*numbers, axes], shape, np.int32, keepdims=0), dtype)

    return handle


handles("reduce_or")(_logical("ReduceMax"))
handles("reduce_and")(_logical("ReduceMin"))


@handles("argmax")
def _argmax(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    shape, dtype = result_type(equation)
    (axis,) = equation.params["axes"]
    x = graph.whole(operands[0])
    if x.dtype == np.bool_:
        x = cast_to(graph, x, np.dtype(np.int32))
    index = graph.add("ArgMax", [x], shape, np.int64, axis=axis, keepdims=0)
    return graph.add("Cast", [index], shape, dtype, to=onnx_type(dtype))


@handles("cumsum")
def _cumsum(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    axis = Value.constant(np.int64(equation.params["axis"]))
    reverse = int(equation.params["reverse"])
    return graph.add(
        "CumSum", [graph.whole(operands[0]), axis], *result_type(equation), reverse=reverse
    )


@handles("dot_general")
def _dot_general(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    """A MatMul of [*batch, M, K] and [*batch, K, N]."""
    ((left_sum, right_sum), (left_batch, right_batch)) = equation.params["dimension_numbers"]
    shape, dtype = result_type(equation)
    left, right = map(graph.whole, operands)
    left_free = _others(left, left_sum, left_batch)
    right_free = _others(right, right_sum, right_batch)
    batch = [left.shape[axis] for axis in left_batch]
    rows = [left.shape[axis] for axis in left_free]
    columns = [right.shape[axis] for axis in right_free]
    terms = [left.shape[axis] for axis in left_sum]
    left = graph.transpose(left, [*left_batch, *left_free, *left_sum])
    right = graph.transpose(right, [*right_batch, *right_sum, *right_free])
    # Without a batch ONNX takes any number of rows' axes beside a matrix.
    rows_in_place = rows if not batch and rows else [_product(rows)]
    left = graph.reshape(left, [*batch, *rows_in_place, _product(terms)])
    right = graph.reshape(right, [*batch, _product(terms), _product(columns)])
    left, right = (cast_to(graph, x, dtype) for x in (left, right))
    product = [*batch, *rows_in_place, _product(columns)]
    return graph.reshape(graph.add("MatMul", [left, right], product, dtype), shape)


def _others(value: Value, *axes: tuple[int, ...]) -> list[int]:
    return [axis for axis in range(len(value.shape)) if all(axis not in group for group in axes)]


def _product(sizes: list[Any]) -> Any:
    product: Any = 1
    for size in sizes:
        product = size * product
    return product


@handles("conv_general_dilated")
def _convolution(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    params, (shape, dtype) = equation.params, result_type(equation)
    numbers = params["dimension_numbers"]
    if params["batch_group_count"] != 1 or any(d != 1 for d in params["lhs_dilation"]):
        raise UnsupportedError("a transposed convolution")
    x = graph.transpose(graph.whole(operands[0]), numbers.lhs_spec)
    kernel = graph.transpose(graph.whole(operands[1]), numbers.rhs_spec)
    y = graph.add(
        "Conv",
        [x, kernel],
        [shape[axis] for axis in numbers.out_spec],
        dtype,
        strides=list(params["window_strides"]),
        pads=[pair[end] for end in (0, 1) for pair in params["padding"]],
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
        kernel_shape=list(kernel.shape[2:]),
    )
    return graph.transpose(y, np.argsort(numbers.out_spec).tolist())


@handles("reduce_window_max")
def _max_pool(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    """A MaxPool over the two axes that have windows."""
    params, (shape, dtype) = equation.params, result_type(equation)
    windows, strides = params["window_dimensions"], params["window_strides"]
    dilations = (*params["base_dilation"], *params["window_dilation"])
    axes = [a for a in range(len(shape)) if windows[a] > 1 or strides[a] > 1]
    if len(shape) != 4 or len(axes) > 2 or any(d != 1 for d in dilations):
        raise UnsupportedError("a pooling that is not over two axes of images")
    axes = sorted({*axes, *[a for a in (1, 2, 3) if a not in axes][: 2 - len(axes)]})
    order = [*_others(operands[0], tuple(axes)), *axes]
    x = graph.transpose(graph.whole(operands[0]), order)
    y = graph.add(
        "MaxPool",
        [x],
        [shape[axis] for axis in order],
        dtype,
        kernel_shape=[windows[axis] for axis in axes],
        strides=[strides[axis] for axis in axes],
        pads=[params["padding"][axis][end] for end in (0, 1) for axis in axes],
    )
    return graph.transpose(y, np.argsort(order).tolist())
