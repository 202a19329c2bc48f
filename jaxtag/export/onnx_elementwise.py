"""What the primitives of JAX become in ONNX: the table of them, and those for each element."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxtag.export.onnx_graph import Graph, UnsupportedError, Value, onnx_type

# (graph, the equation of the jaxpr, its operands) -> its results
Handler = Callable[[Graph, Any, list[Value]], list[Value]]
HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Callable[[Graph, Any, list[Value]], Value]], Any]:
    """Registers the handler of primitives of one result."""

    def register(function: Callable[[Graph, Any, list[Value]], Value]) -> Any:
        for name in names:
            HANDLERS[name] = lambda graph, equation, operands: [function(graph, equation, operands)]
        return function

    return register


def result_type(equation: Any) -> tuple[tuple[Any, ...], np.dtype]:
    """Shape and dtype of an equation's first result."""
    aval = equation.outvars[0].aval
    return tuple(aval.shape), np.dtype(aval.dtype)


# Primitive -> (the node, the same of numpy for constants).
_ELEMENTWISE: dict[str, tuple[str, Callable[..., Any] | None]] = {
    "abs": ("Abs", np.abs),
    "add": ("Add", np.add),
    "add_any": ("Add", np.add),
    "and": ("And", None),
    "ceil": ("Ceil", np.ceil),
    "cos": ("Cos", np.cos),
    "div": ("Div", None),
    "eq": ("Equal", np.equal),
    "erf": ("Erf", None),
    "exp": ("Exp", np.exp),
    "floor": ("Floor", np.floor),
    "ge": ("GreaterOrEqual", np.greater_equal),
    "gt": ("Greater", np.greater),
    "le": ("LessOrEqual", np.less_equal),
    "log": ("Log", np.log),
    "logistic": ("Sigmoid", None),
    "lt": ("Less", np.less),
    "max": ("Max", np.maximum),
    "min": ("Min", np.minimum),
    "mul": ("Mul", np.multiply),
    "neg": ("Neg", np.negative),
    "not": ("Not", None),
    "or": ("Or", None),
    "sign": ("Sign", np.sign),
    "sin": ("Sin", np.sin),
    "sqrt": ("Sqrt", np.sqrt),
    "sub": ("Sub", np.subtract),
    "tanh": ("Tanh", np.tanh),
}


def _elementwise(op: str, fold: Callable[..., Any] | None) -> Handler:
    def handle(graph: Graph, equation: Any, operands: list[Value]) -> list[Value]:
        shape, dtype = result_type(equation)
        return [apply(graph, op, operands, shape, dtype, fold)]

    return handle


def apply(
    graph: Graph,
    op: str,
    operands: list[Value],
    shape: tuple[Any, ...],
    dtype: Any,
    fold: Callable[..., Any] | None = None,
    **attributes: Any,
) -> Value:
    """An elementwise node; its result is small where all of its operands are."""
    if op in ("And", "Or", "Not") and np.dtype(dtype) != np.bool_:
        raise UnsupportedError(f"bits of {dtype}")
    arrays = [operand.array for operand in operands]
    is_small = any(o.is_small for o in operands) and all(_fits_small(o) for o in operands)
    if fold is not None and all(array is not None for array in arrays):
        array = np.asarray(fold(*arrays)).astype(dtype, copy=False)
        return Value(shape, np.dtype(dtype), array, is_small=array.shape != shape)
    return graph.add(op, operands, shape, dtype, is_small=is_small, **attributes)


def _fits_small(operand: Value) -> bool:
    """Whether an operand brings no size that a small one beside it has not."""
    return operand.is_small or all(size == 1 for size in operand.shape)


for _name, (_op, _fold) in _ELEMENTWISE.items():
    HANDLERS[_name] = _elementwise(_op, _fold)


@handles("square")
def _square(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    return apply(graph, "Mul", operands * 2, *result_type(equation), np.multiply)


@handles("integer_pow")
def _integer_pow(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    shape, dtype = result_type(equation)
    exponent = Value.constant(np.asarray(equation.params["y"], dtype))
    return apply(graph, "Pow", [*operands, exponent], shape, dtype, np.power)


@handles("pow")
def _pow(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    return apply(graph, "Pow", operands, *result_type(equation))


@handles("rsqrt")
def _rsqrt(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    shape, dtype = result_type(equation)
    root = apply(graph, "Sqrt", operands, shape, dtype, np.sqrt)
    return apply(graph, "Reciprocal", [root], shape, dtype, np.reciprocal)


@handles("ne")
def _not_equal(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    shape, dtype = result_type(equation)
    return apply(graph, "Not", [apply(graph, "Equal", operands, shape, dtype)], shape, dtype)


@handles("rem")
def _rem(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    return apply(graph, "Mod", operands, *result_type(equation), fmod=1)


@handles("clamp")
def _clamp(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    low, x, high = operands
    shape, dtype = result_type(equation)
    return apply(graph, "Min", [apply(graph, "Max", [x, low], shape, dtype), high], shape, dtype)


@handles("select_n")
def _select(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    which, *cases = operands
    if len(cases) != 2 or which.dtype != np.bool_:
        raise UnsupportedError("a choice of more than two")
    return apply(graph, "Where", [which, cases[1], cases[0]], *result_type(equation))


@handles("convert_element_type")
def _cast(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    (x,), (shape, dtype) = operands, result_type(equation)
    if x.dtype == dtype:
        return x
    fold = lambda array: array.astype(dtype)  # noqa: E731
    return apply(graph, "Cast", [x], shape, dtype, fold, to=onnx_type(dtype))


@handles(
    "copy", "name", "optimization_barrier", "reduce_precision", "sharding_constraint",
    "stop_gradient",
)  # fmt: skip
def _identity(graph: Graph, equation: Any, operands: list[Value]) -> Value:
    return operands[0]


def cast_to(graph: Graph, x: Value, dtype: np.dtype) -> Value:
    """The value in another dtype."""
    if x.dtype == dtype:
        return x
    return graph.add("Cast", [x], x.shape, dtype, to=onnx_type(dtype))


def fold(equation: Any, operands: list[Value]) -> list[Value] | None:
    """The results of an equation of constants alone; None where its shapes are symbolic."""
    sizes = [size for var in equation.outvars for size in var.aval.shape]
    if not all(isinstance(size, int) for size in sizes):
        return None
    if not operands or not all(isinstance(s, int) for o in operands for s in o.shape):
        return None
    arrays = [np.broadcast_to(o.array, o.shape) for o in operands if o.array is not None]
    with jax.default_device(jax.devices("cpu")[0]):
        results = equation.primitive.bind(*arrays, **equation.params)
    results = results if equation.primitive.multiple_results else [results]
    return [Value.constant(result) for result in results]
