"""The gradients of batch normalization as a JAX function that oneDNN computes, on CPU.

https://uxlfoundation.github.io/oneDNN/dev_guide_batch_normalization.html
"""

from ctypes import byref, c_float, c_uint, c_void_p
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtag.kernels.onednn import ffi, library
from jaxtag.kernels.onednn.library import SCRATCHPAD, OneDnn, Primitive

TARGET = "jaxtag_onednn_batch_norm"

# Of dnnl_types.h.
_SCALE_AND_SHIFT = 2 | 4  # flags
_ARGUMENTS = (1, 145, 49, 50, 51)  # x, the output's gradient, mean, variance, scale
_RESULTS = (129, 255, 256)  # the gradients of x, of the scale, of the shift
_IMAGES = (1, 145, 129)  # those of them that are [B, H, W, C]


@dataclass(frozen=True)
class Spec:
    """A normalization in training whose gradients are computed.

    Attributes:
        dtype: of the images.
        x: their shape, `[B, H, W, C]`.
    """

    dtype: str
    x: tuple[int, ...]
    epsilon: float

    def __str__(self) -> str:
        """As it stands in a program: `float32 8x7x7x64 1e-05`."""
        return f"{self.dtype} {'x'.join(map(str, self.x))} {self.epsilon!r}"

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """The inverse of `str`."""
        dtype, x, epsilon = text.split()
        return cls(dtype, tuple(map(int, x.split("x"))), float(epsilon))


def supports(spec: Spec) -> bool:
    """Whether `gradients` is available and has vector code for this CPU."""
    onednn = library.load()
    return onednn is not None and onednn.has_fast(_description, spec)


def gradients(
    spec: Spec,
    x: Float[Array, "B H W C"],
    gradient: Float[Array, "B H W C"],
    mean: Float[Array, " C"],
    variance: Float[Array, " C"],
    scale: Float[Array, " C"],
) -> tuple[Float[Array, "B H W C"], Float[Array, " C"], Float[Array, " C"]]:
    """The gradients of x, of the scale and of the shift.

    A program that XLA splits over several devices would compute it whole on each of them.

    Args:
        spec: which `supports` must accept.
        x: of the dtype of `spec`.
        gradient: of the output, of the same dtype.
        mean: of the batch, float32, as the two that follow.
        variance: biased.
    """
    _register()
    channels = jax.ShapeDtypeStruct(spec.x[-1:], jnp.float32)
    results = (jax.ShapeDtypeStruct(spec.x, spec.dtype), channels, channels)
    call = jax.ffi.ffi_call(TARGET, results, vmap_method="sequential")
    x_gradient, scale_gradient, shift_gradient = call(
        x, gradient, mean, variance, scale, spec=str(spec)
    )
    return x_gradient, scale_gradient, shift_gradient


@cache
def _register() -> None:
    ffi.register(TARGET, _run)


def _run(text: bytes, arguments: list[int], results: list[int]) -> None:
    primitive, scratchpad = _primitive(text)
    addresses = dict(zip(_ARGUMENTS + _RESULTS, arguments + results, strict=True))
    primitive({**addresses, SCRATCHPAD: library.get().scratch(scratchpad)[0]})


@cache
def _primitive(text: bytes) -> tuple[Primitive, int]:
    """The primitive, and the scratch memory that it needs in bytes."""
    onednn, spec = library.get(), Spec.parse(text.decode())
    description = _description(onednn, spec)
    channels = onednn.layout(spec.x[-1:], (1,), "float32")
    layouts = dict.fromkeys(_ARGUMENTS + _RESULTS, channels)
    layouts |= dict.fromkeys(_IMAGES, onednn.images_layout(spec.x, spec.dtype))
    layouts[SCRATCHPAD] = onednn.layout_of(description)
    return Primitive(onednn, description, layouts), onednn.num_bytes(layouts[SCRATCHPAD])


def _description(onednn: OneDnn, spec: Spec) -> c_void_p:
    x = onednn.images_layout(spec.x, spec.dtype)
    engine, attributes = onednn.engine, onednn.attributes()
    last = c_float(spec.epsilon), c_uint(_SCALE_AND_SHIFT)
    forward, backward = c_void_p(), c_void_p()
    onednn.call(
        "dnnl_batch_normalization_forward_primitive_desc_create", byref(forward),
        engine, library.TRAINING, x, x, *last, attributes,
    )  # fmt: skip
    onednn.call(
        "dnnl_batch_normalization_backward_primitive_desc_create", byref(backward),
        engine, library.BACKWARD, x, x, x, *last, forward, attributes,
    )  # fmt: skip
    return backward
