"""How a step's time is split, what it is run on without data, and the peaks it is held against."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shrinking import shrink

from jaxtag.config import flags
from jaxtag.perf import hardware
from jaxtag.perf.profile import measure


@pytest.mark.parametrize(
    ("before", "start", "end", "expected"),
    [
        # The device waits from 10 on: for the batch until 12, for its start until 12.5.
        (10.0, (9.0, 12.0, 12.5), 15.0, (2.0, 0.5, 2.5)),
        # The batch was there before the step before had ended.
        (14.0, (9.0, 12.0, 12.5), 15.0, (0.0, 0.0, 1.0)),
        # Drawing began after the step before had ended.
        (10.0, (11.0, 12.0, 12.5), 15.0, (1.0, 1.5, 2.5)),
    ],
)
def test_a_step_is_split_into_what_the_device_waited_for(before, start, end, expected):
    step = measure._split(before, start, end)
    assert (step.data, step.host, step.device) == expected
    assert step.total == end - before


@pytest.mark.parametrize("name", ["cifar10_airbench", "corel5k_tag", "flickr8k_caption"])
def test_a_batch_of_noise_needs_no_data_set_and_is_what_the_step_takes(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "absent"))
    job = measure.prepare(shrink(flags.load(name)), tmp_path, random=True)
    batch = next(job.batches)
    assert next(job.batches) is batch
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        k: (v.shape, v.dtype) for k, v in job.shapes.items()
    }
    assert batch["mask"].all() and not batch["broken"].any() and batch["image"].std() > 50
    labels = [batch[field] for field in ("label", "tags", "tokens") if field in batch]
    assert labels and all(np.min(values) >= 0 and np.max(values) < 2 for values in labels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "flops", "source"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12, "NVIDIA H100 Tensor Core GPU data sheet"),
        ("NVIDIA H200", 989e12, "NVIDIA H200 Tensor Core GPU data sheet"),
        ("TPU v5 lite", 197e12, "TPU v5e"),
        ("TPU v5", 459e12, "TPU v5p"),
        ("TPU v6 lite", 918e12, "TPU v6e"),
    ],
)
def test_peaks_by_data_sheet(kind, flops, source):
    peak = hardware.device_peak(
        SimpleNamespace(device_kind=kind, platform="?"), jnp.dtype("float32")
    )
    assert peak.flops == flops and source in peak.source and peak.source.endswith("bfloat16")


def test_devices_made_of_one_cpu_share_its_measured_peak(monkeypatch):
    monkeypatch.setattr(hardware, "_matmul_flops", lambda *_: 80e9)
    monkeypatch.setattr(hardware, "_triad_bandwidth", lambda *_: 16e9)
    peak = hardware.device_peak(jax.devices()[0], jnp.dtype("float32"))
    assert (peak.flops, peak.bandwidth) == (80e9 / 8, 16e9 / 8)
    assert "a float32 product of 2048x2048 matrices" in peak.source
