"""The gradients of batch normalisation as a JAX function that oneDNN computes, on CPU.

https://uxlfoundation.github.io/oneDNN/dev_guide_batch_normalization.html
"""

from collections.abc import Callable
from ctypes import byref, c_float, c_uint, c_void_p
from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp

from jaxtag.kernels.onednn import ffi, library
from jaxtag.kernels.onednn.library import SCRATCHPAD, Primitive

TARGET = "jaxtag_onednn_batch_norm"

# Of dnnl_types.h.
_SCALE_AND_SHIFT = 2 | 4  # flags
_ARGUMENTS = (1, 145, 49, 50, 51)  # x, the output's gradient, mean, variance, scale
_RESULTS = (129, 255, 256)  # the gradients of x, of the scale, of the shift
_PICTURES = (1, 145, 129)  # those of them that are [B, H, W, C]

Gradients = Callable[..., tuple[jax.Array, jax.Array, jax.Array]]


@dataclass(frozen=True)
class Spec:
    """The normalisation of `[B, H, W, C]`, in training, whose gradients are meant."""

    dtype: str
    x: tuple[int, int, int, int]
    epsilon: float

    def __str__(self) -> str:
        """As it stands in a program: `float32 8x7x7x64 1e-05`."""
        return f"{self.dtype} {'x'.join(map(str, self.x))} {self.epsilon!r}"

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """The inverse of `str`."""
        dtype, x, epsilon = text.split()
        return cls(dtype, tuple(map(int, x.split("x"))), float(epsilon))


def form(spec: Spec) -> Gradients | None:
    """A function that gives the gradients, or None where oneDNN would not be fast or is absent.

    A program that XLA splits over several devices would compute it whole on each of them.

    Its arguments: x and the output's gradient, both of the dtype of `spec`, the batch's means and
    biased variances, and the scale, float32 [C]. It returns the gradients of x, in its dtype, of
    the scale and of the shift, float32 [C].
    """
    return partial(_call, spec) if library.has_fast(_description, spec) else None


def _call(spec: Spec, *arguments: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    _register()
    channels = jax.ShapeDtypeStruct(spec.x[-1:], jnp.float32)
    results = (jax.ShapeDtypeStruct(spec.x, spec.dtype), channels, channels)
    gradients = jax.ffi.ffi_call(TARGET, results, vmap_method="sequential")
    return gradients(*arguments, spec=str(spec))


@cache
def _register() -> None:
    ffi.register(TARGET, _work)


def _work(text: bytes, arguments: list[int], results: list[int]) -> None:
    primitive, scratchpad = _primitive(text)
    given = zip(_ARGUMENTS + _RESULTS, arguments + results, strict=True)
    primitive({**dict(given), SCRATCHPAD: library.room(scratchpad)[0]})


@cache
def _primitive(text: bytes) -> tuple[Primitive, int]:
    """With the bytes that it needs besides."""
    spec = Spec.parse(text.decode())
    description = _description(spec)
    channels = library.layout(spec.x[-1:], (1,), "float32")
    layouts = dict.fromkeys(_ARGUMENTS + _RESULTS, channels)
    layouts |= dict.fromkeys(_PICTURES, library.pictures(spec.x, spec.dtype))
    layouts[SCRATCHPAD] = library.layout_of(description)
    return Primitive(description, layouts), library.size(layouts[SCRATCHPAD])


def _description(spec: Spec) -> c_void_p:
    x = library.pictures(spec.x, spec.dtype)
    engine, attributes = library.engine(), library.attributes()
    last = c_float(spec.epsilon), c_uint(_SCALE_AND_SHIFT)
    forward, backward = c_void_p(), c_void_p()
    library.call(
        "dnnl_batch_normalization_forward_primitive_desc_create", byref(forward),
        engine, library.TRAINING, x, x, *last, attributes,
    )  # fmt: skip
    library.call(
        "dnnl_batch_normalization_backward_primitive_desc_create", byref(backward),
        engine, library.BACKWARD, x, x, x, *last, forward, attributes,
    )  # fmt: skip
    return backward
