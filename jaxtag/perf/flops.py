"""Counts parameters and multiply-adds from a model's jaxpr; computes nothing, allocates nothing."""

import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var


def param_count(model: nn.Module, image_size: int = 224, channels: int = 3) -> int:
    """Number of parameters that a model of `jaxtag.create_model` has for images of this size."""
    variables, _ = _abstract_inputs(model, image_size, channels)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def macs(model: nn.Module, image_size: int = 224, channels: int = 3) -> int:
    """Multiply-adds of one image's inference, in convolutions and matrix products.

    Counted as papers count: a multiplication with its addition is one (FLOPs are twice as many),
    pixels of the padding count, norms, activations and pooling do not. Products of attention count
    (as in torchvision, not in timm).
    """
    variables, images = _abstract_inputs(model, image_size, channels)
    return jaxpr_macs(jax.make_jaxpr(model.apply)(variables, images))


def jaxpr_macs(program: ClosedJaxpr | Jaxpr) -> int:
    """Multiply-adds of a jaxpr's convolutions and matrix products.

    Of the forms that a platform chooses from, the one of most platforms counts; of other branches,
    the most expensive. Equations that no output depends on are left out, as by a compiler.

    Raises:
        ValueError: There are some in a `while` loop, whose trip count is unknown.
    """
    return sum(_equation_macs(equation) for equation in _live_equations(program))


def _live_equations(program: ClosedJaxpr | Jaxpr) -> Iterator[JaxprEqn]:
    """The equations that the program's outputs depend on, last one first."""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    used = {value for value in jaxpr.outvars if isinstance(value, Var)}
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not used.isdisjoint(equation.outvars):
            used.update(value for value in equation.invars if isinstance(value, Var))
            yield equation


def _equation_macs(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot_macs(equation)
    if name == "conv_general_dilated":
        return _convolution_macs(equation)
    inner = [jaxpr_macs(program) for program in _inner_programs(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        platforms = params.get("branches_platforms")
        return inner[platforms.index(None)] if platforms else max(inner)
    if name == "while" and any(inner):
        raise ValueError("a while loop's multiply-adds cannot be counted: use a scan")
    return sum(inner)


def _dot_macs(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _shape(equation.invars[0])
    return math.prod(_shape(equation.outvars[0])) * math.prod(left[dim] for dim in contracted)


def _convolution_macs(equation: JaxprEqn) -> int:
    """Each output is a sum over the taps of one feature's kernel.

    The gradient of a strided convolution dilates its input; taps on the holes do not count.
    """
    kernel = _shape(equation.invars[1])
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    taps = math.prod(_shape(equation.outvars[0])) * (math.prod(kernel) // features)
    return taps // math.prod(equation.params["lhs_dilation"])


def _shape(value: Any) -> tuple[int, ...]:
    """Of a variable or literal of a jaxpr."""
    return tuple(value.aval.shape)


def _inner_programs(params: dict[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    """The programs inside an equation: of a call, a loop, branches, a custom gradient."""
    for value in params.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, ClosedJaxpr | Jaxpr):
                yield item


def _abstract_inputs(model: nn.Module, image_size: int, channels: int) -> tuple[Any, Any]:
    """(variables, images): shapes of the model's variables and of one image."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images), images
