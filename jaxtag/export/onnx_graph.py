"""ONNX graphs under construction: values, constants, nodes, and shapes with symbolic sizes."""

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from jaxtag.errors import UserError

OPSET = 18  # onnxruntime 1.14 and later
_IR_VERSION = 9
_REST = -1  # in the shape of a Reshape: what the other sizes leave
_SHARED_SIZE = 64  # up to which constants of equal elements are one


class UnsupportedError(UserError):
    """A model computes what has no form in ONNX here.

    Args:
        what: such as "a transposed convolution".
    """

    def __init__(self, what: str):
        super().__init__(
            f"this model cannot leave as ONNX: {what} has no form there; --format=stablehlo takes "
            "any model"
        )


@dataclasses.dataclass(frozen=True)
class Value:
    """An array: a constant, or the output of a node.

    Attributes:
        shape: sizes, each an integer or a symbolic expression of `jax.export`.
        dtype: of numpy.
        array: of a constant.
        name: of an output in the graph.
        is_small: `array` or `name` has sizes of 1 where `shape` has more, as ONNX broadcasts.
    """

    shape: tuple[Any, ...]
    dtype: np.dtype
    array: np.ndarray | None = None
    name: str = ""
    is_small: bool = False

    @classmethod
    def constant(cls, array: Any) -> "Value":
        array = np.asarray(array)
        return cls(array.shape, array.dtype, array)


class Graph:
    """Nodes in the order of their computation.

    Args:
        inputs: the shapes and dtypes of the inputs (`jax.ShapeDtypeStruct`) by name.
    """

    def __init__(self, inputs: Mapping[str, Any]):
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._constants: dict[Any, tuple[str, np.ndarray]] = {}
        self._sizes: dict[str, Value] = {}
        self._inputs = [_value_info(name, s.shape, s.dtype) for name, s in inputs.items()]
        self.inputs = [
            Value(tuple(s.shape), np.dtype(s.dtype), name=name) for name, s in inputs.items()
        ]

    def add(
        self,
        op: str,
        operands: Sequence[Value | None],
        shape: Sequence[Any],
        dtype: Any,
        *,
        is_small: bool = False,
        **attributes: Any,
    ) -> Value:
        """Adds a node of one output; None is an operand that is left out."""
        names = ["" if operand is None else self.name_of(operand) for operand in operands]
        output = f"{op.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, names, [output], name=output, **attributes))
        return Value(tuple(shape), np.dtype(dtype), name=output, is_small=is_small)

    def name_of(self, value: Value) -> str:
        """The name of a value among a node's operands; a constant becomes an initializer."""
        if value.array is None:
            return value.name
        array: np.ndarray = value.array
        is_shared = array.size <= _SHARED_SIZE
        key = (array.dtype, array.shape, array.tobytes() if is_shared else id(array))
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
            self._constants[key] = name, array  # which keeps its identity
        return self._constants[key][0]

    def whole(self, value: Value) -> Value:
        """The value in its whole shape, where ONNX does not broadcast by itself."""
        if not value.is_small:
            return value
        if value.array is not None and all(isinstance(size, int) for size in value.shape):
            return Value.constant(np.broadcast_to(value.array, value.shape))
        return self.add("Expand", [value, self.shape(value.shape)], value.shape, value.dtype)

    def reshape(self, value: Value, shape: Sequence[Any]) -> Value:
        """`value` in another shape with as many elements."""
        if value.array is not None and not value.is_small and _is_static(shape):
            return Value.constant(value.array.reshape(shape))
        value = self.whole(value)
        symbolic = [size for size in shape if not isinstance(size, int)]
        if len(symbolic) == 1 and 0 not in shape:
            sizes = [size if isinstance(size, int) else _REST for size in shape]
            target = Value.constant(np.array(sizes, np.int64))
        else:
            target = self.shape(shape)
        return self.add("Reshape", [value, target], shape, value.dtype)

    def transpose(self, value: Value, axes: Sequence[int]) -> Value:
        """`value` with its axes in another order."""
        if list(axes) == list(range(len(axes))):
            return value
        shape = [value.shape[axis] for axis in axes]
        if value.array is not None and not value.is_small:
            return Value.constant(value.array.transpose(axes))
        value = self.whole(value)
        return self.add("Transpose", [value], shape, value.dtype, perm=list(axes))

    def shape(self, shape: Sequence[Any]) -> Value:
        """A vector of sizes, int64."""
        if _is_static(shape):
            return Value.constant(np.array(shape, np.int64))
        sizes = [self.size(size) for size in shape]
        return self.add("Concat", sizes, (len(sizes),), np.int64, axis=0)

    def size(self, size: Any) -> Value:
        """An integer or symbolic size as a vector of one element, int64."""
        if isinstance(size, int):
            return Value.constant(np.array([size], np.int64))
        if str(size) not in self._sizes:
            text = str(size).replace("^", "**")
            self._sizes[str(size)] = self._evaluate(ast.parse(text, mode="eval").body)
        return self._sizes[str(size)]

    def _evaluate(self, expression: ast.expr) -> Value:
        """The value of a symbolic size, which prints as a Python expression of its variables."""
        match expression:
            case ast.Constant(value=number):
                return self.size(number)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._operation("Mul", ast.Constant(-1), operand)
            case ast.Name(id=name):
                return self._variable(name)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
                return self._operation(_OPERATORS[type(operator)], left, right)
            case ast.Call(func=ast.Name(id=name), args=[left, right]) if name in _FUNCTIONS:
                return self._operation(_FUNCTIONS[name], left, right)
        raise UnsupportedError(f"the size {ast.unparse(expression)}")

    def _operation(self, op: str, *expressions: ast.expr) -> Value:
        """A node of two sizes; a division rounds down, where ONNX's rounds towards 0."""
        left, right = (self._evaluate(expression) for expression in expressions)
        if op == "Div":
            rest = self.add("Mod", [left, right], (1,), np.int64)
            left = self.add("Sub", [left, rest], (1,), np.int64)
        return self.add(op, [left, right], (1,), np.int64)

    def _variable(self, name: str) -> Value:
        """A variable from the shape of the first input that has it, alone or in a product."""
        for value in self.inputs:
            for axis, size in enumerate(value.shape):
                factor, _, variable = str(size).rpartition("*")
                if variable == name and (not factor or factor.isdecimal()):
                    length = self.add("Shape", [value], (1,), np.int64, start=axis, end=axis + 1)
                    if not factor:
                        return length
                    return self.add("Div", [length, self.size(int(factor))], (1,), np.int64)
        raise UnsupportedError(f"the size {name}, which no input has,")

    def to_model(self, outputs: Mapping[str, Value]) -> onnx.ModelProto:
        """The model that computes these values, by name."""
        infos = []
        for name, value in outputs.items():
            whole = self.whole(value)
            self._nodes.append(helper.make_node("Identity", [self.name_of(whole)], [name]))
            infos.append(_value_info(name, value.shape, value.dtype))
        graph = helper.make_graph(
            self._nodes, "jaxtag", self._inputs, infos, initializer=self._initializers
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="jaxtag"
        )


# How jax.export writes sizes -> nodes.
_OPERATORS = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.Pow: "Pow"}
_FUNCTIONS = {"floordiv": "Div", "mod": "Mod", "max": "Max", "min": "Min"}


def _is_static(shape: Sequence[Any]) -> bool:
    return all(isinstance(size, int) for size in shape)


def _value_info(name: str, shape: Sequence[Any], dtype: Any) -> onnx.ValueInfoProto:
    sizes = [size if isinstance(size, int) else str(size) for size in shape]
    return helper.make_tensor_value_info(name, onnx_type(dtype), sizes)


def onnx_type(dtype: Any) -> int:
    """The number of one of numpy's types in ONNX."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
