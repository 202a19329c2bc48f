"""The task of matching: its loss, what a step leaves out, vectors of texts, refused settings."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shrinking import shrink

from jaxtag import models
from jaxtag.config import checks, flags
from jaxtag.config.schema import AugmentationConfig
from jaxtag.data.tokenizer import PAD, Tokenizer
from jaxtag.errors import UsageError
from jaxtag.losses import contrastive
from jaxtag.tasks.match.task import MatchTask

pytestmark = pytest.mark.usefixtures("one_device")
CAPTIONS = ["a red dog", "two cats on a mat", "the sea", "a man rides a horse on the beach"]


class Pixels(nn.Module):
    """Pools the first row of the image."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        return {"pooled": images[:, 0].reshape(len(images), -1)}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CAPTIONS, 300)


def make_task(tokenizer: Tokenizer, **fields) -> MatchTask:
    config = shrink(flags.load("coco_match"))
    task = dataclasses.replace(config.task, embedding_dim=6, text_depth=1, **fields)
    config = dataclasses.replace(config, task=task)
    config.data.image_size, config.data.crop_scale, config.model.dropout = 8, (1.0, 1.0), 0.0
    made = MatchTask(config, tokenizer, nn.Module())
    text_encoder = made.make_model().text_encoder
    model = models.ImageText(
        Pixels(), text_encoder, 6, init_logit_bias=-10.0 if task.loss == "siglip" else None
    )
    return MatchTask(config, tokenizer, model)


def batch(tokenizer: Tokenizer) -> dict[str, jax.Array]:
    """Six images, of which one is broken and one has no caption."""
    rng = np.random.default_rng(0)
    tokens = tokenizer.encode([*CAPTIONS, "a red mat", "x"], 8)[:, None]
    tokens[5] = PAD
    rows = {
        "image": rng.integers(0, 256, (6, 8, 8, 3), np.uint8),
        "tokens": tokens,
        "mask": np.array([1, 1, 0, 1, 1, 1], np.float32),
        "index": np.arange(6, dtype=np.int32),
        "epoch": np.zeros(6, np.int32),
    }
    return jax.tree.map(jnp.asarray, rows)


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_the_loss_is_that_of_the_pairs_that_are_there(loss, tokenizer) -> None:
    task, rows = make_task(tokenizer, loss=loss), batch(tokenizer)
    variables = jax.jit(task.init)(jax.random.key(0))
    compute = jax.jit(task.loss)
    total, weight, metrics, changed = compute(variables, rows, None)
    present = np.array([0, 1, 3, 4])
    image = jax.jit(task.embed)(variables, rows["image"])[present]
    text = jax.jit(task.embed_texts)(variables, rows["tokens"][:, 0])[present]
    np.testing.assert_allclose(jnp.linalg.norm(text, axis=1), 1, rtol=1e-6)
    scale = variables["params"]["logit_scale"]
    bias = variables["params"].get("logit_bias", jnp.zeros(()))
    assert (bias == -10) == (loss == "siglip")
    expected = contrastive.make_loss(loss, {})(image, text, jnp.ones(4), scale, bias)
    np.testing.assert_allclose((total, weight), expected, rtol=1e-5)
    assert metrics["loss"] == (total, weight) and changed == {}


def test_a_step_leaves_out_tokens_and_pairs(tokenizer) -> None:
    task = make_task(tokenizer, token_dropout=0.5, caption_dropout=0.5)
    tokens = jnp.asarray(np.repeat(tokenizer.encode(CAPTIONS[3:], 16), 200, axis=0))
    drop = jax.jit(task._drop)
    left, mask = drop(tokens, jnp.ones(200), jax.random.key(0))
    assert 0.35 < float(mask.mean()) < 0.65
    whole = tokens[0][tokens[0] != PAD].tolist()
    lengths = []
    for row in np.asarray(left):
        some = row[row != PAD].tolist()
        assert some[0] == tokenizer.bos_id and some[-1] == tokenizer.eos_id
        assert (row[len(some) :] == PAD).all()
        rest = iter(whole)
        assert all(token in rest for token in some)  # in their order
        lengths.append(len(some) - 2)
    assert 0.4 < np.mean(lengths) / (len(whole) - 2) < 0.6
    other = drop(tokens, jnp.ones(200), jax.random.key(1))[0]
    assert (np.asarray(left) != np.asarray(other)).any()


def test_training_draws_one_caption_and_evaluation_takes_the_first(tokenizer) -> None:
    task = make_task(tokenizer, evaluation_captions=3)
    record = {"captions": CAPTIONS}
    (target,) = task.targets(train=True).values()
    drawn = {target(record, np.random.default_rng(seed)).tobytes() for seed in range(30)}
    assert target.random and len(drawn) == len(CAPTIONS)
    (target,) = task.targets(train=False).values()
    np.testing.assert_array_equal(target(record, None), task.tokenize(CAPTIONS[:3]))
    assert not target.random


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {"loss": "softmax"}}, "config.task.loss = 'softmax': no contrastive loss"),
        ({"task": {"token_dropout": 1.0}}, "config.task.token_dropout = 1.0: must be at least 0"),
        ({"task": {"text_width": 0}}, "config.task.text_width = 0"),
        ({"task": {"loss_kwargs": {"beta": 1.0}}}, r"siglip has no argument 'beta'"),
        ({"augmentation": AugmentationConfig(mixup=0.2)}, "config.augmentation.mixup"),
        ({"optimizer": {"grad_accum_steps": 2}}, "grad_accum_steps: an image is compared"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, message) -> None:
    config = flags.load("coco_match")
    for section in ("task", "optimizer"):
        fields = dataclasses.replace(getattr(config, section), **changes.pop(section, {}))
        config = dataclasses.replace(config, **{section: fields})
    config = dataclasses.replace(config, **changes)
    with pytest.raises(UsageError, match=message):
        MatchTask(checks.check(config), range(300))
