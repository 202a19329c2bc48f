"""Evaluation of a tagger over 8 devices, with padding and a broken picture, against a plain one."""

import dataclasses
import io
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from jaxtag.augment import Augmentation
from jaxtag.config.schema import Config, DataConfig, EvaluationConfig
from jaxtag.data.labels import LabelNames
from jaxtag.distributed import mesh as meshes
from jaxtag.losses import multilabel as multilabel_losses
from jaxtag.metrics import multilabel
from jaxtag.tasks.tag import evaluator as tags
from jaxtag.tasks.tag import fit_calibration
from jaxtag.tasks.tag import task as tag

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
    task="tag",
    criterion="focal",
    total_steps=1,
    data=DataConfig(image_size=SIZE, crop_scale=(1.0, 1.0), num_threads=1),
    evaluation=EvaluationConfig(batch_size=8, num_samples_shown=3),
)
TASK = tag.TagTask(
    Given(),
    tags=len(NAMES),
    criterion=multilabel_losses.make_loss("focal", {}),
    image_size=SIZE,
    mean=(0.0,) * 3,
    std=(1 / 255,) * 3,
    augmentation=Augmentation(),
)


def evaluate(records: Records, task: tag.TagTask = TASK) -> tags.Evaluation:
    mesh = meshes.make_mesh()
    assert mesh.shape["data"] == 8
    return tags.TagEvaluator(task, mesh, CONFIG, LabelNames(NAMES))(
        TASK.init(jax.random.key(0)), records
    )


@pytest.fixture(scope="module")
def evaluation() -> tags.Evaluation:
    return evaluate(Records("validation"))


def test_metrics_equal_those_of_a_plain_reading(evaluation) -> None:
    records = Records("validation")
    truth, known = (records.tags & records.known)[KEPT], records.known[KEPT]
    logits = records.logits[KEPT]
    decisions = fit_calibration.fit_calibration(logits, truth, known)
    assert evaluation.decisions.thresholds == pytest.approx(decisions.thresholds, abs=1e-5)
    scores = fit_calibration.calibrated_scores(logits, decisions.scale, decisions.shift)
    per_tag = multilabel.per_class_metrics(scores, truth, known, np.array(decisions.thresholds))
    expected = multilabel.ranking_metrics(scores, truth, known) | multilabel.threshold_metrics(
        per_tag
    )
    for name, value in expected.items():
        assert evaluation.metrics[name] == pytest.approx(value, abs=1e-6), name
    assert evaluation.metrics["examples"] == COUNT - 1
    assert evaluation.per_tag()["cat"]["present"] == truth[:, 1].sum()


def test_a_part_is_of_the_first_pictures_alone(evaluation) -> None:
    part = evaluation.part(Records("validation", 16))
    kept = evaluation.index < 16
    expected = multilabel.ranking_metrics(
        evaluation.scores[kept], evaluation.tags[kept], evaluation.known[kept]
    )
    assert part["map"] == expected["map"] and part["examples"] == 15
    assert part["map"] != evaluation.metrics["map"]


def test_pictures_are_shown_with_the_tags_that_they_are_given(evaluation) -> None:
    records = Records("validation")
    shown = evaluation.shown()
    assert [position for position, *_ in shown] == [0, 1, 2]
    for position, picture, said, right in shown:
        np.testing.assert_array_equal(picture, records.pixels[position])
        present = np.flatnonzero(records.tags[position] & records.known[position])
        assert right == [", ".join(NAMES[number] for number in present)]
        given = tags.given_tags(evaluation.scores[position], evaluation.decisions)
        assert said.split(" (")[0] == NAMES[given[0]] and len(said.split(", ")) == len(given)


def test_thresholds_are_chosen_on_the_evaluation_split_alone(evaluation, tmp_path) -> None:
    assert evaluation.chosen
    evaluation.keep(tmp_path, 7)
    kept = json.loads((tmp_path / "thresholds/7.json").read_text())
    assert kept["thresholds"] == dict(zip(NAMES, evaluation.decisions.thresholds, strict=True))

    other = evaluate(Records("test"))
    assert not other.chosen and other.decisions.thresholds == (0.5,) * len(NAMES)
    other.keep(tmp_path, 8)
    assert not (tmp_path / "thresholds/8.json").exists()

    decided = evaluate(Records("test"), dataclasses.replace(TASK, decisions=evaluation.decisions))
    assert not decided.chosen
    assert decided.metrics == pytest.approx(evaluation.metrics)


def test_a_picture_gets_its_likeliest_tag_at_least() -> None:
    decisions = tags.Decisions(1.0, 0.0, (0.9, 0.4, 0.1, 0.5))
    given = tags.given_tags(np.array([0.8, 0.5, 0.6, 0.1]), decisions)
    assert given.tolist() == [2, 1]
    assert tags.given_tags(np.array([0.8, 0.5, 0.6, 0.1]), decisions, most=1).tolist() == [2]
    assert tags.given_tags(np.array([0.8, 0.3, 0.0, 0.1]), decisions).tolist() == [0]
