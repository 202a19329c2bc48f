"""The task of metric learning: vectors of length 1, the loss of a batch, refused settings."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtag import models
from jaxtag.config import AugmentationConfig, Config, DataConfig, checks, flags
from jaxtag.errors import UsageError
from jaxtag.losses import metric
from jaxtag.tasks.embed.config import EmbedConfig
from jaxtag.tasks.embed.task import EmbedTask

CLASSES = 5


class Pixels(nn.Module):
    """Pools the first row of the picture."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        return {"pooled": images[:, 0].reshape(len(images), -1)}


def task(loss: str = "n_pair", **fields) -> EmbedTask:
    proxies = CLASSES if loss == "proxy_anchor" else 0
    config = Config(
        task=EmbedConfig(loss=loss), total_steps=1, **{"data": DataConfig(image_size=8), **fields}
    )
    model = models.Embedder(Pixels(), size=6, proxies=proxies)
    return EmbedTask(config, range(CLASSES), model)


def batch(count: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows = {
        "image": rng.integers(0, 256, (count, 8, 8, 3), np.uint8),
        "label": rng.integers(0, CLASSES, count).astype(np.int32),
        "mask": (rng.random(count) < 0.8).astype(np.float32),
    }
    return jax.tree.map(jnp.asarray, rows)


def test_vectors_have_length_one_and_follow_the_projection() -> None:
    t, rows = task(), batch()
    variables = t.init(jax.random.key(0))
    vectors = t.embed(variables, rows["image"])
    assert vectors.shape == (12, 6) and vectors.dtype == jnp.float32
    pixels = (rows["image"][:, 0].reshape(12, -1) / 255 - 0.5) / 0.5
    expected = pixels @ variables["params"]["projection"]["kernel"]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    grey = task(data=DataConfig(image_size=8, grayscale=True, mean=(0.0,), std=(1.0,)))
    assert grey.embed(grey.init(jax.random.key(0)), rows["image"]).shape == (12, 6)


@pytest.mark.parametrize("loss_name", ["n_pair", "proxy_anchor"])
def test_the_loss_is_that_of_the_pictures_that_are_there(loss_name) -> None:
    t, rows = task(loss_name), batch()
    variables = t.init(jax.random.key(0))
    total, weight, metrics, changed = t.loss(variables, rows, None)
    proxies = []
    if loss_name == "proxy_anchor":
        proxies = [variables["params"]["proxies"]]
        proxies = [proxies[0] / np.linalg.norm(proxies[0], axis=1, keepdims=True)]
    mask = rows["mask"] > 0
    there = {name: value[mask] for name, value in rows.items()}
    vectors = t.embed(variables, there["image"])
    expected = metric.make_loss(loss_name, {})(vectors, there["label"], there["mask"], *proxies)
    np.testing.assert_allclose((total, weight), expected, rtol=1e-5)
    assert metrics["loss"] == (total, weight) and changed == {}


def test_tags_that_are_not_known_are_neither_shared_nor_absent() -> None:
    t, rows = task(), batch()
    variables = t.init(jax.random.key(0))
    rng = np.random.default_rng(1)
    del rows["label"]
    rows["tags"] = rng.integers(0, 2, (12, CLASSES)).astype(np.uint8)
    rows["known"] = (rng.random((12, CLASSES)) < 0.7).astype(np.uint8)
    states = np.where(rows["known"] > 0, rows["tags"], 2).astype(np.int8)
    vectors = t.embed(variables, rows["image"])
    expected = metric.make_loss("n_pair", {})(vectors, jnp.asarray(states), rows["mask"])
    np.testing.assert_allclose(t.loss(variables, rows, None)[:2], expected, rtol=1e-5)


def test_augmentation_is_for_training_alone() -> None:
    t, rows = task(data=DataConfig(image_size=8, flip=True)), batch()
    variables = t.init(jax.random.key(0))
    assert t.loss(variables, rows, None)[0] == task().loss(variables, rows, None)[0]
    assert t.loss(variables, rows, jax.random.key(0))[0] != t.loss(variables, rows, None)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {"loss": "softmax"}}, "config.task.loss = 'softmax': no metric loss"),
        ({"task": {"loss": "triplet_hrad"}}, "did you mean triplet_hard"),
        ({"batch_size": 510}, "samples_per_class = 50 does not divide config.batch_size = 510"),
        ({"task": {"embedding_dim": 0}}, "config.task.embedding_dim = 0"),
        ({"task": {"loss_kwargs": {"alhpa": 1.0}}}, r"'alhpa' \(did you mean alpha"),
        ({"augmentation": AugmentationConfig(mixup=0.2)}, "config.augmentation.mixup"),
        ({"task": {"label_field": "tag"}}, r"config.task.label_field = 'tag'.*did you mean tags"),
        (
            {"task": {"label_field": "tags", "loss": "arcface"}},
            "config.task.loss = 'arcface': it takes one class per image",
        ),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, message) -> None:
    config = flags.load("cifar10_embed")
    own = changes.pop("task", {})
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, **own), **changes)
    with pytest.raises(UsageError, match=message):
        EmbedTask(checks.check(config), range(CLASSES))


def test_a_batch_in_parts_is_refused() -> None:
    config = flags.load("cifar10_embed")
    config.optimizer.grad_accum_steps = 2
    with pytest.raises(
        UsageError, match=r"config.optimizer.grad_accum_steps: an image is compared"
    ):
        checks.check(config)
