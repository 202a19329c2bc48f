"""The typed configuration of a run: its sections and fields.

A field made by `runtime` does not change what is trained: a resumed run may change it.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtag import registry

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
