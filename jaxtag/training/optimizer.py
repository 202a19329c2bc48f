"""Optimizers of optax by name, schedules in steps or epochs, and rules for each parameter."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from jaxtag import registry
from jaxtag.config.schema import OptimizerConfig
from jaxtag.distributed import sharding
from jaxtag.errors import UsageError, did_you_mean

FROZEN = "frozen"
# Schedules that rise before they fall: the learning rate's first factor, and the share of the run
# in which it rises where no warm-up is given. optax's one-cycle (Smith and Topin 2017,
# arXiv:1708.07120), and the triangle of airbench (Jordan 2024, arXiv:2404.00498).
_CYCLES = {"one_cycle": ("cosine", 1 / 25, 0.3), "triangular": ("linear", 0.2, 0.23)}

# Decays over so many steps, after the warm-up.
_DECAYS: dict[str, Callable[[OptimizerConfig, int], optax.Schedule]] = {
    "cosine": lambda config, steps: optax.cosine_decay_schedule(
        config.learning_rate, steps, config.min_lr_ratio
    ),
    "linear": lambda config, steps: optax.linear_schedule(
        config.learning_rate, config.learning_rate * config.min_lr_ratio, steps
    ),
    "constant": lambda config, _: optax.constant_schedule(config.learning_rate),
}


def make_lr_schedule(
    config: OptimizerConfig, total_steps: int, epoch_steps: float
) -> optax.Schedule:
    """Learning rate over steps: warm-up, then the named decay to `min_lr_ratio`.

    The warm-up is linear from 0; that of "one_cycle" is half a cosine from 1/25 of the rate, and
    that of "triangular" linear from 1/5. These two warm up even where the configuration names no
    steps or epochs for it: for 30 % and 23 % of the run. `package.module:Name` is a function
    (learning_rate, total_steps, warmup_steps) -> optax.Schedule.
    """
    warmup = config.warmup_steps or round(config.warmup_epochs * epoch_steps)
    if config.schedule in _CYCLES:
        shape, start, fraction = _CYCLES[config.schedule]
        peak = warmup if 0 < warmup < total_steps else max(1, round(fraction * total_steps))
        return optax.schedules.piecewise_interpolate_schedule(
            shape,
            config.learning_rate * start,
            {peak: 1 / start, max(total_steps, peak + 1): config.min_lr_ratio},
        )
    if warmup >= total_steps:
        # A run that was shrunk from the command line still warms up and decays.
        warmup = total_steps // 10
    if config.schedule not in _DECAYS:
        return _custom_schedule(config, total_steps, warmup)
    decay = _DECAYS[config.schedule](config, total_steps - warmup)
    rise = optax.linear_schedule(0.0, config.learning_rate, max(1, warmup))
    return optax.join_schedules([rise, decay], [warmup])


def _custom_schedule(config: OptimizerConfig, total_steps: int, warmup: int) -> optax.Schedule:
    field = "config.optimizer.schedule"
    if ":" not in config.schedule and config.schedule not in registry.names("schedule"):
        hint = did_you_mean(config.schedule, [*_DECAYS, *_CYCLES, *registry.names("schedule")])
        raise UsageError(f"{field} = {config.schedule!r}: unknown{hint}")
    factory = registry.resolve("schedule", config.schedule, field)
    schedule: optax.Schedule = factory(config.learning_rate, total_steps, warmup)
    return schedule


def make_optimizer(
    config: OptimizerConfig, lr_schedule: optax.Schedule, params: Any
) -> optax.GradientTransformation:
    """The transformation: clip, then the named optimizer with its rules.

    Weight decay is the optimizer's own where it takes one (adamw, lion, lamb …), else it is added
    to the gradient before momentum (sgd), as in torch. A parameter with the learning-rate factor 0
    is frozen: it gets no update and no moments.

    Args:
        params: parameters or their ShapeDtypeStructs; rules look at their paths.
    """
    decays = match_rules(config.wd_mults, params, "config.optimizer.wd_mults")
    factors = match_rules(config.lr_mults, params, "config.optimizer.lr_mults")
    labels = [
        FROZEN if factor == 0 else f"decay {decay:g}, rate {factor:g}"
        for decay, factor in zip(decays, factors, strict=True)
    ]
    transforms = {FROZEN: optax.set_to_zero()} if FROZEN in labels else {}
    for label, decay, factor in zip(labels, decays, factors, strict=True):
        if label not in transforms:
            transforms[label] = _named(config, lr_schedule, config.weight_decay * decay, factor)
    tree = jax.tree.unflatten(jax.tree.structure(params), labels)
    steps = [optax.clip_by_global_norm(config.grad_clip_norm)] if config.grad_clip_norm else []
    return optax.chain(*steps, optax.partition(transforms, tree))


def trainable_mask(config: OptimizerConfig, params: Any) -> Any:
    """For each parameter whether it is trained: a tree of bools."""
    factors = match_rules(config.lr_mults, params, "config.optimizer.lr_mults")
    return jax.tree.unflatten(jax.tree.structure(params), [factor != 0 for factor in factors])


def match_rules(rules: Sequence[tuple[str, float]], params: Any, name: str) -> list[float]:
    """For each parameter the value of the first rule whose expression its path matches."""
    values = []
    for path, _ in sharding.paths(params):
        matches = [value for expression, value in rules if re.search(expression, path)]
        if not matches:
            raise UsageError(f"{name}: no rule covers the parameter {path}; end with ('.*', 1.0)")
        values.append(matches[0])
    return values


def _named(
    config: OptimizerConfig, lr_schedule: optax.Schedule, decay: float, factor: float
) -> optax.GradientTransformation:
    factory = _factory(config.name)
    parameters = inspect.signature(factory).parameters
    label = config.name if ":" in config.name else f"optax.{config.name}"
    registry.check_kwargs(factory, config.kwargs, "config.optimizer.kwargs", label)
    kwargs = dict(config.kwargs)
    if config.name == "muon":
        kwargs.setdefault("consistent_rms", 0.2)  # learning rates and decay as of adamw
        kwargs["muon_weight_dimension_numbers"] = _matrices
        kwargs["adam_weight_decay"] = decay
    if config.mu_dtype is not None:
        if "mu_dtype" not in parameters:
            raise UsageError(
                f"config.optimizer.mu_dtype = {config.mu_dtype!r}: {label} has no argument mu_dtype"
            )
        kwargs["mu_dtype"] = config.mu_dtype
    steps = []
    if "weight_decay" in parameters:
        kwargs["weight_decay"] = decay
    elif decay:
        steps.append(optax.add_decayed_weights(decay))
    steps.append(factory(learning_rate=lr_schedule, **kwargs))
    return optax.chain(*steps, optax.scale(factor)) if factor != 1 else optax.chain(*steps)


def _matrices(params: Any) -> Any:
    """The parameters that Muon orthogonalizes: kernels, as matrices from inputs to outputs.

    A convolution [kh, kw, C, O] is a matrix from its kh * kw * C inputs; a projection into several
    parts is one matrix a part, a scanned stack one a layer. All else is for Adam: embeddings,
    biases, norms, output layers as Jordan advises (the classifier `head`, the capsules of
    `classes`), and convolutions with one channel in, which are no matrices between channels
    (depthwise ones, and the first of grayscale images).
    """

    def axes(path: str, leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        if not re.search(r"kernel$", path) or re.search(r"(^|/)(head|classes)/kernel$", path):
            return None
        first = 1 if re.search(r"(^|/)blocks/", path) else 0  # the layers of a scanned stack
        last = leaf.ndim - 1
        if last - first == 3:  # a convolution: height, width, channels in, channels out
            if leaf.shape[-2] == 1:
                return None
            return optax.contrib.MuonDimensionNumbers((first, first + 1, first + 2), last)
        return optax.contrib.MuonDimensionNumbers(first, last)

    structure = jax.tree.structure(params)
    return jax.tree.unflatten(structure, [axes(*item) for item in sharding.paths(params)])


def _factory(name: str) -> Callable[..., optax.GradientTransformation]:
    """A function of optax, of optax.contrib or `package.module:Name` that takes a learning rate."""
    field = "config.optimizer.name"
    if ":" in name or name in registry.names("optimizer"):
        factory: Callable[..., optax.GradientTransformation]
        factory = registry.resolve("optimizer", name, field)
        if "learning_rate" not in inspect.signature(factory).parameters:
            raise UsageError(f"{field} = {name!r}: must take an argument learning_rate")
        return factory
    for module in (optax, optax.contrib):
        function = getattr(module, name, None)
        if inspect.isfunction(function) and _takes_learning_rate(function):
            return function
    names = [
        key
        for key, value in vars(optax).items()
        if inspect.isfunction(value) and _takes_learning_rate(value)
    ]
    raise UsageError(f"{field} = {name!r}: unknown to optax{did_you_mean(name, names)}")


def _takes_learning_rate(function: Callable[..., Any]) -> bool:
    return "learning_rate" in inspect.signature(function).parameters
