"""Names of topologies, and what XLA is told of GPUs."""

import pytest

from jaxtag.errors import UsageError
from jaxtag.perf.aot import topologies
from jaxtag.perf.hardware import CHIPS


@pytest.mark.parametrize(
    ("name", "slices", "size"),
    [("v5e:16x16", 1, 256), ("v5e:16x16", 2, 512), ("v4:2x2x2", 1, 8), ("h100:16", 2, 32)],
)
def test_a_name_says_how_many_devices(name, slices, size):
    topology = topologies.parse(name, slices)
    assert topology.size == size
    assert topology.chip is CHIPS[name.split(":")[0]]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("v5e:16x17", "the nearest is v5e:16x16"),
        ("v5e:32x32", "the nearest is v5e:16x16"),
        ("v5p:4x4x5", "the nearest is v5p:4x4x4"),
        ("h100:6", "the nearest is h100:8"),
        ("v5e:0x0", "the nearest is v5e:1x1"),
        ("v5f:16x16", "did you mean v5e:16x16?"),
        ("v5e", "did you mean v5e:"),
        ("h100:many", "did you mean h100:8?"),
    ],
)
def test_a_wrong_name_is_told_the_nearest(name, nearest):
    with pytest.raises(UsageError, match=f"--topology={name}: there is no such topology") as error:
        topologies.parse(name)
    assert nearest in str(error.value)


def test_all_shapes_are_of_known_chips():
    assert set(topologies.SHAPES) == set(CHIPS)
    for kind, shapes in topologies.SHAPES.items():
        for shape in shapes:
            assert topologies.parse(f"{kind}:{shape}").chip.source


@pytest.mark.parametrize("kind", [kind for kind, chip in CHIPS.items() if chip.platform == "cuda"])
def test_gpus_are_described_as_their_data_sheets_have_them(kind):
    text, chip = topologies.target_config(kind), CHIPS[kind]
    assert f"memory_bandwidth: {int(chip.memory_bandwidth)}\n" in text
    assert f"device_memory_size: {chip.memory_bytes}\n" in text
    assert text.count("{") == text.count("}")
