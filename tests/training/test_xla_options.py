"""Named sets of XLA's options, and that the step is compiled with them."""

import pytest

from jaxtag.errors import UsageError
from jaxtag.training import xla_options


def test_sets_are_of_a_platform_and_later_options_win():
    names = ["latency_hiding", "xla_tpu_scoped_vmem_limit_kib=65536"]
    options = xla_options.resolve(names, "tpu")
    assert options == {
        "xla_tpu_enable_latency_hiding_scheduler": "true",
        "xla_tpu_scoped_vmem_limit_kib": "65536",
    }
    off = "xla_gpu_enable_latency_hiding_scheduler=false"
    assert xla_options.resolve(["latency_hiding", off], "cuda") == dict([off.split("=")])
    assert xla_options.resolve(list(xla_options.SETS), "cpu") == {}
    assert all(xla_options.resolve([name], "tpu") for name in xla_options.SETS)
    assert all(xla_options.resolve([name], "cuda") for name in xla_options.SETS)


@pytest.mark.parametrize("name", ["latency_hidden", "tpu_option=1", "xla_bare"])
def test_an_unknown_set_is_named_with_the_nearest(name):
    with pytest.raises(UsageError, match=rf"config.xla_options: '{name}' is neither .*latency"):
        xla_options.resolve([name], "tpu")
