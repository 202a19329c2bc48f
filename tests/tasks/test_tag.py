"""Multi-label tagging: the loss, what it leaves out, predictions, and decisions kept in a file."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtag.config import AugmentationConfig, Config, DataConfig, EvaluationConfig, ModelConfig
from jaxtag.errors import UserError
from jaxtag.models import MLDecoder
from jaxtag.tasks.tag.calibration import TagCalibration
from jaxtag.tasks.tag.config import TagConfig
from jaxtag.tasks.tag.task import TagTask

TAGS = 7
NAMES = list("abcdefg")


class Given(nn.Module):
    """Gives as logits what the first pixels of the picture say."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        scale = self.param("scale", nn.initializers.ones, ())
        return {"logits": scale * (images[:, 0, :TAGS, 0] - 4)}


def task(**fields) -> TagTask:
    """Fields are those of `config.task`, or other sections of the configuration."""
    own = {name: fields.pop(name) for name in list(fields) if name in TagConfig.__annotations__}
    config = Config(
        task=TagConfig(**{"loss": "binary_cross_entropy", **own}),
        total_steps=1,
        data=DataConfig(image_size=8, mean=(0.0,) * 3, std=(1 / 255,) * 3),
        **fields,
    )
    return TagTask(config, range(TAGS), Given())


def batch(count: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.RandomState(0)
    return {
        "image": rng.randint(0, 9, (count, 8, 8, 3)).astype(np.uint8),
        "tags": (rng.rand(count, TAGS) < 0.4).astype(np.uint8),
        "known": (rng.rand(count, TAGS) < 0.7).astype(np.uint8),
        "mask": (rng.rand(count) < 0.8).astype(np.float32),
    }


def logits_of(rows: dict[str, np.ndarray]) -> np.ndarray:
    return rows["image"][:, 0, :TAGS, 0].astype(np.float32) - 4


def loss(t: TagTask, rows: dict[str, np.ndarray], key: jax.Array | None = None) -> tuple:
    return t.loss(t.init(jax.random.key(0)), rows, key)


def test_loss_is_the_sum_over_known_tags_of_pictures_that_count() -> None:
    rows = batch()
    losses, weights, metrics, changed = loss(task(), rows)
    each = optax.sigmoid_binary_cross_entropy(logits_of(rows), rows["tags"])
    expected = (each * rows["known"]).sum(-1) * rows["mask"]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_array_equal(weights, rows["mask"])
    assert changed == {}
    assert metrics["loss"][0] == pytest.approx(float(expected.sum()), rel=1e-5)
    first = rows["tags"][np.arange(12), logits_of(rows).argmax(-1)]
    assert metrics["precision@1"] == ((first * rows["mask"]).sum(), rows["mask"].sum())


def test_what_is_not_known_changes_nothing() -> None:
    rows = batch()
    other = rows | {"tags": np.where(rows["known"] > 0, rows["tags"], 1 - rows["tags"])}
    assert not np.array_equal(rows["tags"], other["tags"])
    for key in (None, jax.random.key(1)):
        np.testing.assert_array_equal(loss(task(), rows, key)[0], loss(task(), other, key)[0])


def test_smoothing_is_of_training_alone() -> None:
    rows, smooth = batch(), task(label_smoothing=0.2)
    np.testing.assert_array_equal(loss(smooth, rows)[0], loss(task(), rows)[0])
    targets = 0.8 * rows["tags"] + 0.1
    each = optax.sigmoid_binary_cross_entropy(logits_of(rows), targets)
    expected = (each * rows["known"]).sum(-1) * rows["mask"]
    np.testing.assert_allclose(loss(smooth, rows, jax.random.key(1))[0], expected, rtol=1e-5)


def test_a_mixed_picture_is_known_where_both_are() -> None:
    """Pictures that are alike stay as they are when mixed, so that labels alone tell."""
    rows = batch() | {"mask": np.ones(12, np.float32)}
    rows["image"][:] = rows["image"][0]
    t = task(augmentation=AugmentationConfig(mixup=1.0))
    key = jax.random.key(3)
    both = np.stack([rows["tags"], 1 - rows["known"]], 1).astype(np.float32)
    _, mixed = t.augmentation.mix(
        t.normalize(rows["image"]), both.reshape(12, -1), jax.random.split(key, 3)[1]
    )
    targets, unknown = np.asarray(mixed).reshape(12, 2, TAGS).swapaxes(0, 1)
    assert ((targets > 0) & (targets < 1)).any()
    known = rows["known"] * np.roll(rows["known"], 1, axis=0)
    np.testing.assert_array_equal(unknown == 0, known > 0)
    each = optax.sigmoid_binary_cross_entropy(logits_of(rows), targets)
    np.testing.assert_allclose(loss(t, rows, key)[0], (each * known).sum(-1), rtol=1e-5)


def test_presence_weighs_as_the_collection_says() -> None:
    rows, t = batch(), task(max_pos_weight=3.0)
    variables = t.init(jax.random.key(0))
    np.testing.assert_array_equal(t.loss(variables, rows, None)[0], loss(task(), rows)[0])
    weights = jnp.arange(1.0, TAGS + 1)
    variables["tag_weights"]["positive_weight"] = weights
    losses, _, _, changed = t.loss(variables, rows, jax.random.key(0))
    each = optax.sigmoid_binary_cross_entropy(logits_of(rows), rows["tags"])
    each *= np.where(rows["tags"] > 0, weights, 1.0)
    np.testing.assert_allclose(losses, (each * rows["known"]).sum(-1) * rows["mask"], rtol=1e-5)
    np.testing.assert_array_equal(changed["tag_weights"]["positive_weight"], weights)


def test_predictions_are_calibrated_and_of_both_views() -> None:
    rows, t = batch(), task()
    variables = t.init(jax.random.key(0))
    plain = t.predict(variables, rows)
    np.testing.assert_allclose(plain, jax.nn.sigmoid(logits_of(rows)), rtol=1e-5)
    t.calibration = TagCalibration(0.5, -1.0, (0.5,) * TAGS)
    expected = jax.nn.sigmoid(0.5 * logits_of(rows) - 1)
    np.testing.assert_allclose(t.predict(variables, rows), expected, rtol=1e-5)
    turned = rows | {"image": rows["image"][:, :, ::-1]}
    both = (logits_of(rows) + logits_of(turned)) / 2
    mirrored = task(evaluation=EvaluationConfig(tta_flip=True))
    np.testing.assert_allclose(mirrored.logits(variables, rows), both, atol=1e-5)


def test_the_configuration_chooses_the_head() -> None:
    model = ModelConfig(backbone="resnet18", kwargs={"depths": (1, 1, 1, 1)})
    config = Config(task=TagConfig(loss="asymmetric"), total_steps=1, model=model)
    linear = TagTask(config, range(TAGS))
    assert linear.backbone == (linear.model, ()) and linear.model.num_classes == TAGS
    query = TagTask(dataclasses.replace(config, task=TagConfig(head="query")), range(TAGS))
    assert isinstance(query.model, MLDecoder)
    assert query.backbone == (query.model.backbone, ("backbone",))


def test_decisions_are_the_same_from_a_file(tmp_path) -> None:
    decisions, path = (
        TagCalibration(1.25, -0.1, tuple(np.linspace(0.1, 0.7, TAGS))),
        tmp_path / "3.json",
    )
    decisions.save(path, NAMES)
    assert TagCalibration.load(path, NAMES) == decisions
    assert [item.name for item in tmp_path.iterdir()] == ["3.json"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda values: values["thresholds"].pop("a"), "other tags"),
        (lambda values: values["thresholds"].update(a="high"), "'high' is no number"),
        (lambda values: values.pop("scale"), "damaged .*scale"),
        (lambda values: values.update(thresholds=3), "damaged"),
    ],
)
def test_a_wrong_file_of_decisions_is_named(tmp_path, change, message) -> None:
    path = tmp_path / "3.json"
    TagCalibration.identity(TAGS).save(path, NAMES)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"3.json.*{message}"):
        TagCalibration.load(path, NAMES)
