"""The typed configuration of a run: what can be set, checked and written to the work directory.

A field marked `_free` does not change what is trained: a resumed run may change it.
Loading by name and overrides from the command line are in `config_flag`.
"""

import dataclasses
import difflib
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtag.errors import UsageError, UserError

Argument = bool | int | float | str | tuple  # of a function or a module, by name


def _free(default: Any) -> Any:
    return field(default=default, metadata={"free": True})


@dataclass
class DataConfig:
    """Which pictures are read, and how."""

    dataset: str = "shapes_captions"
    data_dir: str | None = _free(None)  # None: $TFDS_DATA_DIR, then tfds's default
    source_dir: str | None = _free(None)  # official files, to prepare the data set on first use
    train_split: str = "train"
    evaluation_split: str = "validation"
    image_size: int = 224  # pixels, both sides
    crop_area: tuple[float, float] = (0.5, 1.0)  # share of the picture; (1, 1) squashes it whole
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)  # width : height of the crop
    center_crop: float | None = None  # share of the shorter side in evaluation; None: squashed
    flip: bool = False  # horizontal, at random; captions may say left and right
    grey: bool = False  # one channel for the model, the mean of the three
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # of normalisation, on a scale of 0 to 1
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    workers: int = _free(0)  # processes that decode; 0: threads of this process
    threads: int = _free(4)  # threads that decode, in each process
    max_broken_share: float = _free(0.01)  # of pictures that cannot be decoded; more stops the run


@dataclass
class TextConfig:
    """Captions as tokens."""

    vocab_size: int = 8192  # at most; a small data set gives fewer
    length: int = 32  # tokens with the start and end marks; longer captions are cut, and counted
    lowercase: bool = True
    captions_per_image: int = 1  # of a picture in one step; they share one pass of the encoder


@dataclass
class ModelConfig:
    """A backbone, and for captions a transformer decoder with cross-attention to it."""

    encoder: str = "vit_small_patch16"  # a name of jaxtag.models.names()
    arguments: tuple[tuple[str, Argument], ...] = ()  # fields of its module, as (("depth", 4),)
    weights: str | None = None  # safetensors (see jaxtag.weights) that the backbone starts from
    decoder_width: int = 384
    decoder_depth: int = 6
    decoder_heads: int = 6
    decoder_vocab_size: int | None = None  # None: the tokenizer's, rounded up to fill tiles
    dropout: float = 0.1  # of the decoder
    dtype: str = "auto"  # of the arithmetic; auto: bfloat16 on TPU and GPU, float32 on CPU
    # What the backward pass computes again: none, dots (all but projections), full; auto: dots in a
    # scan over layers, else none.
    remat: str = _free("auto")
    scan: bool | None = None  # one compiled block for all layers; None: on TPU and GPU


@dataclass
class EmbedConfig:
    """Pictures as vectors, and the batches that they are learned from."""

    labels: str = "label"  # what pictures that lie near each other share: label (class), tags
    size: int = 128  # of a vector
    pictures_per_class: int = 4  # or tag, in a batch, which has batch_size / this of them
    arguments: tuple[tuple[str, Argument], ...] = ()  # of the criterion, as (("margin", 0.1),)


@dataclass
class TagConfig:
    """Any number of tags a picture."""

    head: str = "linear"  # linear, query (ML-Decoder, as wide as model.decoder_width)
    groups: int = 100  # queries of that head, each for a group of tags
    arguments: tuple[tuple[str, Argument], ...] = ()  # of the criterion, as (("gamma_neg", 2.0),)
    max_positive_weight: float | None = None  # rare tags weigh absent / present, at most this


@dataclass
class AugmentationConfig:
    """What training does to pictures on the device, beside data.flip (see data.augment)."""

    alternate: bool = False  # data.flip in turns: mirrored on every second pass, not at random
    affine: tuple[float, float, float] | None = None  # limits: degrees, shear, scale
    crop_padding: int = 0  # pixels around the picture, out of which a crop of its size is drawn
    crop_border: str = "constant"  # what is in them: constant (black), reflect, edge
    randaugment: tuple[int, int] | None = None  # (operations, magnitude of 30)
    colour_jitter: tuple[float, float, float, float] | None = None  # strength of brightness, …
    erasing: float = 0.0  # probability
    mixup: float = 0.0  # alpha
    cutmix: float = 0.0  # alpha
    cutmix_share: float = 0.5  # of examples that get CutMix, where there is mixup too


@dataclass
class OptimizerConfig:
    """A transformation of optax by name, its schedule and per-parameter rules.

    Rules are (regular expression, value) pairs over parameter paths such as
    `encoder/block_0/qkv/kernel`: the first that matches (re.search) holds.
    """

    name: str = "adamw"  # a function of optax that makes an optimiser
    arguments: tuple[tuple[str, Argument], ...] = ()  # further arguments, as (("b2", 0.98),)
    learning_rate: float = 1e-3
    schedule: str = "cosine"  # cosine, linear, constant, one_cycle, triangular
    warmup_steps: int = 0
    warmup_epochs: float = 0.0  # instead of warmup_steps
    final_factor: float = 0.0  # of learning_rate at the end of the schedule
    weight_decay: float = 0.0
    decay_rules: tuple[tuple[str, float], ...] = (
        (r"(bias|scale|cls_token|pos_embed|token_embed)$", 0.0),
        (r".*", 1.0),
    )
    rate_rules: tuple[tuple[str, float], ...] = ((r".*", 1.0),)  # factors; 0 freezes
    clip_norm: float | None = 1.0  # global norm of the gradient
    accumulate: int = 1  # parts in which a batch is computed
    ema_decay: float | None = None  # moving average of the parameters, used to evaluate
    lookahead: int = (
        0  # steps after which parameters go on from their average (see training.averages)
    )
    ema_moments: int = 0  # batches to compute its batch norm's moments from; 0: averaged as well


@dataclass
class MeshConfig:
    """Devices along each axis of the mesh, and what is split along which (see sharding)."""

    data: int = _free(-1)  # -1: all that the others leave
    fsdp: int = _free(1)
    tensor: int = _free(1)
    rules: tuple[tuple[str, str], ...] = _free(())  # before the model's own


@dataclass
class CheckpointConfig:
    """What is kept in DIR/checkpoints."""

    keep_last: int = _free(2)
    keep_best: int = _free(1)
    best_metric: str | None = _free(None)  # higher is better; None: CIDEr, top1, map, map@r


@dataclass
class DecodingConfig:
    """How captions are made from the model."""

    method: str = _free("beam")  # greedy, beam, sample
    beam_size: int = _free(4)
    length_penalty: float = _free(1.0)
    early_stopping: bool | str = _free(False)  # True, False, never: as transformers has it
    temperature: float = _free(1.0)
    top_k: int = _free(0)  # 0: all
    top_p: float = _free(1.0)


@dataclass
class EvaluationConfig:
    """How much is evaluated, during training and after it."""

    batch_size: int = _free(64)
    max_examples: int | None = _free(None)  # during training; None: the whole split
    pictures: int = _free(16)  # with what is said of them, for TensorBoard and a contact sheet
    mirror: bool = _free(False)  # classes, tags: the mean over a picture and its mirror image
    shift: int = _free(0)  # pixels: and over both moved by so many, up left and down right


@dataclass
class Config:
    """A whole run."""

    task: str = "caption"  # caption, classify, embed, tag
    seed: int = 0
    batch_size: int = 256  # global
    total_steps: int | None = None
    total_epochs: float | None = None  # where total_steps is not given
    log_every: int = _free(50)  # steps, as the next two
    evaluate_every: int = _free(1000)
    checkpoint_every: int = _free(1000)
    criterion: str = "softmax"  # see CRITERIA
    label_smoothing: float = 0.0
    max_bad_steps: int = _free(20)  # in a row with a gradient that is not finite; more is an error
    stuck_after: float = _free(300.0)  # seconds in which a process of several must go on (see loop)
    compilation_cache: bool = _free(True)  # keep compiled programs for the next start
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    tag: TagConfig = field(default_factory=TagConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


# What a task can minimise; margin is that of capsules, those of embed are in tasks.metric_losses.
CRITERIA = {
    "caption": ("softmax",),
    "classify": ("softmax", "margin"),
    "embed": (
        "arcface",
        "contrastive",
        "multi_similarity",
        "n_pair",
        "proxy_anchor",
        "triplet_all",
        "triplet_hard",
        "triplet_semi_hard",
    ),
    "tag": ("asymmetric", "binary_cross_entropy", "focal"),
}


def nearest(name: str, names: typing.Iterable[str]) -> str:
    """` (did you mean …?)` with the nearest of `names`, or all of them where none is near."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else f" (there are: {', '.join(names)})"


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


def check_name(config: Any, dotted: str) -> None:
    """Raises UsageError unless `dotted` names a field of `config`."""
    known = field_names(config)
    if dotted in known:
        return
    tail = {name.rsplit(".", 1)[-1]: name for name in known}
    close = difflib.get_close_matches(dotted, known, n=1, cutoff=0.6)
    hint = close[0] if close else tail.get(dotted.rsplit(".", 1)[-1])
    raise UsageError(
        f"--config.{dotted}: there is no such field"
        + (f"; the nearest is --config.{hint}" if hint else nearest(dotted, known))
    )


def check(config: Config) -> Config:
    """Returns `config`; raises UsageError where a value is of the wrong type or out of range."""
    _check_types(config, "")
    _check_choices(config)
    _check_numbers(config)
    _check_task(config)
    return config


def _check_choices(config: Config) -> None:
    choices = {
        "task": tuple(CRITERIA),
        "embed.labels": ("label", "tags"),
        "tag.head": ("linear", "query"),
        "optimizer.schedule": ("cosine", "linear", "constant", "one_cycle", "triangular"),
        "decoding.method": ("greedy", "beam", "sample"),
        "model.dtype": ("auto", "float32", "bfloat16"),
        "model.remat": ("auto", "none", "dots", "full"),
        "criterion": CRITERIA.get(config.task, ()),
    }
    for name, allowed in choices.items():
        if (value := get(config, name)) not in allowed:
            raise UsageError(f"config.{name} = {value!r}: unknown{nearest(value, allowed)}")


def _check_numbers(config: Config) -> None:
    least = dict.fromkeys(("optimizer.ema_moments", "optimizer.lookahead", "evaluation.shift"), 0)
    least |= {"data.workers": 0, "data.threads": 0}
    positive = ["batch_size", "log_every", "evaluate_every", "checkpoint_every"]
    positive += ["data.image_size", "text.length", "text.captions_per_image"]
    positive += ["embed.size", "embed.pictures_per_class", "tag.groups"]
    positive += ["optimizer.accumulate", "evaluation.batch_size", "decoding.beam_size"]
    positive += ["tag.max_positive_weight", "stuck_after"]
    for name, bound in (least | dict.fromkeys(positive, 1)).items():
        value = get(config, name)
        if value is not None and value < bound:
            raise UsageError(f"config.{name} = {value}: must be at least {bound}")
    if config.total_steps is None and config.total_epochs is None:
        raise UsageError("config.total_steps or config.total_epochs must say how long to train")
    _check_divides(config, "optimizer.accumulate")
    for name in ("ema_moments", "lookahead"):
        value = get(config.optimizer, name)
        if value and config.optimizer.ema_decay is None:
            raise UsageError(
                f"config.optimizer.{name} = {value}: there is no moving average without "
                "config.optimizer.ema_decay"
            )


def _check_task(config: Config) -> None:
    if config.task == "embed":
        _check_divides(config, "embed.pictures_per_class")
    if config.task == "caption" and config.data.grey:
        raise UsageError("config.data.grey = True: a captioner sees three channels; leave it False")


def _check_divides(config: Config, name: str) -> None:
    value = get(config, name)
    if config.batch_size % value:
        raise UsageError(
            f"config.{name} = {value} does not divide config.batch_size = {config.batch_size}"
        )


def get(config: Any, dotted: str) -> Any:
    """The value of a dotted field name."""
    for part in dotted.split("."):
        config = getattr(config, part)
    return config


def label_feature(config: Config) -> str:
    """The field of a record that holds its labels: `label` (one class) or `tags`."""
    return {"tag": "tags", "embed": config.embed.labels}.get(config.task, "label")


def is_free(dotted: str) -> bool:
    """Whether a resumed run may change this field, since it does not change what is trained."""
    kind: Any = Config
    for part in dotted.split("."):
        item = {item.name: item for item in dataclasses.fields(kind)}[part]
        kind = item.type
    return bool(item.metadata.get("free"))


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The fields that change what is trained: {dotted name: (old value, new value)}."""
    changed = {}
    for name in field_names(new):
        if not is_free(name) and get(old, name) != get(new, name):
            changed[name] = (get(old, name), get(new, name))
    return changed


def to_json(config: Config) -> str:
    """JSON text of the whole configuration."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str, where: str = "config.json") -> Config:
    """The configuration that `to_json` wrote. UserError names `where` and the field at fault."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is damaged: {error}") from error
    return check(_from_dict(Config, values, where, ""))


def load(workdir: str | Path) -> Config:
    """The configuration that a work directory was trained with."""
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise UserError(
            f"{workdir} is no work directory: it has no config.json "
            "(give the --workdir of a run of jaxtag.train)"
        )
    return from_json(path.read_text(encoding="utf-8"), str(path))


def _from_dict(kind: type, values: Any, where: str, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{where}: {prefix or 'the file'} must be an object")
    known = {item.name: item.type for item in dataclasses.fields(kind)}
    made = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where}: unknown field {prefix}{name}{nearest(name, known)}")
        if dataclasses.is_dataclass(known[name]):
            value = _from_dict(known[name], value, where, f"{prefix}{name}.")
        made[name] = _tuples(value)
    return kind(**made)


def _tuples(value: Any) -> Any:
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
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return any(_fits(value, option) for option in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(_fits(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
