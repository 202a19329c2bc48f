"""A classifier, the whole way: class folders, training, evaluation, tags for new pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from calling import call
from PIL import Image
from whole_way import check_going_on, finished_run

from jaxtag.config import flags

pytestmark = pytest.mark.usefixtures("one_device")
CLASSES = {"blue": (40, 60, 220), "green": (30, 200, 40), "red": (220, 30, 30)}
CONFIG = """
from jaxtag.config import (
    AugmentationConfig, CheckpointConfig, Config, DataConfig, EvaluationConfig, ModelConfig,
    OptimizerConfig,
)

def get_config(data_dir: str, steps: int = 30):
    fields = (("depths", (1, 1, 1, 1)), ("bottleneck", False), ("small_images", True))
    return Config(
        task="classify",
        batch_size=8,
        total_steps=steps,
        log_every=10,
        evaluate_every=15,
        checkpoint_every=15,
        label_smoothing=0.1,
        data=DataConfig(dataset="colours", data_dir=data_dir, image_size=16, flip=True),
        model=ModelConfig(backbone="resnet18", kwargs=fields),
        augmentation=AugmentationConfig(crop_padding=2, mixup=0.1, random_erasing=0.1),
        optimizer=OptimizerConfig(
            name="sgd",
            kwargs={"momentum": 0.9, "nesterov": True},
            learning_rate=0.02,
            ema_decay=0.8,
        ),
        evaluation=EvaluationConfig(batch_size=8, num_samples_shown=4),
    )
"""


def picture(colour: tuple[int, int, int], seed: int) -> Image.Image:
    rng = np.random.RandomState(seed)
    pixels = np.clip(rng.normal(colour, 25, (20 + seed % 5, 24, 3)), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def run(one_device, tmp_path_factory) -> tuple[Path, str]:
    """(the work directory of a finished run, what to give as --config)."""
    root = tmp_path_factory.mktemp("colours")
    for split, count in (("train", 16), ("validation", 5)):
        for name, colour in CLASSES.items():
            folder = root / "source" / split / name
            folder.mkdir(parents=True)
            for seed in range(count):
                picture(colour, seed + 100 * (split == "train")).save(folder / f"{seed}.png")
    return finished_run(root, "colours", CONFIG)


def test_it_learns_and_leaves_what_it_found(run) -> None:
    workdir, _ = run
    assert json.loads((workdir / "classes.json").read_text()) == sorted(CLASSES)
    rows = json.loads((workdir / "results.json").read_text())
    assert rows["model"]["top1"] > 0.9 and rows["model"]["examples"] == 15
    assert rows["most frequent class"]["top1"] == pytest.approx(1 / 3)
    assert Image.open(workdir / "classes.png").size[0] > 200
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "evaluation"}


def test_evaluate_gives_what_training_gave(run) -> None:
    workdir, _ = run
    done = call("evaluate", f"--workdir={workdir}")
    assert done.status == 0, done.err
    rows = json.loads((workdir / "results.json").read_text())
    for name in ("top1", "top5", "cross_entropy", "calibration_error"):
        assert done.last[name] == pytest.approx(rows["model"][name], abs=1e-5)


def test_annotate_tags_new_pictures(run, tmp_path) -> None:
    workdir, _ = run
    for name, colour in CLASSES.items():
        picture(colour, 7).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    output = tmp_path / "tags.jsonl"
    done = call("annotate", f"--workdir={workdir}", f"--output={output}", str(tmp_path))
    assert done.status == 0, done.err
    lines = {Path(line["file"]).stem: line for line in map(json.loads, output.open())}
    assert "error" in lines.pop("broken")
    for name, line in lines.items():
        assert line["tags"][0]["tag"] == name
        assert sum(tag["score"] for tag in line["tags"]) == pytest.approx(1, abs=1e-3)


def test_going_on_gives_the_bits_of_an_unbroken_run(run, tmp_path, monkeypatch) -> None:
    """Batch statistics and their averages too, also where it stops when moments are due."""
    _, name = run
    config = flags.load(f"{name},steps=6")
    config.checkpoint_every, config.evaluate_every, config.optimizer.ema_bn_batches = 4, 3, 2
    state = check_going_on(config, tmp_path, monkeypatch, stop_at=3)
    assert np.any(state.collections["batch_stats"]["stem_norm"]["mean"])
