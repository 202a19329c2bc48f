"""The three products of a convolution as JAX functions that oneDNN computes, on CPU."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import jax
import jax.numpy as jnp

from jaxtag.onednn import calls, library
from jaxtag.onednn.library import Spec

TARGET = "jaxtag_onednn_convolution"


def form(spec: Spec) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """The product as a function of two arrays, or None where oneDNN would not be fast or is absent.

    It has no gradient of its own, and a program that XLA splits over several devices would compute
    it whole on each of them.

    Its arguments: pictures and kernel for `output`, the output's gradient and the kernel for
    `input_gradient`, pictures and the output's gradient for `kernel_gradient`. It returns their
    dtype, but float32 for `kernel_gradient`.
    """
    if spec.dtype not in library.DTYPES or library.library() is None:
        return None
    name = library.implementation(spec)
    # Those two are oneDNN's plain loops, and what it has for processors without vectors.
    if name is None or name.startswith(("ref", "gemm")):
        return None
    return partial(_call, spec)


def _call(spec: Spec, first: jax.Array, second: jax.Array) -> jax.Array:
    _register()
    shapes = {"output": spec.output, "input_gradient": spec.x, "kernel_gradient": spec.kernel}
    dtype = jnp.float32 if spec.kind == "kernel_gradient" else spec.dtype
    result = jax.ShapeDtypeStruct(shapes[spec.kind], dtype)
    product = jax.ffi.ffi_call(TARGET, result, vmap_method="sequential")
    return product(first, second, spec=str(spec))


@cache
def _register() -> None:
    # One thread for all: OpenMP keeps as many threads as there are cores for each that calls it.
    thread = ThreadPoolExecutor(1, thread_name_prefix="onednn")
    calls.register(TARGET, lambda *arguments: thread.submit(_work, *arguments).result())


def _work(text: bytes, arguments: list[int], results: list[int]) -> None:
    kind, convolution = _convolution(text)
    (first, second), (result,) = arguments, results
    if kind == "output":
        convolution(first, second, result)
    elif kind == "input_gradient":
        convolution(result, second, first)
    else:
        convolution(first, result, second)


@cache
def _convolution(text: bytes) -> tuple[library.Kind, library.Convolution]:
    spec = Spec.parse(text.decode())
    return spec.kind, library.Convolution(spec)
