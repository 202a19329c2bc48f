"""Bytes of main memory, counted in small programs by hand."""

import pytest

from jaxtag.perf import collectives, hbm_traffic, hlo
from jaxtag.perf.aot import analyze

KB = 1024
LOOP = """HloModule loop, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }

%slice_and_double (stack: f32[5,256], place: s32[]) -> f32[256] {
  %stack = f32[5,256]{1,0} parameter(0)
  %place = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,256]{1,0} dynamic-slice(%stack, %place, %zero), dynamic_slice_sizes={1,256}
  %flat = f32[256]{0} bitcast(%row)
  ROOT %sum = f32[256]{0} add(%flat, %flat)
}

%outer (stack.1: f32[5,256], place.1: s32[]) -> f32[256] {
  %stack.1 = f32[5,256]{1,0} parameter(0)
  %place.1 = s32[] parameter(1)
  ROOT %inner = f32[256]{0} fusion(%stack.1, %place.1), kind=kLoop, calls=%slice_and_double
}

%body (state: (s32[], f32[5,256], f32[256])) -> (s32[], f32[5,256], f32[256]) {
  %state = (s32[], f32[5,256]{1,0}, f32[256]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %rows = f32[5,256]{1,0} get-tuple-element(%state), index=1
  %fused = f32[256]{0} fusion(%rows, %i), kind=kLoop, calls=%outer
  %shared = f32[256]{0} all-reduce(%fused), replica_groups={}, to_apply=%add
  %one = s32[]{:S(6)} constant(1)
  %next = s32[]{:S(6)} add(%i, %one)
  ROOT %out = (s32[], f32[5,256]{1,0}, f32[256]{0}) tuple(%next, %rows, %shared)
}

%until (state.1: (s32[], f32[5,256], f32[256])) -> pred[] {
  %state.1 = (s32[], f32[5,256]{1,0}, f32[256]{0}) parameter(0)
  %j = s32[] get-tuple-element(%state.1), index=0
  %end = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:S(6)} compare(%j, %end), direction=LT
}

ENTRY %main (start: (s32[], f32[5,256], f32[256])) -> (s32[], f32[5,256], f32[256]) {
  %start = (s32[], f32[5,256]{1,0}, f32[256]{0}) parameter(0)
  ROOT %loop = (s32[], f32[5,256]{1,0}, f32[256]{0}) while(%start), condition=%until, body=%body
}
"""
SPACES = """HloModule spaces

%change (old: f32[8,256], new: f32[1,256], at: s32[]) -> f32[8,256] {
  %old = f32[8,256]{1,0} parameter(0)
  %new = f32[1,256]{1,0:S(1)} parameter(1)
  %at = s32[] parameter(2)
  %none = s32[] constant(0)
  ROOT %changed = f32[8,256]{1,0} dynamic-update-slice(%old, %new, %at, %none)
}

ENTRY %main (a: f32[8,256], k: s32[]) -> f32[8,256] {
  %a = f32[8,256]{1,0:T(8,128)} parameter(0)
  %k = s32[]{:S(6)} parameter(1)
  %fetch = (f32[8,256]{1,0:T(8,128)S(1)}, f32[8,256]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %near = f32[8,256]{1,0:T(8,128)S(1)} copy-done(%fetch)
  %double = f32[8,256]{1,0:T(8,128)S(1)} add(%near, %near)
  %first = f32[1,256]{1,0:S(1)} slice(%double), slice={[0:1], [0:256]}
  %stored = f32[8,256]{1,0:T(8,128)} fusion(%a, %first, %k), kind=kLoop, calls=%change
  ROOT %total = f32[8,256]{1,0:T(8,128)} multiply(%stored, %double)
}
"""


@pytest.fixture(scope="module")
def loop():
    program = hlo.parse(LOOP)
    return program, hbm_traffic.trip_counts(program, LOOP)


def test_the_trip_count_of_a_loop_is_its_conditions_bound(loop):
    assert loop[1] == {"main": 1, "until": 5, "body": 5}


def test_trip_counts_that_xla_knows_come_first():
    text = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}')
    assert hbm_traffic.trip_counts(hlo.parse(text), text)["body"] == 3


def test_a_slice_inside_of_nested_fusions_is_what_is_read(loop):
    """A turn reads a row of 1 kB and its place (4 bytes), writes a row, and exchanges it."""
    compares = 5 * (4 + 4)
    assert hbm_traffic.step_hbm_bytes(*loop) == 5 * (KB + 4 + KB + 2 * KB + 4) + compares


def test_collectives_count_in_each_turn(loop):
    ((kind, total),) = collectives.collectives(*loop).items()
    assert kind == "all-reduce"
    assert total == collectives.Collective(
        count=1, runs=5, bytes=5 * KB, sent=10 * KB, overlapped=0, exposed=10 * KB
    )


@pytest.mark.parametrize(
    ("attributes", "overlapped"),
    [("", 1), (', backend_config={"collective_backend_config":{"is_sync":true}}', 0)],
)
def test_what_is_started_apart_is_overlapped(attributes, overlapped):
    text = LOOP.replace("all-reduce(", "all-reduce-start(")
    text = text.replace("to_apply=%add\n", f"to_apply=%add{attributes}\n")
    program = hlo.parse(text)
    by_kind = collectives.collectives(program, hbm_traffic.trip_counts(program, text))
    assert by_kind["all-reduce"].overlapped == overlapped


def test_a_collective_that_is_wrapped_is_overlapped_and_counted_in_its_loop():
    wrapped = """%wrapped (given: f32[256]) -> f32[256] {
  %given = f32[256]{0} parameter(0)
  ROOT %exchange = f32[256]{0} all-reduce(%given), replica_groups={}, to_apply=%add
}

%body"""
    text = LOOP.replace("%body", wrapped, 1).replace(
        "%shared = f32[256]{0} all-reduce(%fused), replica_groups={}, to_apply=%add",
        "%begun = ((f32[256]{0}), f32[256]{0}) async-start(%fused), calls=%wrapped\n"
        "  %shared = f32[256]{0} async-done(%begun)",
    )
    program = hlo.parse(text)
    by_kind = collectives.collectives(program, hbm_traffic.trip_counts(program, text, fused=True))
    assert by_kind["all-reduce"] == collectives.Collective(
        count=1, runs=5, bytes=5 * KB, sent=10 * KB, overlapped=1, exposed=0
    )


@pytest.mark.parametrize(
    "form",
    [
        "f32[1024]{0} all-gather(%fused)",
        "(f32[256]{0}, f32[1024]{0}) all-gather-start(%fused)",
    ],
)
def test_of_a_gathering_all_parts_go_round(form):
    text = LOOP.replace("f32[256]{0} all-reduce(%fused)", form)
    program = hlo.parse(text)
    by_kind = collectives.collectives(program, hbm_traffic.trip_counts(program, text, fused=True))
    gathered = by_kind["all-gather"]
    assert (gathered.bytes, gathered.sent) == (5 * KB, 20 * KB)


def test_memory_on_the_chip_is_free():
    """8 kB are fetched; a row of 1 kB is written in place; 8 kB are read and 8 kB written."""
    program = hlo.parse(SPACES)
    costs = {
        item.name: hbm_traffic.hbm_bytes(program, item) for item in program.computations["main"]
    }
    assert {name: cost for name, cost in costs.items() if cost} == {
        "fetch": 8 * KB,
        "stored": KB,
        "total": 16 * KB,
    }


def test_a_fingerprint_names_what_changes_in_review(loop):
    assert analyze.fingerprint(loop[0], LOOP) == {
        "all-reduce": 1,
        "fusion loop": 2,
        "while": 1,
        "donated buffers": 1,
    }


@pytest.mark.parametrize(
    "result", ["f32[256]{0}", "f32[256]{0:T(256)}", "(f32[128]{0}, f32[128]{0})"]
)
def test_a_fusion_that_runs_beside_others_moves_what_it_reads_and_writes(result):
    text = f"""HloModule step

%slices (row: f32[8,256], at: s32[]) -> f32[256] {{
  %row = f32[8,256]{{1,0}} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,256]{{1,0}} dynamic-slice(%row, %at, %zero), dynamic_slice_sizes={{1,256}}
  ROOT %flat = f32[256]{{0}} bitcast(%one)
}}

ENTRY %main (all: f32[8,256], at: s32[]) -> f32[256] {{
  %all = f32[8,256]{{1,0}} parameter(0)
  %at.1 = s32[] parameter(1)
  %begun = ((f32[8,256]{{1,0}}, s32[]), {result}, u32[]) fusion-start(%all, %at.1), calls=%slices
  ROOT %there = {result} fusion-done(%begun)
}}
"""
    program = hlo.parse(text)
    costs = {
        item.name: hbm_traffic.hbm_bytes(program, item) for item in program.computations["main"]
    }
    assert {name: cost for name, cost in costs.items() if cost} == {"begun": 2 * KB + 4}
    assert program.instructions["begun"].opcode == "fusion"
