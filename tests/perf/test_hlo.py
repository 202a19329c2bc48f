"""The text of XLA's programs, as today's JAX writes it."""

import jax
import jax.numpy as jnp
import pytest

from jaxtag.perf import hlo


def scaled(a, b):
    with jax.named_scope("inner"):
        return jnp.tanh(a) @ b


@pytest.fixture(scope="module")
def lowered():
    def looped(a, b):
        return jax.lax.fori_loop(0, 3, lambda _, a: scaled(a, b), a)

    return jax.jit(looped).lower(jnp.ones((4, 8)), jnp.ones((8, 8)))


@pytest.fixture(scope="module")
def program(lowered):
    """Never one that another checkout left in the compilation cache, with that one's files."""
    name = "jax_compilation_cache_include_metadata_in_key"
    before = getattr(jax.config, name)
    jax.config.update(name, True)
    yield hlo.parse(lowered.compile().as_text())
    jax.config.update(name, before)


def test_a_product_in_a_loop_is_found_with_its_scope_shape_and_line(program):
    (product,) = (
        i for i in program.executed() if "dot_general" in i.op_name and i.opcode != "while"
    )
    assert "inner" in product.op_name.split("/")
    assert (product.dims, product.bytes) == ((4, 8), 4 * 8 * 4)
    files = [(file, function) for file, _, function in program.traceback(product)]
    assert files[0] == (__file__, "scaled")
    lines = [line for _, line, function in program.traceback(product) if function == "scaled"]
    assert lines == [scaled.__code__.co_firstlineno + 2]


def test_what_is_run_is_the_entry_and_its_loops_but_not_the_insides_of_fusions(program):
    run = {i.name for i in program.executed()}
    loop = next(i for i in program.executed() if i.opcode == "while")
    assert all(i.name in run for name in loop.called for i in program.computations[name])
    fused = [name for i in program.executed() if i.opcode == "fusion" for name in i.called]
    assert fused
    assert not any(i.name in run for name in fused for i in program.computations[name])


def test_the_program_before_optimization_reads_the_same_way(lowered):
    before = hlo.parse(lowered.as_text("hlo", debug_info=True))
    assert [i.dims for i in before.instructions.values() if i.opcode == "dot"] == [(4, 8)]
    assert before.entry in before.computations


def test_shapes_with_tiles_and_tuples():
    text = (
        "HloModule m\n\nENTRY %main (a: bf16[8,128]) -> (bf16[8,128], s32[]) {\n"
        "  %a = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)\n"
        "  %c = s32[]{:T(128)} constant(3)\n"
        "  ROOT %t = (bf16[8,128]{1,0:T(8,128)(2,1)}, /*index=1*/s32[]) tuple(%a, %c)\n}\n"
    )
    program = hlo.parse(text)
    names = ["a", "c", "t"]
    assert [i.name for i in program.computations["main"]] == names
    assert [program.instructions[n].bytes for n in names] == [2048, 4, 2052]
    assert program.instructions["t"].operands == ("a", "c")


@pytest.mark.parametrize(
    ("shape", "size"),
    [("pred[3]{0}", 3), ("f8e4m3fn[10]", 10), ("s4[10]", 5), ("token[]", 0), ("c64[2]", 16)],
)
def test_bytes(shape, size):
    assert hlo.bytes_of(shape) == size
