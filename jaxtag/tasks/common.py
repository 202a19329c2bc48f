"""What tasks share: the backbone of the configuration, and how a model is applied."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtag import models, registry
from jaxtag.array_types import AnyArray
from jaxtag.config.schema import Config, ModelConfig
from jaxtag.errors import UsageError


def make_backbone(config: Config, **fields: Any) -> nn.Module:
    """The backbone `config.model.backbone`; `fields` are further ones of its module.

    Raises:
        UsageError: the name or one of config.model.kwargs is unknown, or a value of a wrong type.
    """
    settings = config.model
    try:
        names = models.field_names(settings.backbone)
    except ValueError as error:
        raise UsageError(f"config.model.backbone = {settings.backbone!r}: {error}") from error
    defaults = {
        "image_size": config.data.image_size,
        "dtype": compute_dtype(settings.dtype),
        "scan": resolve_scan(settings.scan),
        "remat": resolve_remat(settings, scans="scan" in names),
    }
    defaults = {name: value for name, value in defaults.items() if name in names}
    module = models.module_class(settings.backbone)
    registry.check_kwargs(module, settings.kwargs, "config.model.kwargs", settings.backbone)
    fields = {name: value for name, value in fields.items() if name in names}
    return models.create_model(settings.backbone, **{**defaults, **settings.kwargs}, **fields)


def make_classifier(config: Config, num_classes: int) -> nn.Module:
    """The backbone with its own classifier; a frozen one with a linear head of its own."""
    if not config.model.freeze:
        return make_backbone(config, num_classes=num_classes)
    return models.LinearProbe(make_backbone(config), num_classes, config.model.dropout)


def classifier_backbone(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The backbone of what `make_classifier` made, and its path among the variables."""
    if isinstance(model, models.LinearProbe):
        return model.backbone, ("backbone",)
    return model, ()


def subtree(variables: Any, path: tuple[str, ...]) -> Any:
    """The variables of a module inside a model; collections that have none of it are left out."""
    for name in path:
        variables = {c: tree[name] for c, tree in variables.items() if name in tree}
    return variables


def apply_model(
    model: nn.Module, variables: Any, *inputs: AnyArray, key: jax.Array | None, **fields: Any
) -> tuple[dict[str, jax.Array], Any]:
    """A model's outputs, and its collections afterwards.

    With a key it runs in training mode: dropout draws from the key, batch statistics change.
    """
    collections = {name: value for name, value in variables.items() if name != "params"}
    if key is None:
        outputs: Any = model.apply(variables, *inputs, train=False, **fields)
        return outputs, collections
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
    """`auto` is bfloat16 where there are arithmetic units for it, else float32."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def resolve_remat(settings: ModelConfig, scans: bool = True) -> str:
    """`auto` is "dots" in a scan over layers, which keeps all that it is not told to recompute.

    Args:
        scans: whether the module can scan over its layers.
    """
    if settings.remat != "auto":
        return settings.remat
    return "dots" if scans and resolve_scan(settings.scan) else "none"


def resolve_scan(scan: bool | None) -> bool:
    """None: one compiled block for all layers, but on CPU, where unrolled layers run faster."""
    return jax.default_backend() != "cpu" if scan is None else scan
