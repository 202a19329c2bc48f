"""The loop on real files: what it writes, exact resume, and what it does when things go wrong."""

import dataclasses
import json
import shutil
import time

import jax
import numpy as np
import pytest
from etils import epath
from tiny import tiny_config

from jaxtag import datasets
from jaxtag.config import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from jaxtag.errors import UserError
from jaxtag.inference import predictor
from jaxtag.tasks.caption.config import CaptionConfig, DecodingConfig
from jaxtag.tasks.caption.task import CaptionTask
from jaxtag.training import (
    checkpoint_manifest,
    log_window,
    loop,
    preemption,
    run_config,
    run_data,
)
from jaxtag.training.preemption import StopRequested
from jaxtag.training.timer import StartupTimer, StepTimer


def _run(config, workdir, **flags):
    config = run_config.resolve_run_config(config, workdir, **flags)
    data = run_data.open_data(config, workdir)
    return loop.train(config, workdir, CaptionTask(config, data.vocabulary), data)


def _leaves(state):
    keys_as_data = state.replace(key=jax.random.key_data(state.key))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(keys_as_data)]


@pytest.fixture(scope="module")
def unbroken(tiny_data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    return workdir, _run(tiny_config(tiny_data), workdir)


def _lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_what_a_run_writes(unbroken):
    workdir, outcome = unbroken
    lines = _lines(workdir)
    train = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in train] == [2, 4, 6]
    assert train[-1]["loss"] < train[0]["loss"]
    assert {"images_per_second", "data_wait_fraction", "grad_norm", "learning_rate"} <= set(
        train[0]
    )
    evaluations = [line for line in lines if line["split"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [3, 6]
    assert evaluations[-1]["examples"] == 8
    assert outcome.evaluation.metrics["CIDEr"] == evaluations[-1]["CIDEr"]
    assert {"config.json", "tokenizer.json", "checkpoints", "board"} <= {
        path.name for path in workdir.iterdir()
    }


def test_a_stopped_run_goes_on_bit_for_bit(unbroken, tiny_data, tmp_path, monkeypatch):
    config = tiny_config(tiny_data)
    monkeypatch.setattr(preemption.Preemption, "requested", lambda self, step: step == 3)
    first = _run(config, tmp_path)
    assert first.preempted and first.evaluation is None and int(first.state.step) == 3
    monkeypatch.setattr(preemption.Preemption, "requested", lambda self, step: False)
    second = _run(config, tmp_path)
    for ours, theirs in zip(_leaves(second.state), _leaves(unbroken[1].state), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert second.evaluation.captions == unbroken[1].evaluation.captions
    steps = [line["step"] for line in _lines(tmp_path) if line["split"] == "train"]
    assert steps == [2, 4, 6]  # the window that was cut at 3 ends where it would have ended


@pytest.mark.slow
def test_stopped_in_an_evaluation_it_has_saved_and_evaluates_when_it_goes_on(
    unbroken, tiny_data, tmp_path, monkeypatch
):
    config = tiny_config(tiny_data)
    with monkeypatch.context() as patch:

        def stop(self, step):
            raise StopRequested

        patch.setattr(preemption.Preemption, "check", stop)
        first = _run(config, tmp_path)
    assert first.preempted and first.evaluation is None
    assert _saved_metrics(tmp_path) == {}
    second = _run(config, tmp_path)
    for ours, theirs in zip(_leaves(second.state), _leaves(unbroken[1].state), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert _evaluations(tmp_path) == _evaluations(unbroken[0])
    assert _saved_metrics(tmp_path)["CIDEr"] == _evaluations(tmp_path)[3]["CIDEr"]


def test_an_evaluation_whose_metrics_were_written_is_not_repeated(
    unbroken, tiny_data, tmp_path, monkeypatch
):
    """The run was killed before they joined the checkpoint."""
    workdir = tmp_path / "run"
    shutil.copytree(unbroken[0], workdir)
    for step in (4, 6):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    folder = workdir / "checkpoints" / "3"
    manifest = checkpoint_manifest.read(folder)
    notes = {**manifest.notes, "metrics": {}}
    without = {"files": dict(manifest.files), "notes": notes, "checksum": manifest.checksum}
    checkpoint_manifest._write(epath.Path(folder), without)
    monkeypatch.setattr(preemption.Preemption, "requested", lambda self, step: step == 3)
    evaluation = _evaluations(workdir)[3]
    assert _run(tiny_config(tiny_data), workdir).preempted
    assert _saved_metrics(workdir)["CIDEr"] == evaluation["CIDEr"]


def _saved_metrics(workdir):
    return checkpoint_manifest.read(workdir / "checkpoints" / "3").notes["metrics"]


def _evaluations(workdir):
    rows = [line for line in _lines(workdir) if line.pop("split") == "evaluation"]
    return {row.pop("step"): row for row in rows}


def test_a_finished_run_only_evaluates_again(unbroken, tiny_data):
    workdir, outcome = unbroken
    again = _run(tiny_config(tiny_data), workdir)
    assert again.evaluation.metrics == pytest.approx(outcome.evaluation.metrics)


def test_another_configuration_is_refused_unless_allowed(unbroken, tiny_data):
    workdir, _ = unbroken
    changed = tiny_config(tiny_data, log_every=1)
    changed.task.label_smoothing = 0.2
    with pytest.raises(
        UserError, match=r"config\.task\.label_smoothing: trained with 0.1, now 0.2"
    ):
        run_config.resolve_run_config(changed, workdir)
    assert json.loads((workdir / "config.json").read_text())["task"]["label_smoothing"] == 0.1


def test_a_lost_tokenizer_is_no_reason_to_train_another(unbroken, tiny_data):
    workdir, _ = unbroken
    path = workdir / "tokenizer.json"
    text = path.read_text()
    path.unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        run_data.open_data(tiny_config(tiny_data), workdir)
    path.write_text(text)


def test_the_average_is_what_is_used(unbroken):
    workdir, outcome = unbroken
    model = predictor.load(workdir)
    for ours, theirs in zip(
        jax.tree.leaves(model.variables["params"]),
        jax.tree.leaves(outcome.state.ema["params"]),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_gradients_that_are_not_finite_stop_the_run(tiny_data, tmp_path):
    config = tiny_config(tiny_data, max_consecutive_nonfinite=2, log_every=3)
    config.data = dataclasses.replace(config.data, std=(0.0, 0.0, 0.0))
    with pytest.raises(UserError, match="2 steps in a row, 0 to 1") as raised:
        _run(config, tmp_path)
    assert "the loss of 8 of 8 examples is not finite, records of process 0: " in str(raised.value)


def test_too_many_broken_pictures_stop_the_run(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(log_window, "_ENOUGH_IMAGES", 8)
    # A limit that every picture breaks stands for pictures damaged after they were prepared.
    monkeypatch.setattr("jaxtag.data.decode.MAX_PIXELS", 10)
    config, example_spec = tiny_config(tiny_data, log_every=1), CaptionTask.example_spec
    monkeypatch.setattr(
        CaptionTask,
        "example_spec",
        lambda *args, **kwargs: dataclasses.replace(example_spec(*args, **kwargs), max_pixels=10),
    )
    with pytest.raises(UserError, match="could not be decoded, more than"):
        _run(config, tmp_path)


@pytest.mark.slow
def test_overfits_eight_captions_to_a_perfect_score(tmp_path):
    """Eight pictures of noise, one caption each: learnt by heart, word for word."""
    from PIL import Image

    rng = np.random.default_rng(0)
    source = tmp_path / "source"
    source.mkdir()
    vocabulary = [
        "amber",
        "bird",
        "climbs",
        "down",
        "every",
        "fallen",
        "green",
        "hill",
        "inside",
        "july",
    ]
    lines = ["file,caption,split"]
    # The data set wants a validation part; the run is evaluated on what it has learnt.
    Image.new("RGB", (32, 32)).save(source / "held_out.png")
    lines.append("held_out.png,nothing,validation")
    for number in range(8):
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(source / f"{number}.png")
        caption = " ".join(rng.permutation(vocabulary)[:6])
        lines.append(f"{number}.png,{caption},train")
    (source / "captions.csv").write_text("\n".join(lines))
    datasets.prepare("eight", source, tmp_path / "data")
    config = tiny_config(
        tmp_path / "data",
        total_steps=120,
        evaluate_every=1000,
        checkpoint_every=1000,
        log_every=60,
        task=CaptionConfig(vocab_size=400, max_length=16, decoding=DecodingConfig(method="greedy")),
        data=DataConfig(
            dataset="eight",
            data_dir=str(tmp_path / "data"),
            evaluation_split="train",
            image_size=32,
            crop_scale=(1.0, 1.0),
        ),
        model=ModelConfig(
            backbone="vit_tiny_patch16",
            kwargs={"depth": 1, "width": 64, "heads": 2, "mlp_dim": 256},
            decoder_width=64,
            decoder_depth=1,
            decoder_heads=2,
            dropout=0.0,
        ),
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=10),
        evaluation=EvaluationConfig(batch_size=8),
    )
    outcome = _run(config, tmp_path / "run")
    for index, caption in outcome.evaluation.captions.items():
        assert [caption] == outcome.evaluation.references[index]
    assert outcome.evaluation.metrics["BLEU-4"] == pytest.approx(1.0)
    assert outcome.evaluation.metrics["CIDEr"] == pytest.approx(10.0)


def test_a_windows_rate_counts_the_time_of_its_last_steps(monkeypatch):
    """Steps are started ahead: what is left of them is waited for, and is time of the window."""
    get = jax.device_get

    def slow(values):
        time.sleep(0.5)
        return get(values)

    monkeypatch.setattr(jax, "device_get", slow)
    clock = StepTimer(StartupTimer(), lambda text: None)
    window = log_window.LogWindow(Config(batch_size=8))
    one = (np.float32(1), np.float32(1))
    names = ("loss", "learning_rate", "skipped_steps", "skipped_in_row")
    for _ in range(2):
        window.add({**dict.fromkeys(names, one), "corrupt_images": (np.float32(0), np.float32(8))})
    values = window.read(2, clock, str)
    clock.close()
    assert values["seconds_per_step"] >= 0.25
    assert values["images_per_second"] <= 32
