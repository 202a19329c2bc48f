"""What a model costs, counted from its traced program: nothing is computed, no memory is taken."""

import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var


def param_count(model: nn.Module, image_size: int = 224, channels: int = 3) -> int:
    """How many numbers a backbone of `models.create` learns, for pictures of this size."""
    variables, _ = _shapes(model, image_size, channels)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def macs(model: nn.Module, image_size: int = 224, channels: int = 3) -> int:
    """Multiply-adds of one picture's inference in convolutions and matrix products.

    As the papers count: a multiplication with its addition is one, pixels of the padding are
    counted, and norms, activations and pooling are not. Products of attention are counted (as
    torchvision does, timm does not).
    """
    variables, images = _shapes(model, image_size, channels)
    return multiply_adds(jax.make_jaxpr(model.apply)(variables, images))


def multiply_adds(program: ClosedJaxpr | Jaxpr) -> int:
    """Those of a traced program's convolutions and matrix products.

    Of forms by platform the one that most platforms get is counted, of other branches the dearest.
    What nothing depends on is left out, as a compiler does.

    Raises:
      ValueError: there are some in a `while` loop, whose number of turns nobody knows.
    """
    return sum(_of(equation) for equation in _needed(program))


def _needed(program: ClosedJaxpr | Jaxpr) -> Iterator[JaxprEqn]:
    """The equations that the program's outputs depend on, the last one first."""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    used = {value for value in jaxpr.outvars if isinstance(value, Var)}
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not used.isdisjoint(equation.outvars):
            used.update(value for value in equation.invars if isinstance(value, Var))
            yield equation


def _of(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [multiply_adds(program) for program in _programs(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        platforms = params.get("branches_platforms")
        return inner[platforms.index(None)] if platforms else max(inner)
    if name == "while" and any(inner):
        raise ValueError("a while loop's multiply-adds cannot be counted: use a scan")
    return sum(inner)


def _of_product(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return math.prod(equation.outvars[0].aval.shape) * math.prod(left[d] for d in contracted)


def _of_convolution(equation: JaxprEqn) -> int:
    """Each output is a sum over the taps of one feature's kernel.

    The gradient of a strided convolution spreads its input; taps that meet the holes do not count.
    """
    kernel = equation.invars[1].aval.shape
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    taps = math.prod(equation.outvars[0].aval.shape) * (math.prod(kernel) // features)
    return taps // math.prod(equation.params["lhs_dilation"])


def _programs(params: dict[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    """The programs inside an equation: of a call, a loop, branches, a custom gradient."""
    for value in params.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, ClosedJaxpr | Jaxpr):
                yield item


def _shapes(model: nn.Module, image_size: int, channels: int) -> tuple[Any, Any]:
    """Of the variables and of one picture."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images), images
