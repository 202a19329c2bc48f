"""Metric learning, the whole way: class folders, training, evaluation, vectors of new pictures."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from calling import call
from PIL import Image
from whole_way import check_going_on, finished_run

from jaxtag.config import flags
from jaxtag.inference import predictor

pytestmark = pytest.mark.usefixtures("one_device")
COLOURS = {"blue": (40, 60, 220), "green": (30, 200, 40), "red": (220, 30, 30)}
CONFIG = """
from jaxtag.config import (
    Config, DataConfig, EmbedConfig, EvaluationConfig, ModelConfig, OptimizerConfig
)

def get_config(data_dir: str, steps: int = 12):
    return Config(
        task="embed",
        criterion="proxy_anchor",
        batch_size=12,
        total_steps=steps,
        log_every=4,
        evaluate_every=6,
        checkpoint_every=6,
        data=DataConfig(dataset="colours", data_dir=data_dir, image_size=12, flip=True),
        model=ModelConfig(backbone="airbench94", kwargs={"widths": (8, 8)}),
        embed=EmbedConfig(embedding_dim=8, samples_per_class=4, loss_kwargs={"scale": 16.0}),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=0.02, ema_decay=0.5,
            lr_mults=(("whiten/kernel$", 0.0), (".*", 1.0)),
        ),
        evaluation=EvaluationConfig(batch_size=8, num_samples_shown=4),
    )
"""


def picture(colour: tuple[int, int, int], seed: int) -> Image.Image:
    """Mostly noise, which raw pixels are compared by; its mean is the colour."""
    rng = np.random.RandomState(seed)
    pixels = rng.uniform(0, 255, (12, 12, 3)) * 0.8 + 0.2 * np.array(colour)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def run(one_device, tmp_path_factory) -> tuple[Path, str]:
    """(the work directory of a finished run, what to give as --config)."""
    root = tmp_path_factory.mktemp("colours")
    for split, count in (("train", 16), ("validation", 7)):
        for name, colour in COLOURS.items():
            folder = root / "source" / split / name
            folder.mkdir(parents=True)
            for seed in range(count):
                place = len(name) * 1000 + seed + 100 * (split == "train")
                picture(colour, place).save(folder / f"{seed}.png")
    return finished_run(root, "colours", CONFIG)


def test_it_learns_more_than_raw_pixels_tell(run) -> None:
    workdir, _ = run
    rows = json.loads((workdir / "results.json").read_text())
    assert rows["model"]["examples"] == rows["raw pixels"]["examples"] == 21
    assert rows["model"]["map@r"] > 0.8 > 0.7 > rows["raw pixels"]["map@r"]
    assert rows["model"]["recall@1"] > 0.8 and rows["model"]["nmi"] > 0.5
    assert Image.open(workdir / "neighbours.png").size[0] > 200


def test_evaluate_gives_what_training_gave(run) -> None:
    workdir, _ = run
    done = call("evaluate", f"--workdir={workdir}", "--step=best")
    assert done.status == 0, done.err
    done = call("evaluate", f"--workdir={workdir}")
    rows = json.loads((workdir / "results.json").read_text())
    for name in ("recall@1", "recall@8", "r_precision", "map@r", "nmi"):
        assert done.last[name] == pytest.approx(rows["model"][name], abs=1e-5)


def test_annotate_gives_the_vectors_that_embed_gives(run, tmp_path) -> None:
    workdir, _ = run
    for name, colour in COLOURS.items():
        picture(colour, 7).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    output = tmp_path / "vectors.jsonl"
    done = call("annotate", f"--workdir={workdir}", f"--output={output}", str(tmp_path))
    assert done.status == 0, done.err
    lines = {Path(line["file"]).stem: line for line in map(json.loads, output.open())}
    assert "error" in lines.pop("broken")
    model = predictor.load(workdir)
    pictures = np.stack([np.asarray(Image.open(tmp_path / f"{name}.png")) for name in COLOURS])
    expected = jax.jit(model.task.embed)(model.variables, pictures)
    found = [lines[name]["embedding"] for name in COLOURS]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_going_on_gives_the_bits_of_an_unbroken_run(run, tmp_path, monkeypatch) -> None:
    """Its batches too: of each class as many, and the same ones."""
    _, name = run
    config = flags.load(f"{name},steps=4")
    config.checkpoint_every = 3
    check_going_on(config, tmp_path, monkeypatch, stop_at=2)
