"""The search, over a machine that is made up."""

import dataclasses

from jaxtag.config.schema import Config, ModelConfig
from jaxtag.perf.aot import autotune

SHARES = {"none": 1.0, "dots": 0.5, "full": 0.25}  # of the memory of a picture
DEVICES = 8


def attempt(config: Config) -> dict:
    """16 pictures a device fit; parameters that are split leave more room, and cost a tenth."""
    batch = config.batch_size // DEVICES
    split = config.mesh.fsdp == -1
    peak = int(1e9 * (batch * SHARES[config.model.remat] + (0 if split else 4)))
    speed = batch * SHARES[config.model.remat] ** 0.1 * (0.9 if split else 1.0)
    return {
        "fits": peak <= 20e9,
        "memory_bytes_per_device": {"peak": peak},
        "bound": {"examples_per_second": speed, "by": "memory"},
    }


def config(encoder: str = "vit_tiny_patch16", batch: int = 64) -> Config:
    return Config(batch_size=batch, total_steps=1, model=ModelConfig(backbone=encoder))


def test_the_largest_batch_of_each_way_is_found():
    tried = autotune.best(config(), DEVICES, attempt)
    largest = {
        (trial.remat, trial.mesh): max(
            other.batch
            for other in tried
            if other.fits and (other.remat, other.mesh) == (trial.remat, trial.mesh)
        )
        for trial in tried
    }
    assert largest == {
        ("none", "data"): 16,
        ("dots", "data"): 32,
        ("full", "data"): 64,
        ("none", "fsdp"): 16,
        ("dots", "fsdp"): 32,
        ("full", "fsdp"): 64,
    }
    assert (tried[0].batch, tried[0].remat, tried[0].mesh) == (64, "full", "data")
    speeds = [trial.examples_per_second for trial in tried]
    assert speeds == sorted(speeds, reverse=True)


def test_a_batch_that_does_not_fit_is_halved_until_it_does():
    tried = autotune.best(config(batch=128 * DEVICES), DEVICES, attempt)
    plain = [trial for trial in tried if (trial.remat, trial.mesh) == ("none", "data")]
    assert sorted(trial.batch for trial in plain) == [8, 16, 32, 64, 128]
    assert [trial.batch for trial in plain if trial.fits] == [16, 8]


def test_smaller_batches_are_tried_while_they_are_faster():
    def fastest_with_two(changed: Config) -> dict:
        batch = changed.batch_size // DEVICES
        found = attempt(changed)
        return {**found, "bound": {"examples_per_second": 9.0 - abs(batch - 2), "by": "memory"}}

    tried = autotune.best(config(), DEVICES, fastest_with_two)
    assert tried[0].batch == 2
    assert min(trial.batch for trial in tried) == 1


def test_where_nothing_fits_it_ends():
    def nothing(changed: Config) -> dict:
        return {**attempt(changed), "fits": False, "bound": None}

    tried = autotune.best(config(), DEVICES, nothing)
    assert not any(trial.fits for trial in tried)
    assert "does not fit" in autotune.table(tried)


def test_a_model_without_remat_is_tried_without():
    tried = autotune.best(config("capsnet"), 1, attempt)
    assert {(trial.remat, trial.mesh) for trial in tried} == {("none", "data")}


def test_accumulated_parts_are_what_a_device_holds():
    seen = []

    def note(changed: Config) -> dict:
        seen.append(changed.batch_size)
        return {**attempt(dataclasses.replace(changed, batch_size=changed.batch_size // 4))}

    base = config(batch=8 * 4 * DEVICES)
    accumulating = dataclasses.replace(
        base, optimizer=dataclasses.replace(base.optimizer, accumulate=4)
    )
    autotune.best(accumulating, DEVICES, note)
    assert seen[:3] == [8 * 4 * DEVICES, 16 * 4 * DEVICES, 32 * 4 * DEVICES]
