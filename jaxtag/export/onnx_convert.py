"""Functions of JAX as models of ONNX.

A function is traced in the default form of each kernel (`kernels.implementations`) with symbolic
sizes, and each equation of its jaxpr becomes a few nodes. Weights are constants of the function;
what is computed of constants alone is computed here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend.core import Literal

from jaxtag.export import onnx_products, onnx_shapes  # noqa: F401  they register primitives
from jaxtag.export.onnx_elementwise import HANDLERS, fold
from jaxtag.export.onnx_graph import Graph, UnsupportedError, Value
from jaxtag.kernels.implementations import default_forms

# Parameter of an equation that holds the jaxpr that it calls.
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def to_onnx(
    function: Callable[..., Mapping[str, jax.Array]], inputs: Mapping[str, jax.ShapeDtypeStruct]
) -> onnx.ModelProto:
    """The model of a function of named arrays with named results.

    Args:
        function: called with `inputs` as keywords.
        inputs: name -> shape, whose sizes may be symbolic (`jax.export.symbolic_shape`), and dtype.

    Raises:
        UnsupportedError: it computes something that has no form in ONNX here.
    """
    names: list[str] = []

    def flat(*arrays: jax.Array) -> list[jax.Array]:
        outputs = function(**dict(zip(inputs, arrays, strict=True)))
        names[:] = list(outputs)
        return list(outputs.values())

    with default_forms():
        closed = jax.make_jaxpr(flat)(*inputs.values())
    graph = Graph(inputs)
    values = _convert(graph, closed.jaxpr, closed.consts, graph.inputs)
    return graph.to_model(dict(zip(names, values, strict=True)))


def _convert(graph: Graph, jaxpr: Any, constants: Any, operands: list[Value]) -> list[Value]:
    """Adds the nodes of a jaxpr; returns its results."""
    values: dict[Any, Value] = dict(zip(jaxpr.invars, operands, strict=True))
    for variable, constant in zip(jaxpr.constvars, constants, strict=True):
        values[variable] = constant if isinstance(constant, Value) else Value.constant(constant)

    def read(atom: Any) -> Value:
        if isinstance(atom, Literal):
            aval: Any = atom.aval
            return Value.constant(np.asarray(atom.val, aval.dtype))
        return values[atom]

    for equation in jaxpr.eqns:
        results = _convert_equation(graph, equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _convert_equation(graph: Graph, equation: Any, operands: list[Value]) -> list[Value]:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _unrolled(graph, equation, operands)
    called = next((params[key] for key in _CALLS if key in params), None)
    if called is not None and name not in ("while", "cond"):
        return _convert(graph, getattr(called, "jaxpr", called), _constants(called), operands)
    if all(operand.array is not None for operand in operands):
        results = fold(equation, operands)
        if results is not None:
            return results
    if name not in HANDLERS:
        raise UnsupportedError(name)
    return HANDLERS[name](graph, equation, operands)


def _constants(called: Any) -> Any:
    return getattr(called, "consts", ())


def _unrolled(graph: Graph, equation: Any, operands: list[Value]) -> list[Value]:
    """A scan over a known number of steps, one after the other."""
    params = equation.params
    num_consts, num_carry = params["num_consts"], params["num_carry"]
    consts, carry = operands[:num_consts], operands[num_consts : num_consts + num_carry]
    rows = operands[num_consts + num_carry :]
    steps = range(params["length"])
    outputs: list[list[Value]] = []
    for step in reversed(steps) if params["reverse"] else steps:
        xs = [_row(graph, value, step) for value in rows]
        closed = params["jaxpr"]
        results = _convert(graph, closed.jaxpr, closed.consts, [*consts, *carry, *xs])
        carry = results[:num_carry]
        outputs.append(results[num_carry:])
    if params["reverse"]:
        outputs.reverse()
    stacked = [_stack(graph, list(column)) for column in zip(*outputs, strict=True)]
    return [*carry, *stacked]


def _row(graph: Graph, value: Value, index: int) -> Value:
    value = graph.whole(value)
    if value.array is not None:
        return Value.constant(value.array[index])
    which = Value.constant(np.int64(index))
    return graph.add("Gather", [value, which], value.shape[1:], value.dtype, axis=0)


def _stack(graph: Graph, values: list[Value]) -> Value:
    rows = [graph.reshape(graph.whole(value), (1, *value.shape)) for value in values]
    shape = (len(rows), *rows[0].shape[1:])
    return graph.add("Concat", rows, shape, rows[0].dtype, axis=0)
