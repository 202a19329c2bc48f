"""oneDNN's convolutions: equal to XLA's, in every kind of program, and without the library."""

import importlib.metadata
import itertools
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxtag.distributed.mesh import batch_sharding, make_mesh, with_mesh
from jaxtag.kernels import conv
from jaxtag.kernels.conv import convolve, resolve_padding
from jaxtag.kernels.onednn import convolution, ffi, library
from jaxtag.kernels.onednn.convolution import Kind, Spec
from jaxtag.perf import hlo
from jaxtag.perf.profile import costs

pytestmark = pytest.mark.skipif(
    library.load() is None, reason="oneDNN's package is for Linux on x86-64"
)

CASES = {
    # name: (image, channels, features, kernel, stride, padding, groups)
    "dense": ((9, 7), 5, 6, (3, 3), 1, None, 1),
    "dense of whole vectors": ((9, 8), 32, 64, (3, 3), 1, None, 1),
    "dense no padding": ((9, 7), 5, 6, (3, 3), 1, 0, 1),
    "dense much padding": ((5, 6), 5, 6, (3, 3), 1, 4, 1),
    "dense even kernel": ((9, 8), 5, 6, (4, 2), 1, ((1, 2), (0, 1)), 1),
    "dense strided": ((9, 8), 16, 24, (3, 3), 2, None, 1),
    "dense strided same": ((10, 9), 5, 6, (3, 3), 2, "same", 1),
    "dense large strided": ((14, 13), 16, 17, (9, 6), 2, 1, 1),
    "dense stride 3": ((11, 13), 5, 6, (5, 5), 3, 1, 1),
    "smaller than the kernel": ((2, 2), 16, 17, (3, 3), 1, None, 1),
    "one pixel": ((1, 1), 16, 17, (3, 3), 1, None, 1),
    "stem": ((17, 16), 3, 8, (7, 7), 2, None, 1),
    "grouped": ((6, 7), 8, 12, (3, 3), 1, None, 4),
    "grouped strided": ((6, 7), 32, 32, (3, 3), 2, None, 2),
    "depthwise": ((8, 7), 6, 6, (3, 3), 1, None, 6),
    "depthwise strided": ((8, 7), 32, 32, (5, 5), 2, None, 32),
    "depthwise same": ((8, 7), 6, 6, (3, 3), 2, "same", 6),
    "depthwise multiplied": ((8, 7), 6, 12, (3, 3), 1, None, 6),
}
KINDS = ("output", "input_gradient", "kernel_gradient")


def random_operands(case: str, dtype: str) -> tuple[Spec, jax.Array, jax.Array, jax.Array]:
    """A convolution of 3 images, these, its kernel and a gradient of its output."""
    size, channels, features, kernel_size, stride, padding, groups = CASES[case]
    padding = resolve_padding(padding, kernel_size, stride, size)
    rng = np.random.RandomState(0)
    x = jnp.asarray(rng.randn(3, *size, channels), dtype)
    kernel = jnp.asarray(rng.randn(*kernel_size, channels // groups, features), dtype)
    fields = {"stride": stride, "padding": padding, "groups": groups}
    output = jax.eval_shape(partial(conv.native, **fields), x, kernel).shape
    spec = Spec("output", dtype, x.shape, kernel.shape, output, stride, padding, groups)
    return spec, x, kernel, jnp.asarray(rng.randn(*output), dtype)


def xla(spec: Spec):
    return partial(
        lax.conv_general_dilated,
        window_strides=(spec.stride, spec.stride),
        padding=spec.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=spec.groups,
    )


def ours(spec: Spec):
    return lambda x, kernel: convolve(x, kernel, spec.stride, spec.padding, spec.groups)


def of_kind(spec: Spec, kind: Kind) -> Spec:
    return Spec(kind, *list(vars(spec).values())[1:])


def targets(program: str) -> list[str]:
    """The kinds of all convolutions by oneDNN in a program's text."""
    return re.findall(r'spec = "(\w+) ', program)


@pytest.mark.parametrize("case", CASES)
def test_equals_xla_in_float32(case: str) -> None:
    spec, x, kernel, gradient = random_operands(case, "float32")
    expected, expected_back = jax.vjp(xla(spec), x, kernel)
    products = (expected, *expected_back(gradient))
    arguments = ((x, kernel), (gradient, kernel), (x, gradient))
    num_supported = 0
    for kind, operands, right in zip(KINDS, arguments, products, strict=True):
        if convolution.supports(of_kind(spec, kind)):  # else no fast code for this CPU
            num_supported += 1
            product = jax.jit(partial(convolution.compute, of_kind(spec, kind)))(*operands)
            np.testing.assert_allclose(product, right, atol=1e-4, err_msg=kind)
    assert num_supported, "oneDNN computes none of them"


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_is_summed_in_float32(case: str) -> None:
    """Off by the rounding of what is given back (2^-9 of it), not of each term of a sum."""
    spec, x, kernel, gradient = random_operands(case, "bfloat16")
    wide = [one.astype(jnp.float32) for one in (x, kernel)]
    expected, expected_back = jax.vjp(xla(spec), *wide)
    products = (expected, *expected_back(gradient.astype(jnp.float32)))
    arguments = ((x, kernel), (gradient, kernel), (x, gradient))
    for kind, operands, right in zip(KINDS, arguments, products, strict=True):
        if not convolution.supports(of_kind(spec, kind)):  # this CPU has no instructions for it
            continue
        result = jax.jit(partial(convolution.compute, of_kind(spec, kind)))(*operands)
        assert result.dtype == (jnp.float32 if kind == "kernel_gradient" else jnp.bfloat16)
        np.testing.assert_allclose(result.astype(jnp.float32), right, rtol=2**-8, atol=1e-3)


def test_convolve_takes_it_on_cpu() -> None:
    spec, x, kernel, _ = random_operands("dense of whole vectors", "float32")
    gradients = jax.grad(lambda *a: jnp.square(ours(spec)(*a)).sum(), (0, 1))
    program = jax.jit(gradients).lower(x, kernel).as_text()
    assert sorted(targets(program)) == sorted(KINDS)
    assert "stablehlo.convolution" not in program
    for result, right in zip(
        gradients(x, kernel),
        jax.grad(lambda *a: jnp.square(xla(spec)(*a)).sum(), (0, 1))(x, kernel),
        strict=True,
    ):
        np.testing.assert_allclose(result, right, rtol=1e-4, atol=1e-3)


def test_other_platforms_get_their_own() -> None:
    spec, x, kernel, _ = random_operands("dense of whole vectors", "float32")
    traced = jax.jit(ours(spec)).trace(x, kernel)
    for platform in ("tpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.convolution" in text
        assert not targets(text)


def test_what_runs_on_several_devices_does_without() -> None:
    """XLA would compute a foreign call whole on each device."""
    mesh = make_mesh(data=2, devices=jax.devices()[:2])
    spec, x, kernel, _ = random_operands("dense of whole vectors", "float32")
    x = jax.device_put(jnp.concatenate([x, x]), batch_sharding(mesh))
    program = jax.jit(with_mesh(mesh, ours(spec)))
    assert not targets(program.lower(x, kernel).as_text())
    np.testing.assert_allclose(program(x, kernel), xla(spec)(x, kernel), atol=1e-4)


def test_vmap_and_scan_call_it() -> None:
    spec, x, kernel, _ = random_operands("dense of whole vectors", "float32")
    many = jnp.stack([x, 2 * x, -x])
    expected = jnp.stack([xla(spec)(one, kernel) for one in many])
    mapped = jax.jit(jax.vmap(ours(spec), (0, None)))
    scanned = jax.jit(lambda many: lax.scan(lambda c, x: (c, ours(spec)(x, kernel)), 0, many)[1])
    assert targets(jax.jit(mapped).lower(many, kernel).as_text())
    np.testing.assert_allclose(mapped(many, kernel), expected, atol=1e-4)
    np.testing.assert_allclose(scanned(many), expected, atol=1e-4)


def test_the_same_bits_each_time_and_in_several_threads() -> None:
    programs = []
    for case, kind in itertools.product(
        ("dense of whole vectors", "dense strided", "depthwise"), KINDS
    ):
        spec, x, kernel, gradient = random_operands(case, "float32")
        operands = {"output": (x, kernel), "input_gradient": (gradient, kernel)}
        product = jax.jit(partial(convolution.compute, of_kind(spec, kind)))
        programs.append((product, operands.get(kind, (x, gradient))))
    first = [np.asarray(program(*operands)) for program, operands in programs]

    def again(_: int) -> list[np.ndarray]:
        return [np.asarray(program(*operands)) for program, operands in programs]

    with ThreadPoolExecutor(4) as pool:
        for later in pool.map(again, range(12)):
            for one, other in zip(first, later, strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_failure_in_a_program_is_an_error_with_its_text() -> None:
    convolution._register()
    shape = jax.ShapeDtypeStruct((1,), jnp.float32)
    call = jax.ffi.ffi_call(convolution.TARGET, shape)
    with pytest.raises(jax.errors.JaxRuntimeError, match="jaxtag_onednn_convolution: ValueError"):
        call(jnp.ones(1), jnp.ones(1), spec="output float32").block_until_ready()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_raised_in_a_call_is_lost(kind: type[BaseException]) -> None:
    """ctypes prints it and goes on: the result would be whatever lay in memory."""

    def work(*_: object) -> None:
        raise kind("stopped")

    name = f"jaxtag_test_{kind.__name__}"
    ffi.register(name, work)
    call = jax.ffi.ffi_call(name, jax.ShapeDtypeStruct((4,), jnp.float32))
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"{name}: {kind.__name__}: stopped"):
        call(jnp.ones(2), spec="some text").block_until_ready()


def test_any_function_can_be_called_with_the_addresses() -> None:
    calls = []
    ffi.register("jaxtag_test_call", lambda *arguments: calls.append(arguments))
    shape = jax.ShapeDtypeStruct((4,), jnp.float32)
    result = jax.ffi.ffi_call("jaxtag_test_call", shape)(jnp.ones(2), spec="some text")
    result.block_until_ready()
    ((text, arguments, results),) = calls
    assert text == b"some text"
    assert len(arguments) == len(results) == 1
    assert all(address % 16 == 0 and address for address in (*arguments, *results))


def test_a_program_that_still_runs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    script = tmp_path / "end.py"
    script.write_text(
        "import jax, jax.numpy as jnp\n"
        "from jaxtag.kernels.conv import convolve\n"
        "run = jax.jit(lambda x, k: convolve(x, k, 1, ((1, 1), (1, 1))))\n"
        "x, k = jnp.ones((64, 56, 56, 64)), jnp.ones((3, 3, 64, 64))\n"
        "run(x, k).block_until_ready()\n"
        "results = [run(x, k) for _ in range(4)]\n"
        "print('started')\n"
    )
    process = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == "started\n"


def test_the_text_of_a_convolution_says_all_of_it() -> None:
    spec = Spec(
        "kernel_gradient", "bfloat16", (8, 7, 9, 4), (3, 5, 2, 6), (8, 4, 5, 6), 2,
        ((1, 2), (0, 3)), 2,
    )  # fmt: skip
    assert Spec.parse(str(spec)) == spec
    assert str(spec) == "kernel_gradient bfloat16 8x7x9x4 3x5x2x6 8x4x5x6 2 1x2x0x3 2"


@pytest.mark.parametrize("case", ["dense strided", "depthwise", "grouped"])
def test_its_arithmetic_is_counted_as_xlas(case: str) -> None:
    spec, x, kernel, _ = random_operands(case, "float32")

    def counted(function) -> list[int]:
        program = hlo.parse(jax.jit(function).lower(x, kernel).compile().as_text())
        counts = [costs.flops(program, one) for one in program.instructions.values()]
        return [count for count in counts if count]

    # XLA may write a depthwise convolution otherwise; the definition is the same.
    definition = 2 * np.prod(spec.output) * np.prod(spec.kernel[:3])
    assert counted(ours(spec)) == [definition] == [spec.flops]


def test_without_the_package_there_is_none(monkeypatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    assert library.load.__wrapped__() is None


def test_a_package_without_its_library_is_a_warning(monkeypatch, caplog) -> None:
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [])
    with caplog.at_level("WARNING"):
        assert library.load.__wrapped__() is None
    assert "libdnnl.so.3" in caplog.text


def test_a_library_that_does_not_load_is_a_warning(monkeypatch, caplog) -> None:
    def broken(path: str) -> None:
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(library.ctypes, "CDLL", broken)
    with caplog.at_level("WARNING"):
        assert library.load.__wrapped__() is None
    assert "libgomp.so.1" in caplog.text
    assert "OMP_WAIT_POLICY" not in os.environ
