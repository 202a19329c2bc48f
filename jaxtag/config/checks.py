"""Checks of a configuration: types, ranges, and settings that contradict each other."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from jaxtag import registry
from jaxtag.config import dotted
from jaxtag.config.schema import OFFLOADABLE, Config, TaskConfig
from jaxtag.errors import UsageError, did_you_mean


def check(config: Config) -> Config:
    """Returns `config`; raises UsageError where a value is of the wrong type or out of range."""
    if not isinstance(config.task, TaskConfig):
        raise UsageError(
            f"config.task = {config.task!r}: must be a section such as "
            "jaxtag.tasks.caption.config.CaptionConfig()"
        )
    _check_types(config, "")
    check_choices(
        config,
        {
            "model.dtype": ("auto", "float32", "bfloat16"),
            "model.remat": ("auto", "none", "dots", "full"),
            "data.shuffle": ("full", "blocks", "stored"),
            "optimizer.mu_dtype": ("float32", "bfloat16"),
            "optimizer.ema_dtype": ("float32", "bfloat16"),
        },
    )
    for part in config.mesh.offload:
        if part not in OFFLOADABLE:
            hint = did_you_mean(part, OFFLOADABLE)
            raise UsageError(f"config.mesh.offload: {part!r} is unknown{hint}")
    _check_profile_steps(config)
    _check_numbers(config)
    _check_frozen(config)
    config.task.check(config)
    return config


def check_choices(config: Config, choices: Mapping[str, Iterable[str]]) -> None:
    """Raises UsageError unless each dotted field has one of its values; None passes."""
    for name, allowed in choices.items():
        if (value := dotted.get(config, name)) is not None and value not in allowed:
            raise UsageError(f"config.{name} = {value!r}: unknown{did_you_mean(value, allowed)}")


def check_minimums(config: Config, minimums: Mapping[str, float]) -> None:
    """Raises UsageError where a dotted field lies below its minimum; None passes."""
    for name, minimum in minimums.items():
        value = dotted.get(config, name)
        if value is not None and value < minimum:
            raise UsageError(f"config.{name} = {value}: must be at least {minimum}")


def check_divides_batch(config: Config, name: str) -> None:
    """Raises UsageError unless the dotted field divides config.batch_size."""
    value = dotted.get(config, name)
    if config.batch_size % value:
        raise UsageError(
            f"config.{name} = {value} does not divide config.batch_size = {config.batch_size}"
        )


def _check_profile_steps(config: Config) -> None:
    if config.profile_steps is None:
        return
    first, last = config.profile_steps
    if not 1 <= first <= last:
        raise UsageError(
            f"config.profile_steps = {config.profile_steps}: must be a first step of at least 1 "
            "and a last step that is not before it"
        )


def _check_frozen(config: Config) -> None:
    """Raises UsageError where a frozen backbone, or its cached features, make no sense."""
    model, views = config.model, config.model.cached_views
    check_minimums(config, {"model.cached_views": 0})
    if views and not model.freeze:
        raise UsageError(
            f"config.model.cached_views = {views}: features change with a backbone that is trained;"
            " set config.model.freeze"
        )
    if not model.freeze:
        return
    if model.pretrained is None and getattr(config.task, "pretrained", None) is None:
        also = ", or config.task.pretrained" if hasattr(config.task, "pretrained") else ""
        raise UsageError(
            f"config.model.freeze: config.model.pretrained{also} must name the weights"
        )
    for name in ("augmentation.mixup", "augmentation.cutmix", "augmentation.random_erasing"):
        if dotted.get(config, name):
            raise UsageError(
                f"config.{name}: it needs a backbone that is trained, not a frozen one"
            )
    if config.optimizer.ema_bn_batches:
        raise UsageError("config.optimizer.ema_bn_batches: a frozen backbone keeps its statistics")
    augmented = _is_augmented(config)
    if views == 1 and augmented:
        raise UsageError(
            f"config.model.cached_views = 1: one view is the image itself, but config.{augmented} "
            "augments images; leave it out, or cache more views to draw from"
        )
    if views > 1 and not augmented:
        raise UsageError(
            f"config.model.cached_views = {views}: without augmentation all views are the same; "
            "cache 1"
        )


def _is_augmented(config: Config) -> str | None:
    """The first field that makes each view of a training image another one."""
    if config.data.crop_scale != (1.0, 1.0):
        return "data.crop_scale"
    if config.data.flip:
        return "data.flip"
    fields = ("affine", "crop_padding", "randaugment", "color_jitter", "custom")
    return next((f"augmentation.{f}" for f in fields if getattr(config.augmentation, f)), None)


def _check_numbers(config: Config) -> None:
    at_least_0 = ["optimizer.ema_bn_batches", "optimizer.lookahead_steps", "evaluation.tta_shift"]
    at_least_0 += ["data.num_threads"]
    if isinstance(config.data.num_workers, int):
        at_least_0 += ["data.num_workers"]
    elif config.data.num_workers != "auto":
        raise UsageError(
            f"config.data.num_workers = {config.data.num_workers!r}: must be a number or auto"
        )
    at_least_1 = ["batch_size", "log_every", "evaluate_every", "checkpoint_every", "stop_after"]
    at_least_1 += ["data.image_size", "optimizer.grad_accum_steps", "evaluation.batch_size"]
    at_least_1 += ["data.shuffle_block_size", "data.shuffle_buffer_size", "hang_timeout"]
    check_minimums(config, dict.fromkeys(at_least_0, 0.0) | dict.fromkeys(at_least_1, 1.0))
    if config.total_steps is None and config.total_epochs is None:
        raise UsageError(
            "config.total_steps or config.total_epochs must say how long to train on "
            f"{config.data.dataset}"
        )
    check_divides_batch(config, "optimizer.grad_accum_steps")
    for name, weight in config.data.datasets:
        if not 0 < weight < float("inf"):
            raise UsageError(f"config.data.datasets: the weight of {name} is {weight}, not above 0")
    if config.data.datasets and config.data.shuffle in ("blocks", "stored"):
        raise UsageError(
            f"config.data.shuffle = {config.data.shuffle!r}: several config.data.datasets are "
            "drawn from in the order 'full'"
        )
    for name in ("ema_bn_batches", "lookahead_steps"):
        value = dotted.get(config.optimizer, name)
        if value and config.optimizer.ema_decay is None:
            raise UsageError(
                f"config.optimizer.{name} = {value}: there is no moving average without "
                "config.optimizer.ema_decay"
            )


def _check_types(config: Any, prefix: str) -> None:
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            _check_types(value, name + ".")
        elif not registry.has_type(value, item.type):
            expected = getattr(item.type, "__name__", None) or str(item.type)
            if typing.get_args(item.type):
                expected = str(item.type)
            raise UsageError(f"config.{name} = {value!r}: must be {expected}")
