"""What the tasks share: a backbone as the configuration says, and running a model."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtag import augment, models
from jaxtag.config.schema import Config, ModelConfig
from jaxtag.errors import UsageError, did_you_mean


def make_backbone(config: Config, **fields: Any) -> nn.Module:
    """The backbone `config.model.backbone`; `fields` are further ones of its module.

    Raises UsageError where the name or one of config.model.kwargs is unknown.
    """
    settings = config.model
    if settings.encoder not in models.list_models():
        hint = did_you_mean(settings.encoder, models.list_models())
        raise UsageError(f"config.model.backbone = {settings.encoder!r}: unknown{hint}")
    known = models.field_names(settings.encoder)
    usual = {
        "image_size": config.data.image_size,
        "dtype": compute_dtype(settings.dtype),
        "scan": resolve_scan(settings.scan),
        "remat": resolve_remat(settings, scans="scan" in known),
    }
    usual = {name: value for name, value in usual.items() if name in known}
    try:
        return models.create_model(
            settings.encoder, **{**usual, **dict(settings.arguments)}, **fields
        )
    except TypeError as error:
        raise UsageError(f"config.model.kwargs: {error}") from error


def augmentation(config: Config) -> augment.Augmentation:
    """What happens to pictures in a training step."""
    return augment.Augmentation(flip=config.data.flip, **dataclasses.asdict(config.augmentation))


def apply_model(
    model: nn.Module, variables: Any, *inputs: jax.Array, key: jax.Array | None, **fields: Any
) -> tuple[dict[str, jax.Array], Any]:
    """A model's outputs and its collections as they are afterwards.

    With a key it runs in training mode: dropout draws from the key, batch statistics change.
    """
    collections = {name: value for name, value in variables.items() if name != "params"}
    if key is None:
        return model.apply(variables, *inputs, train=False, **fields), collections
    outputs, changed = model.apply(
        variables,
        *inputs,
        train=True,
        rngs={"dropout": key},
        mutable=list(collections),
        **fields,
    )
    return outputs, {**collections, **changed}


def compute_dtype(name: str) -> jnp.dtype:
    """`auto` is bfloat16 where it has its own arithmetic units, else float32."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def resolve_remat(settings: ModelConfig, scans: bool = True) -> str:
    """auto: "dots" in a scan over layers, which keeps all that it need not compute again.

    Args:
      scans: whether the module can.
    """
    if settings.remat != "auto":
        return settings.remat
    return "dots" if scans and resolve_scan(settings.scan) else "none"


def resolve_scan(scan: bool | None) -> bool:
    """None: one compiled block for all layers, but on CPU, where unrolled layers run faster."""
    return jax.default_backend() != "cpu" if scan is None else scan
