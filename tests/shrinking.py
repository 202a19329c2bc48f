"""Any configuration made small enough for one step in a second."""

import dataclasses
from typing import Any

import numpy as np

from jaxtag import models
from jaxtag.config import flags
from jaxtag.config.schema import AugmentationConfig, Config, ModelConfig
from jaxtag.tasks.base import Task
from jaxtag.training import run_data

VOCABULARY = 300


def shrink(config: Config) -> Config:
    """The same run in miniature: every setting that costs time is small, the rest is kept."""
    replace = dataclasses.replace
    small_task = {
        "caption": {"max_length": 8, "vocab_size": VOCABULARY},
        "embed": {"samples_per_class": 2},
        "match": {"max_length": 8, "vocab_size": VOCABULARY, "text_width": 32, "text_depth": 2}
        | {"text_heads": 2},
    }
    return replace(
        config,
        task=replace(config.task, **small_task.get(config.task.TASK, {})),
        batch_size=8 * config.optimizer.grad_accum_steps,
        total_steps=4,
        data=replace(config.data, image_size=64 if "alexnet" in config.model.backbone else 32),
        model=replace(
            config.model,
            kwargs=_smaller(config.model),
            decoder_width=32,
            decoder_depth=2,
            decoder_heads=2,
        ),
        optimizer=replace(config.optimizer, warmup_steps=1, warmup_epochs=0.0),
        evaluation=replace(config.evaluation, batch_size=8),
    )


def make_task(config: Config, count: int = VOCABULARY, model: Any = None) -> Task:
    """The task of a configuration with `count` outputs, and no names for them."""
    return run_data.task_class(config)(config, range(count), model)


def _smaller(model: ModelConfig) -> dict[str, Any]:
    """The backbone with few layers, as far as its module has a field for that."""
    small: dict[str, Any] = {"depths": (1, 1, 1, 1)}
    field_names = models.field_names(model.backbone)
    if "heads" in field_names:
        small |= {"width": 32, "heads": 2, "mlp_dim": 64, "depth": 2}
    if "stages" in field_names:
        small["stages"] = models.create_model(model.backbone).stages[:2]
    if model.backbone.startswith("alexnet"):
        small["hidden"] = 64
    return model.kwargs | {name: value for name, value in small.items() if name in field_names}


def with_batch_norm(groups: int) -> Config:
    """A small classifier with batch norm in so many groups, all its augmentation random."""
    replace = dataclasses.replace
    config = shrink(flags.load("cifar10_resnet18"))
    fields = {"depths": (1,) * 4, "bottleneck": False, "small_images": True, "norm_groups": groups}
    return replace(
        config,
        batch_size=64,
        data=replace(config.data, image_size=16),
        model=ModelConfig(backbone="resnet18", kwargs=fields),
        augmentation=AugmentationConfig(crop_padding=2, random_erasing=0.5, mixup=0.2, cutmix=1.0),
        optimizer=replace(config.optimizer, warmup_steps=0, ema_decay=0.9),
    )


def batch(config: Config, seed: int = 0) -> dict[str, np.ndarray]:
    """A made-up batch in the form that the pipeline gives."""
    rng = np.random.default_rng(seed)
    size, side = config.batch_size, config.data.image_size
    captions = getattr(config.task, "captions_per_image", 1)
    shape = (size, captions, getattr(config.task, "max_length", 8))
    tokens = rng.integers(4, VOCABULARY, shape).astype(np.int32)
    tokens[..., 0] = 1
    for row in tokens.reshape(-1, shape[-1]):
        end = rng.integers(3, shape[-1])
        row[end] = 2
        row[end + 1 :] = 0
    return {
        "image": rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8),
        "tokens": tokens,
        "tags": rng.integers(0, 2, (size, VOCABULARY), dtype=np.uint8),
        "known": np.ones((size, VOCABULARY), np.uint8),
        "label": rng.integers(0, VOCABULARY, size).astype(np.int32),
        "mask": np.ones(size, np.float32),
        "broken": np.zeros(size, bool),
        "index": np.arange(size, dtype=np.int32),
        "epoch": np.zeros(size, np.int32),
    }
