"""Primitives that move elements: shapes, slices, reading and writing at positions."""

from typing import Any

import numpy as np

from jaxtag.export.onnx_elementwise import HANDLERS, apply, cast_to, handles, result_type
from jaxtag.export.onnx_graph import Graph, UnsupportedError, Value, onnx_type


@handles("broadcast_in_dim")
def _broadcast(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    x, (shape, dtype) = operands[0], result_type(equation)
    small = [1] * len(shape)
    for axis, size in zip(equation.params["broadcast_dimensions"], x.shape, strict=True):
        small[axis] = size
    if x.is_small:  # the sizes of 1 that it has stay so
        x = graph.whole(x)
    x = graph.reshape(x, small) if tuple(small) != x.shape else x
    is_small = tuple(small) != shape
    return Value(shape, dtype, x.array, x.name, is_small)


@handles("reshape", "squeeze", "expand_dims")
def _reshape(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    return graph.reshape(operands[0], result_type(equation)[0])


@handles("transpose")
def _transpose(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    return graph.transpose(graph.whole(operands[0]), equation.params["permutation"])


@handles("concatenate")
def _concatenate(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    operands = [graph.whole(operand) for operand in operands]
    return graph.add("Concat", operands, *result_type(equation), axis=equation.params["dimension"])


@handles("stack")
def _stack(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    axis, (shape, dtype) = equation.params["axis"], result_type(equation)
    size = [*shape[:axis], 1, *shape[axis + 1 :]]
    rows = [graph.reshape(operand, size) for operand in operands]
    return graph.add("Concat", rows, shape, dtype, axis=axis)


@handles("slice")
def _slice(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    params, x = equation.params, graph.whole(operands[0])
    ends, strides = params["limit_indices"], params["strides"] or (1,) * len(x.shape)
    axes = [
        axis
        for axis, (start, end) in enumerate(zip(params["start_indices"], ends, strict=True))
        if start != 0 or end != x.shape[axis] or strides[axis] != 1
    ]
    starts = [params["start_indices"][axis] for axis in axes]
    return sliced(graph, x, axes, starts, [ends[a] for a in axes], [strides[a] for a in axes])


def sliced(
    graph: Graph, x: Value, axes: list[int], starts: list[Any], ends: list[Any], steps: list[int]
) -> Value:
    """`x` from `starts` to `ends` along some axes."""
    if not axes:
        return x
    shape = list(x.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        shape[axis] = (end - start + step - 1) // step if step != 1 else end - start
    bounds = [graph.shape(starts), graph.shape(ends)]
    rest = [Value.constant(np.array(values, np.int64)) for values in (axes, steps)]
    return graph.add("Slice", [x, *bounds, *rest], shape, x.dtype)


@handles("rev")
def _reverse(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    shape, dtype = result_type(equation)
    axes = list(equation.params["dimensions"])
    bounds = ([-1] * len(axes), [np.iinfo(np.int64).min] * len(axes), axes, [-1] * len(axes))
    vectors = [Value.constant(np.array(values, np.int64)) for values in bounds]
    return graph.add("Slice", [graph.whole(operands[0]), *vectors], shape, dtype)


@handles("pad")
def _pad(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    """A negative width, which cuts, is one of ONNX too."""
    x, fill = operands
    widths = equation.params["padding_config"]
    if any(inner for _, _, inner in widths):
        raise UnsupportedError("padding between elements")
    pads = graph.shape([low for low, _, _ in widths] + [high for _, high, _ in widths])
    return graph.add("Pad", [graph.whole(x), pads, fill], *result_type(equation))


@handles("iota")
def _iota(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    shape, dtype = result_type(equation)
    axis = equation.params["dimension"]
    small = [1] * len(shape)
    small[axis] = shape[axis]
    if isinstance(shape[axis], int):
        array = np.arange(shape[axis], dtype=dtype).reshape(small)
        return Value(shape, dtype, array, is_small=tuple(small) != shape)
    start, step = (Value.constant(np.int64(number)) for number in (0, 1))
    end = graph.reshape(graph.size(shape[axis]), ())
    numbers = graph.add("Range", [start, end, step], (shape[axis],), np.int64)
    cast = graph.add("Cast", [numbers], (shape[axis],), dtype, to=onnx_type(dtype))
    row = graph.reshape(cast, small)
    return Value(shape, dtype, name=row.name, is_small=tuple(small) != shape)


@handles("dim_as_value")
def _size(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    size = graph.reshape(graph.size(equation.params["dim"]), ())
    return cast_to(graph, size, result_type(equation)[1])


def _split(graph: Graph, equation: Any, operands: list[Value]) -> list[Value]:
    axis, start, parts = equation.params["axis"], 0, []
    x = graph.whole(operands[0])
    for size in equation.params["sizes"]:
        parts.append(sliced(graph, x, [axis], [start], [start + size], [1]))
        start += size
    return parts


HANDLERS["split"] = _split


@handles("gather")
def _gather(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    """One window of an array, or its slices along one axis: `table[:, indices]`, also of a batch
    each its own (`take_along_axis`)."""
    table, indices = map(graph.whole, operands)
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape, _ = result_type(equation)
    axes, rank = numbers.start_index_map, len(indices.shape) - 1
    if rank == 0 and indices.array is not None and not numbers.operand_batching_dims:
        starts = indices.array.tolist()
        ends = [start + sizes[axis] for start, axis in zip(starts, axes, strict=True)]
        window = sliced(graph, table, list(axes), starts, ends, [1] * len(axes))
        return graph.reshape(window, shape)
    batch = len(numbers.operand_batching_dims)
    first = tuple(range(batch))
    is_of_a_batch = (
        first == numbers.operand_batching_dims == numbers.start_indices_batching_dims
        and axes == numbers.collapsed_slice_dims == (batch,)
        and sizes[batch + 1 :] == table.shape[batch + 1 :]
        and numbers.offset_dims == tuple(range(rank, len(shape)))
    )
    if batch and is_of_a_batch:
        indices = cast_to(graph, indices, np.dtype(np.int64))
        return graph.add("GatherND", [table, indices], shape, table.dtype, batch_dims=batch)
    others = tuple(a for a in range(len(table.shape)) if a not in axes)
    is_of_each_element = (
        others == numbers.operand_batching_dims == numbers.start_indices_batching_dims
        and axes == numbers.collapsed_slice_dims
        and len(axes) == 1
        and rank == len(table.shape)
    )
    if batch and is_of_each_element:
        rows = graph.reshape(indices, indices.shape[:-1])
        return graph.add("GatherElements", [table, rows], shape, table.dtype, axis=axes[0])
    is_lookup = (
        len(axes) == 1
        and axes == numbers.collapsed_slice_dims
        and not numbers.operand_batching_dims
        and all(size == table.shape[a] for a, size in enumerate(sizes) if a not in axes)
        and numbers.offset_dims
        == tuple(a for a in range(len(shape)) if not axes[0] <= a < axes[0] + rank)
    )
    if not is_lookup:
        raise UnsupportedError("gather along several axes")
    rows = graph.reshape(indices, indices.shape[:-1])
    return graph.add("Gather", [table, rows], shape, table.dtype, axis=axes[0])


@handles("dynamic_slice")
def _dynamic_slice(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    x, *starts = operands
    sizes = equation.params["slice_sizes"]
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if size != x.shape[axis]:
            begin = _as_vector(graph, start)
            end = graph.add("Add", [begin, graph.size(size)], (1,), np.int64)
            shape = [*x.shape[:axis], size, *x.shape[axis + 1 :]]
            axes = Value.constant(np.array([axis], np.int64))
            x = graph.add("Slice", [graph.whole(x), begin, end, axes], shape, x.dtype)
    return x


@handles("dynamic_update_slice")
def _dynamic_update_slice(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    """What is before the update, the update, and what is behind it, along one axis."""
    x, update, *starts = operands
    axes = [a for a, size in enumerate(update.shape) if size != x.shape[a]]
    if not axes:
        return update
    if len(axes) > 1:
        raise UnsupportedError("an update along several axes")
    (axis,) = axes
    x, zero = graph.whole(x), graph.size(0)
    begin = _as_vector(graph, starts[axis])
    behind = graph.add("Add", [begin, graph.size(update.shape[axis])], (1,), np.int64)
    along, end = graph.size(axis), graph.size(x.shape[axis])
    parts = [
        graph.add("Slice", [x, zero, begin, along], x.shape, x.dtype),
        graph.whole(update),
        graph.add("Slice", [x, behind, end, along], x.shape, x.dtype),
    ]
    return graph.add("Concat", parts, x.shape, x.dtype, axis=axis)


def _as_vector(graph: Graph, scalar: Value) -> Value:
    """An integer [] as int64 [1]."""
    wide = apply(
        graph, "Cast", [scalar], (), np.int64, lambda a: a.astype(np.int64), to=onnx_type(np.int64)
    )
    return graph.reshape(wide, (1,))
