"""Times of kernels out of traces: made-up ones of each platform, and a real one."""

import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from jaxtag.errors import UserError
from jaxtag.perf import hlo
from jaxtag.perf.profile import costs, trace


def event(name, start, end, **stats):
    return SimpleNamespace(
        name=name, start_ns=start, end_ns=end, duration_ns=end - start, stats=stats.items()
    )


def plane(name, **lines):
    trace_lines = [SimpleNamespace(name=line, events=events) for line, events in lines.items()]
    return SimpleNamespace(name=name, lines=trace_lines, stats=())


@pytest.fixture
def read(monkeypatch, tmp_path):
    """Reads planes as if they were a trace."""

    def reading(*planes):
        folder = tmp_path / "plugins" / "profile" / "now"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vm.xplane.pb").touch()
        loaded = SimpleNamespace(planes=planes)
        monkeypatch.setattr(
            trace, "ProfileData", SimpleNamespace(from_file=lambda _: loaded), raising=True
        )
        return trace.read(tmp_path, "jit_step")

    return reading


def nanoseconds(busy):
    return {name: round(1e9 * seconds) for name, seconds in busy.seconds.items()}


def test_of_calls_in_calls_the_innermost_counts():
    parts = trace.innermost([(0, 100, "outer"), (10, 30, "a"), (15, 20, "b"), (30, 40, "c")])
    times = {}
    for start, end, name in parts:
        times[name] = times.get(name, 0) + end - start
    assert times == {"outer": 70, "a": 15, "b": 5, "c": 10}


def test_kernels_that_run_at_once_share_the_time():
    alone_then_both = trace.shared_seconds([[(0, 60, "a")], [(40, 80, "b")]])
    assert {k: round(1e9 * v) for k, v in alone_then_both.items()} == {"a": 50, "b": 30}
    on_more_threads = trace.shared_seconds([[(0, 30, "a")], [(0, 30, "a")], [(0, 30, "b")]])
    assert {k: round(1e9 * v) for k, v in on_more_threads.items()} == {"a": 20, "b": 10}


def test_tpu(read):
    ops = [
        event("%while.1 = (s32[]) while(%t), body=%b", 0, 100),
        event("%fusion.3 = bf16[8]{0} fusion(%p), kind=kLoop", 10, 40),
        event("%fusion.3 = bf16[8]{0} fusion(%p), kind=kLoop", 50, 90),
    ]
    steps = [event("1", 0, 100)]
    device = plane("/device:TPU:0", **{"Steps": steps, "XLA Ops": ops})
    (busy,) = read(device, plane("/host:CPU"))
    assert nanoseconds(busy) == {"while.1": 30, "fusion.3": 70}
    assert busy.counts == {"while.1": 1, "fusion.3": 2}


def test_gpu_streams_of_two_devices(read):
    def kernel(start, end, op, module="jit_step"):
        return event("loop_fusion_kernel", start, end, hlo_op=op, hlo_module=module)

    copy = event("MemcpyD2D", 0, 50)
    first = plane(
        "/device:GPU:0",
        **{
            "Stream #1": [copy, kernel(0, 50, "fusion.1"), kernel(60, 70, "x", "jit_other")],
            "Stream #2": [kernel(40, 60, "all-reduce.1")],
        },
    )
    of_a_graph = event("nvjet_hsh_128x256", 30, 40)
    second = plane("/device:GPU:1", **{"Stream #1": [kernel(0, 30, "fusion.1"), of_a_graph]})
    busy = read(plane("/host:CPU"), first, second)
    assert [nanoseconds(one) for one in busy] == [
        {"fusion.1": 45, "all-reduce.1": 15},
        {"fusion.1": 30, "nvjet_hsh_128x256": 10},
    ]


def test_cpu_pieces_on_other_threads_belong_to_their_kernel(read):
    def op(start, end, name):
        return event(name, start, end, hlo_op=name, hlo_module="jit_step", device_ordinal=0)

    def note(kind, at, **stats):
        return event(f"ThreadpoolListener::{kind}", at, at, **stats)

    # dot.1 hands piece 7 over and returns at once; it runs on the second thread and hands on 8.
    first = [op(0, 10, "dot.1"), note("Record", 5, _p=7), op(10, 20, "copy.1")]
    second = [note("StartRegion", 20, _c=7), note("Record", 25, _p=8), note("StopRegion", 50)]
    # In piece 8 the scheduler goes on to another kernel.
    third = [
        note("StartRegion", 50, _c=8),
        event("ThunkExecutor::Execute", 60, 80),
        op(62, 79, "add.1"),
        note("StopRegion", 80),
    ]
    (busy,) = read(plane("/host:CPU", first=first, second=second, third=third))
    assert nanoseconds(busy) == {"dot.1": 10 + 30 + 10, "copy.1": 10, "add.1": 17}
    assert busy.counts == {"dot.1": 1, "copy.1": 1, "add.1": 1}


def test_a_real_trace_holds_the_kernels_of_the_program(tmp_path):
    def step(a):
        return jnp.sin(a @ a).sum(0)

    compiled = jax.jit(step).lower(jnp.ones((300, 300))).compile()
    a = jnp.ones((300, 300))
    with jax.profiler.trace(tmp_path):
        began = time.perf_counter()
        for _ in range(4):
            compiled(a).block_until_ready()
        seconds = time.perf_counter() - began
    (busy,) = trace.read(tmp_path, "jit_step")
    assert set(busy.counts.values()) == {4}
    program = hlo.parse(compiled.as_text())
    assert busy.seconds.keys() <= busy.counts.keys() <= program.instructions.keys()
    work = [costs.flops(program, program.instructions[name]) for name in busy.seconds]
    assert max(work) >= 2 * 300**3
    assert 0 < busy.total <= seconds
    with pytest.raises(UserError, match="no kernel of jit_other"):
        trace.read(tmp_path, "jit_other")


def test_without_a_trace(tmp_path):
    with pytest.raises(UserError, match="holds no trace"):
        trace.read(tmp_path, "jit_step")
