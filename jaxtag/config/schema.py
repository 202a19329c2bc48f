"""The typed configuration of a run: its fields, their checks, and its JSON form.

A field made by `runtime` does not change what is trained: a resumed run may change it. Loading by
name and overrides from the command line are in `jaxtag.config.flags`, names of older versions in
`jaxtag.config.legacy`.
"""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from jaxtag import registry
from jaxtag.config import legacy
from jaxtag.errors import UsageError, UserError, did_you_mean
from jaxtag.storage import json_files, store_errors
from jaxtag.storage.paths import make_path

OFFLOADABLE = ("opt_state", "ema")  # parts of the state that may lie in the host's memory


def runtime(default: Any) -> Any:
    """A field that a resumed run may change, since it does not change what is trained."""
    return field(default=default, metadata={"runtime": True})


def _no_kwargs() -> dict[str, Any]:
    return {}


@dataclass
class TaskConfig:
    """Base of the section `config.task`: a task's own settings, as a dataclass.

    Attributes:
        TASK: the task that the section belongs to, a registered name or `package.module:Name`.
        REFERENCES: fields that name other models, or None; a run keeps which commit it took.
    """

    TASK: ClassVar[str] = ""
    REFERENCES: ClassVar[tuple[str, ...]] = ()

    def check(self, config: "Config") -> None:
        """Raises UsageError where a value of this section is out of range."""


@dataclass
class DataConfig:
    """The images of a run, and how they are read."""

    dataset: str = "shapes_captions"
    datasets: tuple[tuple[str, float], ...] = ()  # (name, weight): what to train on instead
    data_dir: str | None = runtime(None)  # None: $TFDS_DATA_DIR, then tfds's default
    source_dir: str | None = runtime(None)  # official files, to prepare the data set on first use
    train_split: str = "train"
    evaluation_split: str = "validation"
    image_size: int = 224  # pixels, both sides
    crop_scale: tuple[float, float] = (
        0.5,
        1.0,
    )  # of the image's area; (1, 1): all of it
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)  # width : height of the crop
    eval_crop_pct: float | None = None  # of the shorter side in evaluation; None: all
    # How a published model took its images in evaluation: crop, squash (to a square), pad (on a
    # white square); bilinear, or bicubic as Pillow resizes.
    eval_fit: str = "crop"
    eval_interpolation: str = "bilinear"
    flip: bool = False  # random horizontal flip; captions may say left and right
    grayscale: bool = False  # one channel for the model, the mean of the three
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # of normalization, on a scale of 0 to 1
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    # Processes that decode; 0: threads of this process; auto: as many as training waits for.
    num_workers: int | str = runtime(0)
    num_threads: int = runtime(4)  # threads that decode, in each process
    shuffle: str | None = None  # full, blocks (see the guide of data), stored (0.1's); None: full
    shuffle_block_size: int = 128  # neighboring records read at once, of shuffle=blocks
    shuffle_buffer_size: int = 65536  # records held by all processes together, of shuffle=blocks
    max_corrupt_fraction: float = runtime(0.01)  # of undecodable images; more stops the run


@dataclass
class ModelConfig:
    """A backbone, and for captions a transformer decoder with cross-attention to it."""

    backbone: str = "vit_small_patch16"  # a name of jaxtag.list_models(), or package.module:Name
    kwargs: dict[str, Any] = field(default_factory=_no_kwargs)  # fields of its module: {"depth": 4}
    # REF of the weights that the backbone starts from: of a backbone, or of a whole CLIP or SigLIP,
    # whose image tower it is.
    pretrained: str | None = None
    freeze: bool = False  # the backbone stays as pretrained: no gradient, no dropout in it
    # Views of each training image whose frozen features are computed once and kept in the user's
    # cache: 1 without augmentation, more with it; 0: features are computed in each step.
    cached_views: int = 0
    decoder_form: str = "pre_norm"  # pre_norm (GPT-2), post_norm (BLIP), prefix (GIT)
    decoder_width: int = 384
    decoder_depth: int = 6
    decoder_heads: int = 6
    decoder_norm_eps: float = 1e-5
    decoder_vocab_size: int | None = None  # None: the tokenizer's, rounded up to fill tiles
    dropout: float = 0.1  # of the decoder, or of a linear head on a frozen backbone
    dtype: str = "auto"  # of the arithmetic; auto: bfloat16 on TPU and GPU, float32 on CPU
    # What the backward pass recomputes: none, dots (all but projections), full; auto: dots in a
    # scan over layers, else none.
    remat: str = runtime("auto")
    scan: bool | None = None  # one compiled block for all layers; None: on TPU and GPU


@dataclass
class AugmentationConfig:
    """Training augmentation on the device, beside data.flip (see jaxtag.augment)."""

    alternating_flip: bool = False  # data.flip on every second epoch instead of at random
    affine: tuple[float, float, float] | None = None  # limits: degrees, shear, scale
    crop_padding: int = 0  # pixels added around the image before a random crop of its size
    crop_padding_mode: str = "constant"  # constant (black), reflect, edge
    randaugment: tuple[int, int] | None = None  # (operations, magnitude of 30)
    color_jitter: tuple[float, float, float, float] | None = None  # strength of brightness, …
    random_erasing: float = 0.0  # probability
    mixup: float = 0.0  # alpha
    cutmix: float = 0.0  # alpha
    mixup_switch_prob: float = 0.5  # of examples that get CutMix, where there is mixup too
    custom: tuple[str, ...] = ()  # further functions (images, keys) -> images, package.module:Name


@dataclass
class OptimizerConfig:
    """An optimizer, its schedule and per-parameter rules.

    Rules are (regular expression, value) pairs over parameter paths such as
    `encoder/block_0/qkv/kernel`; the first that matches (re.search) applies.
    """

    name: str = "adamw"  # a function of optax, or package.module:Name
    kwargs: dict[str, Any] = field(default_factory=_no_kwargs)  # further arguments: {"b2": 0.98}
    learning_rate: float = 1e-3
    schedule: str = "cosine"  # cosine, linear, constant, one_cycle, triangular, package.module:Name
    warmup_steps: int = 0
    warmup_epochs: float = 0.0  # instead of warmup_steps
    min_lr_ratio: float = 0.0  # of learning_rate at the end of the schedule
    weight_decay: float = 0.0
    wd_mults: tuple[tuple[str, float], ...] = (
        (r"(bias|scale|cls_token|pos_embed|token_embed)$", 0.0),
        (r".*", 1.0),
    )
    lr_mults: tuple[tuple[str, float], ...] = ((r".*", 1.0),)  # factors; 0 freezes
    grad_clip_norm: float | None = 1.0  # global norm of the gradient
    grad_accum_steps: int = 1  # parts in which a batch is computed
    mu_dtype: str | None = None  # of the first moment; None: the parameters'
    ema_decay: float | None = None  # moving average of the parameters, used to evaluate
    ema_dtype: str = "float32"  # of that average; bfloat16 is rounded stochastically
    lookahead_steps: int = 0  # steps between returns to the slow average (see training.ema)
    ema_bn_batches: int = 0  # batches to compute its batch norm's moments from; 0: averaged as well


@dataclass
class MeshConfig:
    """Devices along each axis of the mesh, and rules of sharding (see jaxtag.distributed)."""

    data: int = runtime(-1)  # -1: all devices that the other axes leave
    fsdp: int = runtime(1)
    tensor: int = runtime(1)
    rules: tuple[tuple[str, str], ...] = runtime(())  # before the model's own
    # Splits moments and moving averages over `data` too, while parameters stay whole on it: stage 1
    # of ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054).
    shard_optimizer_over_data: bool = runtime(False)
    offload: tuple[str, ...] = runtime(())  # to the host's memory between steps: opt_state, ema


@dataclass
class CheckpointConfig:
    """Checkpoints that are kept."""

    keep_last: int = runtime(2)
    keep_best: int = runtime(1)
    best_metric: str | None = runtime(None)  # higher is better; None: the task's headline metric


@dataclass
class EvaluationConfig:
    """Evaluation, during training and after it."""

    batch_size: int = runtime(64)
    max_examples: int | None = runtime(None)  # during training; None: the whole split
    num_samples_shown: int = runtime(16)  # number of sample predictions logged
    tta_flip: bool = runtime(False)  # average predictions over the image and its mirror image
    tta_shift: int = runtime(0)  # pixels; average also over both shifted up-left and down-right
    metrics: tuple[str, ...] = runtime(())  # further metrics, package.module:Name


@dataclass
class Config:
    """A whole run."""

    task: TaskConfig = field(default_factory=lambda: default_task())  # which task, and its settings
    seed: int = 0
    batch_size: int = 256  # global
    total_steps: int | None = None
    total_epochs: float | None = None  # where total_steps is not given
    # Work directory of a run whose model and vocabulary this one starts from.
    initial_checkpoint: str | None = None
    log_every: int = runtime(50)  # steps, as the next two
    evaluate_every: int = runtime(1000)
    checkpoint_every: int = runtime(1000)  # and before each evaluation
    stop_after: int | None = runtime(None)  # evaluations without a better best_metric; None: never
    max_consecutive_nonfinite: int = runtime(20)  # steps in a row with a non-finite gradient
    hang_timeout: float = runtime(300.0)  # seconds within which each process must make progress
    compilation_cache: bool = runtime(True)  # keep compiled programs for the next start
    # Options of XLA for the step, in jaxtag.train and jaxtag.compile: names of sets of
    # jaxtag.training.xla_options, or option=value.
    xla_options: tuple[str, ...] = runtime(())
    # Steps (first, last) of this process's run that the profiler records; see `jaxtag.profile`.
    profile_steps: tuple[int, int] | None = runtime(None)
    profiler_port: int | None = runtime(None)  # of a server that xprof captures traces from
    metric_writers: tuple[str, ...] = runtime(("jsonl", "tensorboard", "progress"))
    callbacks: tuple[str, ...] = runtime(())  # package.module:Name
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def task_config_class(name: str, field_name: str = "config.task") -> type[TaskConfig]:
    """The section class of a task, by registered name or `package.module:Name`."""
    return registry.resolve("task", name, field_name).config_class


def default_task() -> TaskConfig:
    """The section of the default task, captioning."""
    from jaxtag.tasks.caption.config import CaptionConfig  # imports this module itself

    return CaptionConfig()


def field_names(config: Any, prefix: str = "") -> list[str]:
    """All dotted names of the fields that hold values."""
    names = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            names += field_names(value, f"{prefix}{item.name}.")
        else:
            names.append(prefix + item.name)
    return names


def check_name(config: Config, dotted: str) -> None:
    """Raises UsageError unless `dotted` names a field of `config`, or a keyword argument."""
    names = field_names(config)
    if dotted in names or split_kwargs(config, dotted)[0] is not None:
        return
    tail = {name.rsplit(".", 1)[-1]: name for name in names}
    close = difflib.get_close_matches(dotted, names, n=1, cutoff=0.6)
    hint = close[0] if close else tail.get(dotted.rsplit(".", 1)[-1])
    raise UsageError(
        f"--config.{dotted}: there is no such field"
        + (f"; the nearest is --config.{hint}" if hint else did_you_mean(dotted, names))
    )


def split_kwargs(config: Config, dotted: str) -> tuple[str | None, str]:
    """(the field of keyword arguments that `dotted` is or lies in, the argument's name).

    (None, "") where it is another field.
    """
    for name in field_names(config):
        if isinstance(get(config, name), dict) and f"{dotted}.".startswith(f"{name}."):
            return name, dotted[len(name) + 1 :]
    return None, ""


def allows_none(config: Config, dotted: str) -> bool:
    """Whether None is a value of a field."""
    return _fits(None, _field_type(config, dotted))


def is_of_several_types(config: Config, dotted: str) -> bool:
    """Whether a field takes values of several types, None aside."""
    options = typing.get_args(_field_type(config, dotted))
    is_union = typing.get_origin(_field_type(config, dotted)) is types.UnionType
    return is_union and len([kind for kind in options if kind is not types.NoneType]) > 1


def _field_type(config: Config, dotted: str) -> Any:
    *sections, name = dotted.split(".")
    holder = get(config, ".".join(sections)) if sections else config
    return {item.name: item.type for item in dataclasses.fields(holder)}[name]


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
        if (value := get(config, name)) is not None and value not in allowed:
            raise UsageError(f"config.{name} = {value!r}: unknown{did_you_mean(value, allowed)}")


def check_minimums(config: Config, minimums: Mapping[str, float]) -> None:
    """Raises UsageError where a dotted field lies below its minimum; None passes."""
    for name, minimum in minimums.items():
        value = get(config, name)
        if value is not None and value < minimum:
            raise UsageError(f"config.{name} = {value}: must be at least {minimum}")


def check_divides_batch(config: Config, name: str) -> None:
    """Raises UsageError unless the dotted field divides config.batch_size."""
    value = get(config, name)
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
        if get(config, name):
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
        value = get(config.optimizer, name)
        if value and config.optimizer.ema_decay is None:
            raise UsageError(
                f"config.optimizer.{name} = {value}: there is no moving average without "
                "config.optimizer.ema_decay"
            )


def get(config: Any, dotted: str) -> Any:
    """The value of a dotted field name."""
    for part in dotted.split("."):
        config = getattr(config, part)
    return config


def is_runtime(config: Config, dotted: str) -> bool:
    """Whether a resumed run may change this field, since it does not change what is trained."""
    *parents, name = dotted.split(".")
    holder = get(config, ".".join(parents)) if parents else config
    item = {item.name: item for item in dataclasses.fields(holder)}[name]
    return bool(item.metadata.get("runtime"))


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The fields that change what is trained: {dotted name: (old value, new value)}."""
    changed: dict[str, tuple[Any, Any]] = {}
    names = field_names(new)
    if type(old.task) is not type(new.task):
        changed["task.name"] = (old.task.TASK, new.task.TASK)
        names = [name for name in names if not name.startswith("task.")]
    for name in names:
        if not is_runtime(new, name) and get(old, name) != get(new, name):
            changed[name] = (get(old, name), get(new, name))
    return changed


def to_dict(config: Config) -> dict[str, Any]:
    """The whole configuration as JSON values; `task.name` says which task the section is of."""
    values = dataclasses.asdict(config)
    values["task"] = {"name": config.task.TASK, **values["task"]}
    return values


def to_json(config: Config) -> str:
    """JSON text of the whole configuration."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def from_dict(values: Any, where: str = "config.json") -> Config:
    """The configuration of what `to_dict` made, in this version or an older one.

    Raises:
        UserError: names `where` and the field at fault.
    """
    if isinstance(values, dict):
        values = legacy.modernize(values)
    config: Config = _from_dict(Config, values, where, "")
    return check(config)


def from_json(text: str, where: str = "config.json") -> Config:
    """The configuration that `to_json` wrote. UserError names `where` and the field at fault."""
    return from_dict(json_files.parse(text, where), where)


def load(workdir: str | Path) -> Config:
    """The configuration that a work directory was trained with."""
    path = make_path(workdir, "--workdir") / "config.json"
    with store_errors.named(workdir, "--workdir"):
        exists = path.is_file()
    if not exists:
        raise UserError(
            f"{workdir} is no work directory: it has no config.json "
            "(give the --workdir of a run of jaxtag.train)"
        )
    return from_dict(json_files.read(path), str(path))


def is_workdir(path: str | Path) -> bool:
    """Whether a path is a work directory: its config.json is neither transformers' nor timm's."""
    file = make_path(path) / "config.json"
    with store_errors.named(path, "--workdir"):
        exists = file.is_file()
    if not exists:
        return False
    values = json_files.read(file)
    return not isinstance(values, dict) or not {"model_type", "architecture"} & values.keys()


def _from_dict(kind: type, values: Any, where: str, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{where}: {prefix.rstrip('.') or 'the file'} must be an object")
    if kind is TaskConfig:
        values = dict(values)
        name = values.pop("name", "")
        if not isinstance(name, str):
            raise UserError(f"{where}: task.name must be a text")
        kind = task_config_class(name, f"{where}: task.name")
    types: dict[str, Any] = {item.name: item.type for item in dataclasses.fields(kind)}
    fields = {}
    for name, value in values.items():
        if name not in types:
            raise UserError(f"{where}: unknown field {prefix}{name}{did_you_mean(name, types)}")
        if dataclasses.is_dataclass(types[name]):
            value = _from_dict(types[name], value, where, f"{prefix}{name}.")
        fields[name] = _tuples(value)
    return kind(**fields)


def _tuples(value: Any) -> Any:
    """JSON lists as tuples, which is what the fields hold; also within dictionaries."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _check_types(config: Any, prefix: str) -> None:
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            _check_types(value, name + ".")
        elif not _fits(value, item.type):
            expected = getattr(item.type, "__name__", None) or str(item.type)
            if typing.get_args(item.type):
                expected = str(item.type)
            raise UsageError(f"config.{name} = {value!r}: must be {expected}")


def _fits(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(name, str) for name in value)
    if origin is types.UnionType:
        return any(_fits(value, option) for option in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(_fits(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if kind is types.NoneType:
        return value is None
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
