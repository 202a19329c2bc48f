"""Classification: losses and metrics against plain readings."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtag.config import AugmentationConfig, Config, DataConfig, EvaluationConfig
from jaxtag.tasks.classify.config import ClassifyConfig
from jaxtag.tasks.classify.evaluation import classification_metrics
from jaxtag.tasks.classify.task import ClassifyTask

CLASSES = 7


class Given(nn.Module):
    """Gives as logits what the first pixels of the picture say."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        scale = self.param("scale", nn.initializers.ones, ())
        return {"logits": scale * images[:, 0, :CLASSES, 0]}


def task(loss: str = "softmax", label_smoothing: float = 0.0, **fields) -> ClassifyTask:
    data = DataConfig(image_size=8, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    config = Config(
        task=ClassifyConfig(loss=loss, label_smoothing=label_smoothing),
        total_steps=1,
        **{"data": data, **fields},
    )
    return ClassifyTask(config, range(CLASSES), Given())


def batch(count: int, seed: int = 0, levels: int = 9) -> dict[str, np.ndarray]:
    rng = np.random.RandomState(seed)
    return {
        "image": rng.randint(0, levels, (count, 8, 8, 3)).astype(np.uint8),
        "label": rng.randint(0, CLASSES, count).astype(np.int32),
        "mask": (rng.rand(count) < 0.8).astype(np.float32),
    }


def logits_of(images: np.ndarray) -> np.ndarray:
    return images[:, 0, :CLASSES, 0].astype(np.float64)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_loss_equals_optax_and_leaves_out_masked_rows() -> None:
    rows, t = batch(12), task(label_smoothing=0.1)
    variables = t.init(jax.random.key(0))
    losses, weights, metrics, changed = t.loss(variables, rows, jax.random.key(1))
    smooth = optax.smooth_labels(jax.nn.one_hot(rows["label"], CLASSES), 0.1)
    expected = optax.softmax_cross_entropy(logits_of(rows["image"]), smooth) * rows["mask"]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_array_equal(weights, rows["mask"])
    assert changed == {}
    right = (logits_of(rows["image"]).argmax(-1) == rows["label"]) * rows["mask"]
    assert metrics["accuracy"] == (right.sum(), rows["mask"].sum())
    plain = t.loss(variables, rows, None)[0]
    hard = optax.softmax_cross_entropy_with_integer_labels(logits_of(rows["image"]), rows["label"])
    np.testing.assert_allclose(plain, hard * rows["mask"], rtol=1e-5)


def test_metrics_equal_a_plain_reading_over_batches() -> None:
    t = task()
    variables = t.init(jax.random.key(0))
    parts = [batch(40, seed) for seed in range(3)]
    sums = [t.score(variables, part)[0] for part in parts]
    metrics = classification_metrics(jax.tree.map(lambda *x: np.sum(x, axis=0), *sums))

    rows = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    mask = rows["mask"] > 0
    chances = softmax(logits_of(rows["image"]))[mask]
    labels = rows["label"][mask]
    own = chances[np.arange(len(labels)), labels]
    assert metrics["examples"] == mask.sum()
    np.testing.assert_allclose(metrics["cross_entropy"], -np.log(own).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["top1"], (chances.argmax(-1) == labels).mean(), rtol=1e-6)
    better = (chances > own[:, None] * (1 + 1e-12)).sum(-1)
    np.testing.assert_allclose(metrics["top5"], (better < 5).mean(), rtol=1e-6)
    confidence, right = chances.max(-1), chances.argmax(-1) == labels
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    np.testing.assert_allclose(metrics["calibration_error"], error, atol=1e-5)
    confusion = np.zeros((CLASSES, CLASSES))
    np.add.at(confusion, (labels, chances.argmax(-1)), 1)
    np.testing.assert_array_equal(sum(np.asarray(s["confusion"]) for s in sums), confusion)


def test_mirror_is_the_mean_over_both_views() -> None:
    rows, t = batch(6), task(evaluation=EvaluationConfig(tta_flip=True))
    variables = t.init(jax.random.key(0))
    expected = softmax(logits_of(rows["image"])) + softmax(logits_of(rows["image"][:, :, ::-1]))
    np.testing.assert_allclose(t.predict(variables, rows), expected / 2, atol=1e-5)


def test_margin_scores_are_shares() -> None:
    rows, t = batch(6), task(loss="margin")
    chances = t.predict(t.init(jax.random.key(0)), rows)
    np.testing.assert_allclose(chances.sum(-1), 1.0, rtol=1e-5)
    losses = t.loss(t.init(jax.random.key(0)), rows, None)[0]
    lengths = logits_of(rows["image"])
    truth = np.eye(CLASSES)[rows["label"]]
    expected = truth * np.maximum(0.9 - lengths, 0) ** 2
    expected += 0.5 * (1 - truth) * np.maximum(lengths - 0.1, 0) ** 2
    np.testing.assert_allclose(losses, expected.sum(-1) * rows["mask"], rtol=1e-5)


def test_grey_gives_the_model_one_channel() -> None:
    t = task(data=DataConfig(image_size=8, grayscale=True, mean=(0.0,), std=(1.0,)))
    images = t.normalize(jnp.asarray(batch(3)["image"]))
    assert images.shape == (3, 8, 8, 1)
    np.testing.assert_allclose(images[..., 0], batch(3)["image"].mean(-1) / 255, atol=1e-6)


def test_mixing_changes_targets_in_training_alone() -> None:
    rows = batch(16) | {"mask": np.ones(16, np.float32)}
    t = task(augmentation=AugmentationConfig(mixup=1.0))
    variables = t.init(jax.random.key(0))
    plain = task().loss(variables, rows, None)[0]
    np.testing.assert_allclose(t.loss(variables, rows, None)[0], plain, rtol=1e-6)
    assert not np.allclose(t.loss(variables, rows, jax.random.key(0))[0], plain)


def test_a_dataset_without_labels_is_refused(tiny_data) -> None:
    from jaxtag.data.labels import LabelNames
    from jaxtag.datasets import prepared
    from jaxtag.errors import UserError

    with pytest.raises(UserError, match="has no labels to classify by"):
        LabelNames.from_source(prepared.open_split("tiny", "train", tiny_data))
