"""The cells of the comparison: which architectures, on which data sets, trained how.

Every cell sees the same number of training pictures, with the same optimiser and schedule, from
random weights; the learning rate is the architecture's. The resolution is the data set's, or what
the architecture needs.
"""

import dataclasses

from jaxtag.config.schema import (
    AugmentationConfig,
    Config,
    DataConfig,
    EmbedConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    TagConfig,
)
from jaxtag.errors import did_you_mean

Arguments = tuple[tuple[str, bool | int | float | str | tuple], ...]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A row.

    Attributes:
      title: as the survey calls it.
      model: the backbone, a name of `jaxtag.models.names()`.
      arguments: fields of its module.
      patches: along a side, on pictures smaller than the model is made for.
      smallest, largest: pixels that it takes (a CapsNet's parameters grow with the picture).
      embeds: it is trained by metric learning, and judged by its nearest neighbours.
      learning_rate: networks without normalisation take less.
      neighbours: it is not trained, but takes the nearest neighbours of another row's features.
      dtype: of its arithmetic. A CapsNet's votes for many classes are what its step reads and
        writes: in bfloat16 it takes half the time, on CPU too.
    """

    title: str
    model: str
    arguments: Arguments = ()
    patches: int | None = None
    smallest: int = 32
    largest: int = 224
    embeds: bool = False
    neighbours: str | None = None
    learning_rate: float = 1e-3
    dtype: str = "auto"

    def arguments_at(self, image_size: int) -> Arguments:
        """The fields of its module for pictures of a size."""
        if self.patches is None or image_size >= self.largest:
            return self.arguments
        return (*self.arguments, ("patch_size", image_size // self.patches))


ARCHITECTURES = {
    "alexnet": Architecture("AlexNet", "alexnet", smallest=64),
    "mobilenet": Architecture("MobileNet", "mobilenet_v2"),
    # Smaller pictures end as one pixel, where the ReLU of its classifier lets no gradient through.
    "squeezenet": Architecture("SqueezeNet", "squeezenet1_1", smallest=64, learning_rate=3e-4),
    "efficientnet": Architecture("EfficientNet", "efficientnet_b0"),
    "resnet": Architecture("ResNet", "resnet18"),
    "capsnet": Architecture("CapsNet", "capsnet", largest=32, dtype="bfloat16"),
    "vit": Architecture("ViT", "vit_tiny_patch16", (("depth", 6),), patches=8),
    "knn_cnn": Architecture("kNN + CNN", "resnet18", neighbours="resnet"),
    "metric_learning": Architecture("Deep metric learning", "resnet18", embeds=True),
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A column.

    Attributes:
      title: as the survey calls it.
      task: "classify" or "tag".
      split: on which cells are judged.
      image_size: pixels.
      crop_padding, flip: augmentation that keeps what a picture shows.
      metric: that cells are compared by, a name of the task's evaluation.
    """

    title: str
    task: str
    split: str
    image_size: int
    metric: str
    crop_padding: int = 4
    flip: bool = True

    def size_for(self, architecture: Architecture) -> int:
        """Pixels at which an architecture sees this data set."""
        return min(max(self.image_size, architecture.smallest), architecture.largest)


DATASETS = {
    "mnist": Dataset("MNIST", "classify", "test", 32, "top1", crop_padding=2, flip=False),
    "cifar10": Dataset("CIFAR-10", "classify", "test", 32, "top1"),
    "cifar100": Dataset("CIFAR-100", "classify", "test", 32, "top1"),
    "imagenet2012": Dataset("ImageNet", "classify", "validation", 224, "top1"),
    "voc2007": Dataset("VOC 2007", "tag", "test", 224, "map"),
    "coco_tags": Dataset("COCO", "tag", "validation", 224, "map"),
    "nus_wide": Dataset("NUS-WIDE", "tag", "test", 224, "map"),
    "mirflickr25k": Dataset("MIRFlickr-25K", "tag", "test", 224, "map"),
    "corel5k": Dataset("Corel-5K", "tag", "validation", 64, "f1@5"),
}


def configuration(
    architecture: str, dataset: str, pictures: int, seed: int, data_dir: str | None
) -> Config:
    """The run of a cell that is trained.

    Args:
      pictures: how many training pictures it sees, repeats counted.

    Raises:
      ValueError: there is no such architecture or data set.
    """
    for name, known in ((architecture, ARCHITECTURES), (dataset, DATASETS)):
        if name not in known:
            raise ValueError(f"{name!r} is unknown{did_you_mean(name, known)}")
    row, column = ARCHITECTURES[architecture], DATASETS[dataset]
    batch_size = 64
    steps = max(1, pictures // batch_size)
    return Config(
        task="embed" if row.embeds else column.task,
        criterion=_criterion(row, column),
        seed=seed,
        batch_size=batch_size,
        total_steps=steps,
        evaluate_every=steps,
        checkpoint_every=max(1, steps // 4),
        data=DataConfig(
            dataset=dataset,
            data_dir=data_dir,
            evaluation_split=column.split,
            image_size=column.size_for(row),
            crop_scale=(1.0, 1.0),
            flip=column.flip,
        ),
        model=ModelConfig(
            backbone=row.model,
            kwargs=row.arguments_at(column.size_for(row)),
            dtype=row.dtype,
        ),
        augmentation=AugmentationConfig(crop_padding=column.crop_padding),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=row.learning_rate,
            weight_decay=0.05,
            warmup_steps=max(1, steps // 20),
        ),
        evaluation=EvaluationConfig(batch_size=100),
        embed=EmbedConfig(
            label_field="tags" if column.task == "tag" else "label",
            embedding_dim=128,
            samples_per_class=8,
        ),
        tag=TagConfig(),
    )


def _criterion(row: Architecture, column: Dataset) -> str:
    if row.embeds:
        return "proxy_anchor"
    if column.task == "tag":
        return "asymmetric"
    return "margin" if row.model == "capsnet" else "softmax"
