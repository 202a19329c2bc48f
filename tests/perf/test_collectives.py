"""What leaves a device for other slices or hosts, counted in programs of a few instructions."""

import pytest

from jaxtag.perf import collectives, hbm_traffic, hlo
from jaxtag.perf.aot.analyze import Roofline
from jaxtag.perf.aot.topologies import parse
from jaxtag.perf.hardware import CHIPS

KB = 1024  # 256 numbers in float32


def sent(line: str, islands: int, devices: int) -> float:
    """Over the network, by a program of a number `%x` of 1 kB and the given line."""
    text = f"""HloModule step

%sum (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}}

ENTRY %main (x: f32[256]) -> f32[256] {{
  %x = f32[256]{{0}} parameter(0)
  %all = token[] after-all()
  {line}
}}
"""
    program = hlo.parse(text)
    counts = hbm_traffic.trip_counts(program, text, fused=True)
    return collectives.network_bytes(program, counts, islands, devices)


def reduced(groups: str) -> str:
    result = "ROOT %y = f32[256]{0} all-reduce(%x)"
    return f"{result}, channel_id=1, replica_groups={groups}, to_apply=%sum"


@pytest.mark.parametrize(
    ("groups", "share"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 0),  # inside each host
        ("{{0,4},{1,5},{2,6},{3,7}}", 1),  # between two hosts: twice a half
        ("[2,4]<=[8]", 0),
        ("[4,2]<=[2,4]T(1,0)", 1),
        ("{{0,1,2,3,4,5,6,7}}", 1 / 4),  # of a host's sum each device carries a quarter
        ("[1,8]<=[8]", 1 / 4),
        ("mesh['data'=2,'fsdp'=4] {'fsdp'}", 0),
        ("mesh['data'=2,'fsdp'=4] {'data'}", 1),
        ("mesh['data'=2,'fsdp'=4] {'data','fsdp'}", 1 / 4),
    ],
)
def test_an_all_reduce_between_two_hosts_of_four(groups, share):
    assert sent(reduced(groups), 2, 8) == share * KB


def test_one_island_has_no_network():
    assert sent(reduced("{{0,1,2,3,4,5,6,7}}"), 1, 8) == 0


@pytest.mark.parametrize(
    ("pairs", "bytes_"), [("{{0,1},{1,0},{2,3},{3,2}}", 0), ("{{0,1},{1,2},{2,3},{3,0}}", KB)]
)
def test_a_permutation(pairs, bytes_):
    line = f"ROOT %y = f32[256]{{0}} collective-permute(%x), source_target_pairs={pairs}"
    assert sent(line, 2, 4) == bytes_


@pytest.mark.parametrize(
    ("line", "bytes_"),
    [
        # Both get what both have: a host of two sends its two parts, each device one.
        ("f32[1024]{0} all-gather(%x), replica_groups={{0,1,2,3}}, dimensions={0}", KB),
        ("f32[64]{0} reduce-scatter(%x), replica_groups={{0,1,2,3}}, to_apply=%sum", KB / 4),
        # Each keeps half of what it has in its host.
        ("f32[256]{0} all-to-all(%x), replica_groups={{0,1,2,3}}, dimensions={0}", KB / 2),
    ],
)
def test_other_kinds(line, bytes_):
    assert sent(f"ROOT %y = {line}", 2, 4) == bytes_


@pytest.mark.parametrize(
    ("kind", "slices", "share"),
    [
        ("ALL_REDUCE", 2, 1),
        ("ALL_REDUCE", 4, 3 / 2),
        ("ALL_GATHER", 4, 3),
        ("REDUCE_SCATTER", 2, 1 / 2),
        ("ONE_TO_ONE", 2, 1),
    ],
)
def test_what_a_tpu_hands_to_its_runtime(kind, slices, share):
    line = (
        "ROOT %s = (f32[256]{0}, u32[], token[]) send(%x, %all), channel_id=3, "
        'is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="'
        f'xla_megascale_runtime",_xla_megascale_transfer_type="{kind}"}}'
    )
    assert sent(line, slices, 4 * slices) == share * KB


@pytest.mark.parametrize(
    ("name", "slices", "islands"),
    [("v5e:16x16", 1, 1), ("v5e:2x2", 2, 2), ("h100:8", 1, 1), ("h100:16", 1, 2), ("a100:4", 1, 1)],
)
def test_islands(name, slices, islands):
    assert parse(name, slices).islands == islands


def test_the_network_may_bind_or_be_unknown():
    assert Roofline(1.0, 2.0, 0.5, network=3.0, exposed_links=0.0).binding == "network"
    unknown = Roofline(1.0, 2.0, 0.5, network=None, exposed_links=0.0)
    assert unknown.binding == "memory" and unknown.seconds == 2.0
    assert CHIPS["v4"].network_bandwidth is None


def test_what_nothing_overlaps_adds_to_the_bound():
    exposed = Roofline(1.0, 2.0, links=1.5, network=0.0, exposed_links=0.5)
    assert exposed.seconds == 2.5 and exposed.binding == "memory"
    assert Roofline(1.0, 2.0, links=4.0, network=0.0, exposed_links=0.5).seconds == 4.0
