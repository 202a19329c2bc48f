"""The search, on a made-up machine."""

import dataclasses

from jaxtag.config.schema import Config, ModelConfig
from jaxtag.perf.aot import autotune

SHARES = {"none": 1.0, "dots": 0.5, "full": 0.25}  # of the memory of an image
DEVICES = 8


def analyze(config: Config) -> dict:
    """16 images per device fit; parameters that are split leave more room, and cost a tenth."""
    batch = config.batch_size // DEVICES
    split = config.mesh.fsdp == -1
    peak = int(1e9 * (batch * SHARES[config.model.remat] + (0 if split else 4)))
    speed = batch * SHARES[config.model.remat] ** 0.1 * (0.9 if split else 1.0)
    return {
        "fits": peak <= 20e9,
        "memory_bytes_per_device": {"peak": peak},
        "bound": {"examples_per_second": speed, "by": "memory"},
    }


def config(backbone: str = "vit_tiny_patch16", batch: int = 64) -> Config:
    return Config(batch_size=batch, total_steps=1, model=ModelConfig(backbone=backbone))


def test_the_largest_batch_of_each_way_is_found():
    trials = autotune.search(config(), DEVICES, analyze)
    largest = {
        (trial.remat, trial.mesh): max(
            other.batch
            for other in trials
            if other.fits and (other.remat, other.mesh) == (trial.remat, trial.mesh)
        )
        for trial in trials
    }
    assert largest == {
        ("none", "data"): 16,
        ("dots", "data"): 32,
        ("full", "data"): 64,
        ("none", "fsdp"): 16,
        ("dots", "fsdp"): 32,
        ("full", "fsdp"): 64,
    }
    assert (trials[0].batch, trials[0].remat, trials[0].mesh) == (64, "full", "data")
    speeds = [trial.examples_per_second for trial in trials]
    assert speeds == sorted(speeds, reverse=True)


def test_a_batch_that_does_not_fit_is_halved_until_it_does():
    trials = autotune.search(config(batch=128 * DEVICES), DEVICES, analyze)
    plain = [trial for trial in trials if (trial.remat, trial.mesh) == ("none", "data")]
    assert sorted(trial.batch for trial in plain) == [8, 16, 32, 64, 128]
    assert [trial.batch for trial in plain if trial.fits] == [16, 8]


def test_smaller_batches_are_tried_while_they_are_faster():
    def fastest_with_two(changed: Config) -> dict:
        batch = changed.batch_size // DEVICES
        analysis = analyze(changed)
        return {**analysis, "bound": {"examples_per_second": 9.0 - abs(batch - 2), "by": "memory"}}

    trials = autotune.search(config(), DEVICES, fastest_with_two)
    assert trials[0].batch == 2
    assert min(trial.batch for trial in trials) == 1


def test_tensor_and_xla_options_are_tried_from_the_fastest_on():
    def with_options(changed: Config) -> dict:
        analysis = analyze(changed)
        speed = analysis["bound"]["examples_per_second"]
        speed *= {1: 1.0, 2: 1.2, 4: 1.1}[changed.mesh.tensor]
        speed *= 1.1 if "async_collectives" in changed.xla_options else 1.0
        return {**analysis, "bound": {"examples_per_second": speed, "by": "memory"}}

    small = config("vit_small_patch16")  # 6 heads: no tensor 4
    best, *_ = trials = autotune.search(small, DEVICES, with_options)
    assert (best.batch, best.remat, best.tensor) == (64, "full", 2)
    assert best.xla_options == ("async_collectives",)
    assert {trial.tensor for trial in trials} == {1, 2}
    assert "parameters whole, tensor 2, xla_options async_collectives:" in autotune.table(trials)


def test_where_nothing_fits_it_ends():
    def nothing(changed: Config) -> dict:
        return {**analyze(changed), "fits": False, "bound": None}

    trials = autotune.search(config(), DEVICES, nothing)
    assert not any(trial.fits for trial in trials)
    assert "does not fit" in autotune.table(trials)


def test_a_model_without_remat_is_tried_without():
    trials = autotune.search(config("capsnet"), 1, analyze)
    assert {(trial.remat, trial.mesh) for trial in trials} == {("none", "data")}


def test_accumulated_parts_are_what_a_device_holds():
    seen = []

    def note(changed: Config) -> dict:
        seen.append(changed.batch_size)
        return {**analyze(dataclasses.replace(changed, batch_size=changed.batch_size // 4))}

    base = config(batch=8 * 4 * DEVICES)
    accumulating = dataclasses.replace(
        base, optimizer=dataclasses.replace(base.optimizer, grad_accum_steps=4)
    )
    autotune.search(accumulating, DEVICES, note)
    assert seen[:3] == [8 * 4 * DEVICES, 16 * 4 * DEVICES, 32 * 4 * DEVICES]
