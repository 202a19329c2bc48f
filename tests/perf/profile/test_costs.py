"""FLOPs and bytes of kernels: against XLA's own analysis, and of calls of the GPU's libraries."""

import jax
import jax.numpy as jnp
import pytest

from jaxtag.perf import hlo
from jaxtag.perf.profile import costs


def counted(function, *arguments):
    """(FLOPs, bytes) of all kernels of the compiled function; XLA's."""
    compiled = jax.jit(function).lower(*arguments).compile()
    program = hlo.parse(compiled.as_text())
    kernels = [i for i in program.executed() if i.opcode not in hlo.CONTROL]
    analysis = compiled.cost_analysis()
    ours = (
        sum(costs.flops(program, i) for i in kernels),
        sum(costs.bytes_accessed(program, i) for i in kernels),
    )
    return ours, (analysis["flops"], analysis["bytes accessed"])


def test_products_and_elementwise_work_cost_what_xla_says():
    a, b = jnp.ones((32, 16)), jnp.ones((16, 8))
    ours, xla = counted(lambda a, b: (a @ b + 1.0) * 2.0, a, b)
    assert ours[0] == xla[0] == 2 * 32 * 16 * 8 + 2 * 32 * 8
    assert ours[1] == xla[1]


def test_a_reduction_costs_what_it_takes_in():
    ours, _ = counted(lambda a: a.sum(0), jnp.ones((32, 16)))
    assert ours[0] == 32 * 16


def convolution(stride):
    def convolve(x, kernel):
        form = ("NHWC", "HWIO", "NHWC")
        strides = (stride, stride)
        return jax.lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=form)

    return convolve


def test_a_convolution_and_its_gradients_without_padding():
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((2, 2, 3, 5))
    forward = 2 * (2 * 4 * 4 * 5) * (2 * 2 * 3)
    ours, xla = counted(convolution(2), x, kernel)
    assert ours[0] == xla[0] == forward

    def gradients(x, kernel, gradient):
        return jax.vjp(convolution(2), x, kernel)[1](gradient)

    ours, _ = counted(gradients, x, kernel, jnp.ones((2, 4, 4, 5)))
    assert ours[0] == pytest.approx(2 * forward, rel=0.15)  # and what turns the kernel


def test_slices_count_in_place_of_what_they_are_cut_from():
    a = jnp.ones((1000, 8))
    ours, _ = counted(lambda a, i: jax.lax.dynamic_slice(a, (i, 0), (2, 8)) * 2, a, 3)
    assert ours[1] < 4 * 8 * 100


GPU = """HloModule jit_step

ENTRY %main (a: bf16[64,32], b: bf16[32,16]) -> bf16[64,16] {
  %a = bf16[64,32]{1,0} parameter(0)
  %b = bf16[32,16]{1,0} parameter(1)
  %x = f32[8,10,10,3]{3,2,1,0} parameter(2)
  %w = f32[5,3,3,3]{3,2,1,0} parameter(3)
  %conv = (f32[8,8,8,5]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=3x3}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  ROOT %gemm = (bf16[64,16]{1,0}, s8[4096]{0}) custom-call(%a, %b), \
custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":\
{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
}
"""


@pytest.mark.parametrize(
    ("name", "expected"), [("gemm", 2 * 64 * 16 * 32), ("conv", 2 * 8 * 8 * 8 * 5 * 27)]
)
def test_calls_of_libraries_on_a_gpu(name, expected):
    program = hlo.parse(GPU)
    assert costs.flops(program, program.instructions[name]) == expected
    assert costs.is_matmul(program, program.instructions[name])


@pytest.mark.parametrize(
    ("images", "kernel", "window", "labels", "result", "macs"),
    [  # of XLA for TPUs: a product with three matrices at once, and of each head of attention
        (
            *("16,197,384,1", "384,3,384,1", "1x3 pad=0_0x2_2 rhs_reversal=0x1"),
            *("b0f1_i1o0->b01f", "16,197,3,384", 16 * 197 * 3 * 384 * 384),
        ),
        (
            *("16,6,197,64", "16,6,197,64", "16x6 stride=15x5 lhs_dilate=16x6"),
            *("01bf_01oi->01bf", "16,6,197,197", 16 * 6 * 197 * 197 * 64),
        ),
    ],
)
def test_taps_on_padding_and_holes_do_not_count(images, kernel, window, labels, result, macs):
    program = hlo.parse(
        f"""HloModule products

ENTRY %main (x: f32[{images}], k: f32[{kernel}]) -> f32[{result}] {{
  %x = f32[{images}] parameter(0)
  %k = f32[{kernel}] parameter(1)
  ROOT %y = f32[{result}] convolution(%x, %k), window={{size={window}}}, dim_labels={labels}
}}
"""
    )
    assert costs.flops(program, program.instructions["y"]) == 2 * macs
