"""Timelines of programs of a few instructions, whose times are known; and their page."""

import pytest
from browser import dump_dom, needs_browser

from jaxtag.perf import collectives, hbm_traffic, hlo, page
from jaxtag.perf.aot import schedule
from jaxtag.perf.hardware import Chip

# Of a kB (256 numbers): reading it takes 1 s, sending it 2 s (of 4 devices, 3/4 leave in a ring).
CHIP = Chip("a chip", "tpu", 2**30, 1024.0, 1e12, 384.0, None, "made up")
DEVICES = 4
HEAD = """HloModule step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}
"""


def timeline(entry: str, more: str = "") -> schedule.Schedule:
    lines = "\n  ".join(entry.strip().splitlines())
    text = f"{HEAD}{more}\nENTRY %main (x: f32[256]) -> f32[256] {{\n"
    text += f"  %x = f32[256]{{0}} parameter(0)\n  {lines}\n}}\n"
    program = hlo.parse(text)
    return schedule.schedule(program, text, CHIP, DEVICES)


def events(result: schedule.Schedule) -> list[tuple]:
    return [(e.name, e.lane, e.start, e.seconds, e.waited, e.runs) for e in result.events]


def test_kernels_run_one_after_another() -> None:
    result = timeline("%one = f32[256]{0} negate(%x)\nROOT %two = f32[256]{0} exponential(%one)")
    assert events(result) == [
        ("one", "kernel", 0.0, 2.0, 0.0, 1),
        ("two", "kernel", 2.0, 2.0, 0.0, 1),
    ]
    assert (result.seconds, result.waited) == (4.0, 0.0)


def test_a_collective_that_nothing_overlaps_blocks() -> None:
    result = timeline(
        "%all = f32[256]{0} all-reduce(%x), replica_groups={}, to_apply=%sum\n"
        "ROOT %two = f32[256]{0} negate(%all)"
    )
    assert events(result) == [
        ("all", "collective", 0.0, 4.0, 4.0, 1),  # twice its bytes
        ("two", "kernel", 4.0, 2.0, 0.0, 1),
    ]
    assert (result.seconds, result.waited) == (6.0, 4.0)


def test_kernels_run_beside_a_collective_that_is_awaited_later() -> None:
    result = timeline(
        "%begun = f32[256]{0} all-reduce-start(%x), replica_groups={}, to_apply=%sum\n"
        "%one = f32[256]{0} negate(%x)\n"
        "%ended = f32[256]{0} all-reduce-done(%begun)\n"
        "ROOT %two = f32[256]{0} negate(%ended)"
    )
    assert events(result) == [
        ("begun", "collective", 0.0, 4.0, 2.0, 1),
        ("one", "kernel", 0.0, 2.0, 0.0, 1),
        ("two", "kernel", 4.0, 2.0, 0.0, 1),
    ]


def test_links_carry_one_collective_after_another() -> None:
    result = timeline(
        "%a1 = f32[256]{0} all-reduce-start(%x), replica_groups={}, to_apply=%sum\n"
        "%b1 = f32[256]{0} all-reduce-start(%x), replica_groups={}, to_apply=%sum\n"
        "%a2 = f32[256]{0} all-reduce-done(%a1)\n"
        "ROOT %b2 = f32[256]{0} all-reduce-done(%b1)"
    )
    assert [event[2:5] for event in events(result)] == [(0.0, 4.0, 4.0), (4.0, 4.0, 4.0)]
    assert result.seconds == 8.0


LOOP = """
%body (p: (s32[], f32[256])) -> (s32[], f32[256]) {
  %p = (s32[], f32[256]) parameter(0)
  %n = s32[] get-tuple-element(%p), index=0
  %y = f32[256]{0} get-tuple-element(%p), index=1
  %all = f32[256]{0} all-reduce(%y), replica_groups={}, to_apply=%sum
  %minus = f32[256]{0} negate(%all)
  ROOT %t = (s32[], f32[256]) tuple(%n, %minus)
}

%goes_on (q: (s32[], f32[256])) -> pred[] {
  %q = (s32[], f32[256]) parameter(0)
  ROOT %yes = pred[] constant(true)
}
"""


def test_the_first_run_of_a_loop_is_shown_and_all_count() -> None:
    result = timeline(
        "%zero = s32[] constant(0)\n%start = (s32[], f32[256]) tuple(%zero, %x)\n"
        "%loop = (s32[], f32[256]) while(%start), condition=%goes_on, body=%body, "
        'backend_config={"known_trip_count":{"n":"5"}}\n'
        "ROOT %y = f32[256]{0} get-tuple-element(%loop), index=1",
        LOOP,
    )
    assert events(result) == [
        ("all", "collective", 0.0, 4.0, 4.0, 5),
        ("minus", "kernel", 4.0, 2.0, 0.0, 5),
        ("loop", "loop", 6.0, 24.0, 0.0, 1),
    ]
    assert (result.seconds, result.waited) == (30.0, 20.0)


def chained(name: str, end: str) -> str:
    """A fusion of a chain beside an all-gather, as XLA for TPUs writes it."""
    call = f'\n  %call.{name} = f32[] custom-call(%n.{name}), custom_call_target="{end}"'
    return f"""
%f.{name} (p.{name}: f32[256]) -> f32[256] {{
  %p.{name} = f32[256]{{0}} parameter(0)
  %g.{name} = f32[1024]{{0}} all-gather(%p.{name}), frontend_attributes={{chain_id="3"}}
  %n.{name} = f32[256]{{0}} negate(%p.{name}){call if end else ""}
  ROOT %r.{name} = f32[256]{{0}} negate(%n.{name})
}}
"""


def test_a_chain_of_fusions_is_one_collective() -> None:
    entry = "".join(
        f"%{name} = f32[256]{{0}} fusion(%{source}), kind=kCustom, calls=%f.{name}\n"
        for name, source in (("start", "x"), ("beside", "start"), ("done", "beside"))
    )
    bodies = [
        chained("start", "AsyncCollectiveStart"),
        chained("beside", ""),
        chained("done", "AsyncCollectiveDone"),
    ]
    entry += "ROOT %two = f32[256]{0} negate(%done)"
    result = timeline(entry, "".join(bodies))
    assert events(result) == [
        ("start", "collective", 0.0, 8.0, 6.0, 1),  # the whole result leaves, from one to the next
        ("beside", "kernel", 0.0, 2.0, 0.0, 1),
        ("two", "kernel", 8.0, 2.0, 0.0, 1),
    ]
    text = HEAD + "".join(bodies) + "\nENTRY %main (x: f32[256]) -> f32[256] {\n"
    text += "  %x = f32[256]{0} parameter(0)\n  " + "\n  ".join(entry.splitlines()) + "\n}\n"
    program = hlo.parse(text)
    counts = hbm_traffic.trip_counts(program, text, fused=True)
    (item,) = collectives.collectives(program, counts).values()
    assert (item.count, item.sent, item.overlapped, item.exposed) == (1, 4096, 1, 0)
    assert collectives.network_bytes(program, counts, 2, DEVICES) == pytest.approx(4096 / 2 / 2)


HOSTILE = "</script><img src=x onerror=document.title='taken'>"


@needs_browser
def test_the_page_in_a_browser(tmp_path) -> None:
    entry = (
        "%begun = f32[256]{0} all-reduce-start(%x), replica_groups={}, to_apply=%sum\n"
        "%one = f32[256]{0} negate(%x)\n"
        "%ended = f32[256]{0} all-reduce-done(%begun)\n"
        "%two = f32[256]{0} negate(%ended)\n"
        "ROOT %three = f32[256]{0} exponential(%two)"
    )
    result = timeline(entry)
    origins = {
        "begun": ("(optimizer)", "", "here.py:1"),
        "one": ("block_0/fc1", "forward", "here.py:2"),
        "two": ("block_1/fc1", "forward", HOSTILE),
        "three": ("head", "backward", "here.py:3"),
    }
    shown = [
        {**vars(event), **dict(zip(("part", "phase", "line"), origins[event.name], strict=True))}
        for event in result.events
    ]
    data = {
        **{"title": "classify", "topology": "v5e:2x2", "slices": 1, "devices": 4},
        **{"mesh": {"data": 4}, "batch_size": 64, "fits": True, "config": {"note": HOSTILE}},
        "memory_bytes_per_device": {"arguments": 2**20, "peak": 2**21, "capacity": 2**30},
        "bound": {
            "seconds_by_resource": {"arithmetic": 1.0, "memory": 5.0, "network": None},
            "peaks": {"source": "made up"},
        },
        "schedule": {"seconds": result.seconds, "waited_seconds": result.waited},
        "events": shown,
    }
    (tmp_path / "page.html").write_text(page.render("program", data))
    dom = dump_dom(tmp_path / "page.html", tmp_path)
    assert "<title>Program: classify</title>" in dom and "<b>8,000 ms</b>" in dom
    # 3 kernels, a collective, the wait for it; two layers are one row that opens.
    assert dom.count("<rect") == 1 + 5 and "waits 2,000 ms for begun" in dom
    assert "block_*/fc1" in dom and 'aria-expanded="false">▸ 2</button>' in dom
    assert dom.count('<tr class="member" data-name=') == 2
    assert "<img" not in dom.replace(HOSTILE.replace("<", "\\u003c"), "")
