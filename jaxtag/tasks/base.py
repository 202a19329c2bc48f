"""The contract of a task: everything that training, evaluation and inference ask about it.

A task owns its section of the configuration, its vocabulary, what a record becomes, the model, the
loss, the evaluation and the rows of its predictions. The rest of jaxtag asks the task and knows no
task by name. A class outside of jaxtag takes part as `package.module:Name`:

    @dataclasses.dataclass
    class CountConfig(TaskConfig):
        TASK: ClassVar[str] = "my_package.counting:CountTask"
        loss: str = "softmax"

    class CountTask(Task):
        config_class = CountConfig
        …

    config = Config(task=CountConfig(), …)
"""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxtag import augment
from jaxtag.config.schema import Config, TaskConfig
from jaxtag.data import pipeline, transforms
from jaxtag.data.labels import LabelNames
from jaxtag.data.sources import Source
from jaxtag.data.targets import Target
from jaxtag.errors import UsageError
from jaxtag.tasks.applied_model import AppliedModel, Batch

SettingsT = TypeVar("SettingsT", bound=TaskConfig)

Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count), to be added up
Row = dict[str, Any]  # the prediction for an image, as JSON can hold it
Scores = dict[str, dict[str, float]]  # predictor -> its metrics, for a table
# (variables, batch, key) -> arrays whose first axis is the batch's
Predict = Callable[[Any, Batch, jax.Array], dict[str, jax.Array]]
# (variables, batch, key) -> the batch, completed by what the model makes of it
Rollout = Callable[[Any, Batch, jax.Array], Batch]
# (variables, batch, key) -> (values that add up over batches, arrays [B, …] of each example)
EvaluationStep = Callable[
    [Any, Batch, jax.Array], tuple[dict[str, jax.Array], dict[str, jax.Array]]
]


class Vocabulary(Protocol):
    """What a task's outputs mean: label names or a tokenizer. Its length is their number."""

    def __len__(self) -> int: ...

    def save(self, path: Path) -> None:
        """Writes a file that `Task.load_vocabulary` reads."""


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run reads, opened once.

    Attributes:
        train, evaluation: the sources, with labels numbered as `vocabulary` does.
        vocabulary: of the task; None where it has none.
        fingerprint: split -> what tells its records from others (see `Source.fingerprint`).
    """

    train: Source
    evaluation: Source
    vocabulary: Any
    fingerprint: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class LossOutput(NamedTuple):
    """The result of `Task.loss`.

    Attributes:
        loss: sums, float32 [B], or [] where the task's loss compares the whole batch.
        weight: what they are sums over, in the same shape; 0 for padding.
        metrics: name -> (sum, count), of which `loss` is one.
        collections: the model's other collections after the step.
    """

    loss: jax.Array
    weight: jax.Array
    metrics: Metrics
    collections: Any


@dataclasses.dataclass(frozen=True)
class Sample:
    """An evaluated example to look at.

    Attributes:
        index: its position in the split.
        image: uint8 [S, S, 3].
        prediction: the model's answer, as text.
        targets: the right answers.
    """

    index: int
    image: np.ndarray
    prediction: str
    targets: list[str]


@dataclasses.dataclass(frozen=True)
class EvaluationData:
    """What `Evaluator` gathered from a split.

    Attributes:
        sums: float64, the sums of `Task.make_evaluation_step` over all batches.
        rows: its arrays [N, …] of the examples that were decoded, in the order of the split.
        index: int64 [N], their positions in the split.
        images: position -> uint8 [S, S, 3], of a few.
        source: the split.
        split: its name.
    """

    sums: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]
    index: np.ndarray
    images: dict[int, np.ndarray]
    source: Source
    split: str


class Evaluation:
    """The result of an evaluation.

    Attributes:
        metrics: name -> value.
        rows, index, images, source: as of `EvaluationData`.
    """

    def __init__(self, metrics: dict[str, float], data: EvaluationData):
        self.metrics = metrics
        self.rows, self.index, self.images = data.rows, data.index, data.images
        self.source = data.source

    def subset_metrics(self, count: int) -> dict[str, float]:
        """Metrics on the first `count` records of the split, by which the best step is chosen."""
        del count
        return self.metrics

    def samples(self) -> list[Sample]:
        """A few examples, in the order of the split."""
        return []

    def with_baselines(self, data: Data) -> Scores:
        """The model's metrics beside those of predictors that it has to beat."""
        del data
        return {"model": self.metrics}

    def save_artifacts(self, workdir: Path, step: int) -> None:
        """Writes what the use of the checkpoint of `step` needs and only evaluation determines."""

    def predictions(self) -> dict[str, Any]:
        """Name -> an array or list with the truth, prediction or scores of each image."""
        return dict(self.rows)

    def per_class(self) -> dict[str, dict[str, float]]:
        """Class or tag -> its metrics, where the task has any."""
        return {}

    def details(self) -> dict[str, Any]:
        """What `evaluation.json` holds beside `metrics`, as JSON can hold it."""
        per_class = self.per_class()
        return {"per_class": per_class} if per_class else {}


class Task(AppliedModel, abc.ABC, Generic[SettingsT]):
    """A task with its model: pure functions of (variables, batch, key), and their surroundings.

    A batch holds `image` uint8 [B, S, S, 3], `mask` float32 [B] (0: padding, or an image that
    could not be decoded), `index` and `epoch` int32 [B], and what `targets` adds.

    Args:
        config: the whole configuration; `config.task` is the task's own section.
        vocabulary: label names or a tokenizer; for planning alone anything of the right length.
        model: by default what `make_model` builds.

    Attributes:
        config_class: of the section `config.task`.
        headline_metrics: the metrics that matter most; the first, of which higher is better,
            selects the best checkpoint.
        vocabulary_file: its name in a work directory; None for a task without a vocabulary.
        contact_sheet: the name of the sheet of samples in a work directory.
        loss_per_example: whether `loss` returns [B], so that a batch can be computed in parts.
        selects_tags: whether the tags of `rows` are those that reach a threshold of their own.
        all_scores: whether the rows of an evaluation hold the score of each class.
        unseen_labels: whether evaluation takes labels that training did not know.
    """

    config_class: ClassVar[type[TaskConfig]]
    headline_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    vocabulary_file: ClassVar[str | None] = "classes.json"
    contact_sheet: ClassVar[str] = "predictions.png"
    loss_per_example: ClassVar[bool] = True
    selects_tags: ClassVar[bool] = False
    unseen_labels: ClassVar[bool] = False
    all_scores: bool = False

    def __init__(self, config: Config, vocabulary: Any, model: nn.Module | None = None):
        self.config = config
        self.vocabulary = vocabulary
        self.augmentation = augment.Augmentation.from_config(config)
        self.model = self.make_model() if model is None else model

    @property
    def settings(self) -> SettingsT:
        """The task's own section of the configuration."""
        return self.section(self.config)

    @classmethod
    def section(cls, config: Config) -> SettingsT:
        """The section `config.task`, as the type that it is of."""
        return cast(SettingsT, config.task)

    # --- a whole model that the run starts from

    @classmethod
    def with_pretrained(cls, config: Config, old: Config | None = None) -> Config:
        """`config` with what the files of the whole model say that the run starts from.

        Args:
            old: of the run so far, which says the same where it started from that model.
        """
        del old
        return config

    @property
    def pretrained(self) -> str | None:
        """REF of the whole model that the run starts from, where there is one."""
        return None

    # --- the vocabulary

    @classmethod
    def label_field(cls, config: Config) -> str:
        """The field of a record that the labels are in: `label` (one class) or `tags`."""
        del config
        return "label"

    @classmethod
    def build_vocabulary(cls, config: Config, source: Source) -> Vocabulary:
        """The vocabulary of a new run. Raises UserError where the records have no such field."""
        return LabelNames.from_source(source, cls.label_field(config))

    @classmethod
    def load_vocabulary(cls, path: Path) -> Vocabulary:
        """What `Vocabulary.save` wrote. Raises UserError where the file is damaged."""
        return LabelNames.load(path)

    @classmethod
    def published_vocabulary(cls, config: Config) -> str:
        """What the outputs count of a data set that is not there: tokens, classes or tags."""
        return {"label": "classes", "tags": "tags"}[cls.label_field(config)]

    # --- the model

    @abc.abstractmethod
    def make_model(self) -> nn.Module:
        """The model of the configuration, with as many outputs as the vocabulary has entries."""

    @property
    def channels(self) -> int:
        """Of the images that the model takes."""
        return 1 if self.config.data.grayscale else 3

    def init(self, key: jax.Array) -> Any:
        """Fresh variables of the model."""
        size = self.config.data.image_size
        return self.model.init(key, jnp.zeros((1, size, size, self.channels), jnp.float32))

    def collections_from_data(self, source: Source) -> dict[str, Any]:
        """Collections of the model that the training data determine: {name: variables}."""
        del source
        return {}

    # --- the data

    def image_transform(self, train: bool) -> transforms.ImageTransform:
        """From an encoded image to pixels [S, S, 3]."""
        data = self.config.data
        full_image = data.crop_scale == (1.0, 1.0)
        if train and not full_image:
            return transforms.RandomResizedCrop(data.image_size, data.crop_scale, data.crop_ratio)
        if train:
            return transforms.Resize(data.image_size)
        crop_pct = None if full_image else data.eval_crop_pct
        return transforms.evaluation_transform(
            data.image_size, crop_pct, data.eval_fit, data.eval_interpolation
        )

    @abc.abstractmethod
    def targets(self, train: bool) -> dict[str, Target]:
        """What a batch holds beside its images: name -> how a record yields it."""

    def example_spec(self, train: bool) -> pipeline.ExampleSpec:
        """How a record becomes a row of a batch."""
        return pipeline.ExampleSpec(self.image_transform(train), self.targets(train))

    @classmethod
    def complete_source(cls, config: Config, source: Source) -> Source:
        """A split with what the task wants of its records beside what they hold."""
        del config
        return source

    def make_sampler(self, source: Source) -> Callable[[int], np.ndarray] | None:
        """Batch number -> its records, where a task wants another order than a shuffle."""
        del source
        return None

    @property
    def label_names(self) -> LabelNames | None:
        """The vocabulary, where it numbers names that records may hold instead of numbers."""
        return self.vocabulary if isinstance(self.vocabulary, LabelNames) else None

    # --- pure functions

    @abc.abstractmethod
    def loss(self, variables: Any, batch: Batch, key: jax.Array | None) -> LossOutput:
        """The loss of a batch.

        With `key` None there is no augmentation and no dropout, and the collections stay.
        """

    def make_rollout(self, mesh: Mesh, source: Source) -> Rollout | None:
        """What completes a training batch before its step, by what the model makes of it.

        Args:
            source: the training split.
        """
        del mesh, source
        return None

    @abc.abstractmethod
    def make_predict(self) -> Predict:
        """A compiled function (variables, batch, key) -> arrays [B, …] that `rows` takes."""

    def encode_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """What `batch["prompt"]` holds for texts that predictions begin with, [N, P].

        Raises:
            UsageError: the task generates no text.
        """
        del prompts
        raise UsageError(f"a model of the task {self.settings.TASK} takes no prompts")

    @abc.abstractmethod
    def rows(self, outputs: dict[str, np.ndarray], top_k: int | None = None) -> list[Row]:
        """The predictions of a batch as JSON values, e.g. {"tags": [{"tag": …, "score": …}]}.

        Args:
            top_k: how many tags or classes a row has, whatever their scores; by default those
                that the task selects.
        """

    # --- evaluation

    def make_evaluation_step(self, mesh: Mesh) -> EvaluationStep:
        """What evaluation computes of a batch; by default the means of the loss's metrics."""
        from jaxtag.distributed.mesh import replicated, with_mesh

        metrics = jax.jit(
            with_mesh(mesh, lambda variables, batch: self.loss(variables, batch, None).metrics),
            out_shardings=replicated(mesh),
        )

        def step(variables: Any, batch: Batch, key: jax.Array) -> Any:
            del key
            pairs = metrics(variables, batch)
            return {name: jnp.stack(pair) for name, pair in pairs.items()}, {}

        return step

    def evaluate(self, data: EvaluationData) -> Evaluation:
        """The evaluation that the sums and rows of `make_evaluation_step` amount to."""
        pairs = data.sums.items()
        metrics = {name: float(total / max(count, 1e-9)) for name, (total, count) in pairs}
        metrics["examples"] = float(len(data.index))
        return Evaluation(metrics, data)

    def load_artifacts(self, workdir: Path, step: int) -> None:
        """Reads what `Evaluation.save_artifacts` wrote for a checkpoint, where there is any."""

    @classmethod
    def headline(cls, metrics: dict[str, float]) -> str:
        """The metrics that matter most, as text."""
        names: Iterable[str] = (name for name in cls.headline_metrics if name in metrics)
        return ", ".join(f"{name} {metrics[name]:.3f}" for name in names)


def top_rows(scores: np.ndarray, names: Sequence[str], count: int) -> list[Row]:
    """The `count` highest scores of a row [C] by name, the highest first."""
    order = np.argsort(-scores, kind="stable")[:count]
    return [{"tag": names[i], "score": round(float(scores[i]), 4)} for i in order]
