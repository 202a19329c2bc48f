"""Evaluation of a tagger over 8 devices, with padding and a broken picture, against a plain one."""

import io
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from jaxtag.config import Config, DataConfig, EvaluationConfig
from jaxtag.data.labels import LabelNames
from jaxtag.distributed import mesh as meshes
from jaxtag.metrics import multilabel
from jaxtag.tasks.evaluator import Evaluator, keep_images
from jaxtag.tasks.tag.calibration import TagCalibration, calibrated_scores, fit_calibration
from jaxtag.tasks.tag.config import TagConfig
from jaxtag.tasks.tag.evaluation import TagEvaluation, select_tags
from jaxtag.tasks.tag.task import TagTask

COUNT, BROKEN, SIZE = 21, 13, 8
NAMES = ("bird", "cat", "dog", "never")
KEPT = np.arange(COUNT) != BROKEN


class Given(nn.Module):
    """Gives as logits what the first pixels of the picture say."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        scale = self.param("scale", nn.initializers.ones, ())
        return {"logits": scale * (images[:, 0, : len(NAMES), 0] - 4)}


class Records:
    """Stands for a split of a prepared data set."""

    def __init__(self, split: str, count: int = COUNT):
        rng = np.random.RandomState(0)
        self.split = split
        self.count = count
        self.pixels = rng.randint(0, 9, (COUNT, SIZE, SIZE, 3)).astype(np.uint8)
        self.logits = self.pixels[:, 0, : len(NAMES), 0].astype(np.float32) - 4
        self.tags = rng.rand(COUNT, len(NAMES)) < 0.3 + 0.1 * self.logits
        self.tags[:, -1] = False
        self.known = rng.rand(COUNT, len(NAMES)) < 0.9

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, indices: list[int]) -> list[dict]:
        return [self._record(index) for index in indices]

    def _record(self, index: int) -> dict:
        data = io.BytesIO()
        Image.fromarray(self.pixels[index]).save(data, "PNG")
        return {
            "image": data.getvalue()[: 20 if index == BROKEN else None],
            "tags": np.flatnonzero(self.tags[index] & self.known[index]).tolist(),
            "unknown_tags": np.flatnonzero(~self.known[index]).tolist(),
        }


CONFIG = Config(
    task=TagConfig(loss="focal"),
    total_steps=1,
    data=DataConfig(
        image_size=SIZE,
        crop_scale=(1.0, 1.0),
        mean=(0.0,) * 3,
        std=(1 / 255,) * 3,
        num_threads=1,
    ),
    evaluation=EvaluationConfig(batch_size=8, num_samples_shown=3),
)


def evaluate(records: Records, calibration: TagCalibration | None = None) -> TagEvaluation:
    mesh = meshes.make_mesh()
    assert mesh.shape["data"] == 8
    task = TagTask(CONFIG, LabelNames(NAMES), Given())
    task.calibration = calibration
    return Evaluator(task, mesh)(task.init(jax.random.key(0)), records, records.split)


@pytest.fixture(scope="module")
def evaluation() -> TagEvaluation:
    return evaluate(Records("validation"))


def test_metrics_equal_those_of_a_plain_reading(evaluation) -> None:
    records = Records("validation")
    truth, known = (records.tags & records.known)[KEPT], records.known[KEPT]
    logits = records.logits[KEPT]
    calibration = fit_calibration(logits, truth, known)
    assert evaluation.calibration.thresholds == pytest.approx(calibration.thresholds, abs=1e-5)
    scores = calibrated_scores(logits, calibration.scale, calibration.shift)
    per_tag = multilabel.per_class_metrics(scores, truth, known, np.array(calibration.thresholds))
    expected = multilabel.ranking_metrics(scores, truth, known) | multilabel.threshold_metrics(
        per_tag
    )
    for name, value in expected.items():
        assert evaluation.metrics[name] == pytest.approx(value, abs=1e-6), name
    assert evaluation.metrics["examples"] == COUNT - 1
    assert evaluation.per_class()["cat"]["present"] == truth[:, 1].sum()


def test_a_subset_is_of_the_first_images_alone(evaluation) -> None:
    subset = evaluation.subset_metrics(16)
    first = evaluation.index < 16
    expected = multilabel.ranking_metrics(
        *(evaluation.rows[name][first] for name in ("scores", "tags", "known"))
    )
    assert subset["map"] == expected["map"] and subset["examples"] == 15
    assert subset["map"] != evaluation.metrics["map"]


def test_samples_have_the_tags_that_are_selected(evaluation) -> None:
    records = Records("validation")
    samples = evaluation.samples()
    assert [sample.index for sample in samples] == [0, 1, 2]
    for sample in samples:
        position = sample.index
        np.testing.assert_array_equal(sample.image, records.pixels[position])
        present = np.flatnonzero(records.tags[position] & records.known[position])
        assert sample.targets == [", ".join(NAMES[number] for number in present)]
        tags = select_tags(evaluation.rows["scores"][position], evaluation.calibration)
        assert sample.prediction.split(" (")[0] == NAMES[tags[0]]
        assert len(sample.prediction.split(", ")) == len(tags)


def test_images_of_samples_keep_no_batch_in_memory() -> None:
    batch = {
        "image": np.zeros((8, 2, 2, 3), np.uint8),
        "mask": np.array([0, 1, 1, 0, 1, 1, 1, 1], np.float32),
        "index": np.arange(8, dtype=np.int32),
    }
    images: dict[int, np.ndarray] = {}
    keep_images(batch, images, 3)
    assert list(images) == [1, 2, 4]
    assert all(image.base is None for image in images.values())
    keep_images(batch, images, 3)
    assert len(images) == 3


def test_thresholds_are_fitted_on_the_evaluation_split_alone(evaluation, tmp_path) -> None:
    assert evaluation.fitted
    evaluation.save_artifacts(tmp_path, 7)
    saved = json.loads((tmp_path / "thresholds/7.json").read_text())
    assert saved["thresholds"] == dict(zip(NAMES, evaluation.calibration.thresholds, strict=True))

    other = evaluate(Records("test"))
    assert not other.fitted and other.calibration.thresholds == (0.5,) * len(NAMES)
    other.save_artifacts(tmp_path, 8)
    assert not (tmp_path / "thresholds/8.json").exists()

    calibrated = evaluate(Records("test"), evaluation.calibration)
    assert not calibrated.fitted
    held_out = {name: v for name, v in evaluation.metrics.items() if "cross_validated" in name}
    assert len(held_out) == 2  # only where the thresholds were fitted on these very images
    assert calibrated.metrics | held_out == pytest.approx(evaluation.metrics)


def test_an_image_gets_its_likeliest_tag_at_least() -> None:
    calibration = TagCalibration(1.0, 0.0, (0.9, 0.4, 0.1, 0.5))
    assert select_tags(np.array([0.8, 0.5, 0.6, 0.1]), calibration).tolist() == [2, 1]
    assert select_tags(np.array([0.8, 0.5, 0.6, 0.1]), calibration, limit=1).tolist() == [2]
    assert select_tags(np.array([0.8, 0.3, 0.0, 0.1]), calibration).tolist() == [0]
