"""The grid of the comparison: architectures, data sets, and the configuration of each cell.

Each cell sees the same number of training images with the same optimizer and schedule; the learning
rate is the architecture's. The resolution is the data set's, or what the architecture requires. A
row starts from random weights, or keeps published ones frozen and trains what is on top of them:
such rows see larger images, without augmentation.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtag import models
from jaxtag.config.schema import (
    AugmentationConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    TaskConfig,
)
from jaxtag.errors import did_you_mean
from jaxtag.tasks.classify.config import ClassifyConfig
from jaxtag.tasks.embed.config import EmbedConfig
from jaxtag.tasks.tag.config import TagConfig

_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A row of the table.

    Attributes:
        title: The survey's name for it.
        backbone: A name of `jaxtag.list_models()`.
        kwargs: Fields of its module.
        patches_per_side: On images smaller than the model is made for.
        min_image_size: Pixels.
        max_image_size: Pixels (a CapsNet's parameters grow with the image).
        metric_learning: It is trained by metric learning, and evaluated by its nearest neighbors.
        features_of: It is not trained, but evaluated by the nearest neighbors of this row's
            features.
        learning_rate: Lower for networks without normalization.
        pretrained: REF of its frozen backbone's weights; None: all is trained from random ones.
        dtype: Of its arithmetic. A CapsNet's step is bound by reading and writing its votes for
            many classes: bfloat16 halves its time, on CPU too.
    """

    title: str
    backbone: str
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    patches_per_side: int | None = None
    min_image_size: int = 32
    max_image_size: int = 224
    metric_learning: bool = False
    features_of: str | None = None
    learning_rate: float = 1e-3
    pretrained: str | None = None
    dtype: str = "auto"

    @property
    def uses_neighbors(self) -> bool:
        """Whether its metrics are those of nearest neighbors."""
        return self.metric_learning or self.features_of is not None

    def kwargs_at(self, image_size: int) -> dict[str, Any]:
        """The fields of its module for images of a size."""
        kwargs = dict(self.kwargs)
        if self.patches_per_side is not None and image_size < self.max_image_size:
            kwargs["patch_size"] = image_size // self.patches_per_side
        return kwargs


ARCHITECTURES = {
    "alexnet": Architecture("AlexNet", "alexnet", min_image_size=64),
    "mobilenet": Architecture("MobileNet", "mobilenet_v2"),
    # Smaller images end as one pixel, where the ReLU of its classifier lets no gradient through.
    "squeezenet": Architecture(
        "SqueezeNet", "squeezenet1_1", min_image_size=64, learning_rate=3e-4
    ),
    "efficientnet": Architecture("EfficientNet", "efficientnet_b0"),
    "resnet": Architecture("ResNet", "resnet18"),
    "capsnet": Architecture("CapsNet", "capsnet", max_image_size=32, dtype="bfloat16"),
    "vit": Architecture("ViT", "vit_tiny_patch16", {"depth": 6}, patches_per_side=8),
    "knn_cnn": Architecture("kNN + CNN", "resnet18", features_of="resnet"),
    "metric_learning": Architecture("Deep metric learning", "resnet18", metric_learning=True),
    "squeezenet_pretrained": Architecture(
        "SqueezeNet", "squeezenet1_1", pretrained="squeezenet1_1"
    ),
    "efficientnet_pretrained": Architecture(
        "EfficientNet", "efficientnet_lite0", pretrained="efficientnet_lite0"
    ),
    "knn_cnn_pretrained": Architecture(
        "kNN + CNN",
        "efficientnet_lite0",
        features_of="efficientnet_pretrained",
        pretrained="efficientnet_lite0",
    ),
    "metric_learning_pretrained": Architecture(
        "Deep metric learning",
        "efficientnet_lite0",
        metric_learning=True,
        pretrained="efficientnet_lite0",
    ),
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A column of the table.

    Attributes:
        title: The survey's name for it.
        task: "classify" or "tag".
        split: The cells are evaluated on it.
        image_size: Pixels.
        pretrained_size: Pixels for a pretrained backbone.
        metric: That cells are compared by, a name of the task's evaluation.
        crop_padding: Augmentation that keeps what an image shows.
        flip: As well.
    """

    title: str
    task: str
    split: str
    image_size: int
    metric: str
    crop_padding: int = 4
    flip: bool = True
    pretrained_size: int = 224

    def image_size_for(self, architecture: Architecture) -> int:
        """Pixels at which an architecture sees this data set."""
        if architecture.pretrained is not None:
            return self.pretrained_size
        size = max(self.image_size, architecture.min_image_size)
        return min(size, architecture.max_image_size)


DATASETS = {
    "mnist": Dataset(
        "MNIST", "classify", "test", 32, "top1", crop_padding=2, flip=False, pretrained_size=64
    ),
    "cifar10": Dataset("CIFAR-10", "classify", "test", 32, "top1", pretrained_size=96),
    "cifar100": Dataset("CIFAR-100", "classify", "test", 32, "top1", pretrained_size=96),
    "imagenet2012": Dataset("ImageNet", "classify", "validation", 224, "top1"),
    "voc2007": Dataset("VOC 2007", "tag", "test", 224, "map"),
    "coco_tags": Dataset("COCO", "tag", "validation", 224, "map"),
    "nus_wide": Dataset("NUS-WIDE", "tag", "test", 224, "map"),
    "mirflickr25k": Dataset("MIRFlickr-25K", "tag", "test", 224, "map"),
    "corel5k": Dataset("Corel-5K", "tag", "validation", 64, "f1@5"),
}


def cell_config(
    architecture: str,
    dataset: str,
    num_images: int,
    seed: int,
    data_dir: str | None,
    weights: str | None = None,
) -> Config:
    """The configuration of a cell that is trained.

    Args:
        architecture: A key of `ARCHITECTURES`.
        dataset: A key of `DATASETS`.
        num_images: Training images that it sees, repeats counted.
        seed: Of the run.
        data_dir: Where data sets are kept; None for the default.
        weights: REF of a pretrained row's weights; None for its own.

    Raises:
        ValueError: There is no such architecture or data set.
    """
    for name, names in ((architecture, ARCHITECTURES), (dataset, DATASETS)):
        if name not in names:
            raise ValueError(f"{name!r} is unknown{did_you_mean(name, names)}")
    row, column = ARCHITECTURES[architecture], DATASETS[dataset]
    image_size = column.image_size_for(row)
    steps = max(1, num_images // _BATCH_SIZE)
    frozen = row.pretrained is not None
    preprocessing = models.get_preprocessing(row.backbone)
    middle = (0.5, 0.5, 0.5)
    return Config(
        task=_task_config(row, column),
        seed=seed,
        batch_size=_BATCH_SIZE,
        total_steps=steps,
        evaluate_every=steps,
        checkpoint_every=max(1, steps // 4),
        data=DataConfig(
            dataset=dataset,
            data_dir=data_dir,
            evaluation_split=column.split,
            image_size=image_size,
            crop_scale=(1.0, 1.0),
            flip=column.flip and not frozen,
            mean=preprocessing.mean if frozen else middle,
            std=preprocessing.std if frozen else middle,
        ),
        model=ModelConfig(
            backbone=row.backbone,
            kwargs=row.kwargs_at(image_size),
            pretrained=weights or row.pretrained,
            freeze=frozen,
            cached_views=int(frozen),
            dtype=row.dtype,
        ),
        augmentation=AugmentationConfig(crop_padding=0 if frozen else column.crop_padding),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=row.learning_rate,
            weight_decay=0.05,
            warmup_steps=max(1, steps // 20),
        ),
        evaluation=EvaluationConfig(batch_size=100),
    )


def _task_config(row: Architecture, column: Dataset) -> TaskConfig:
    if row.metric_learning:
        return EmbedConfig(
            loss="proxy_anchor",
            label_field="tags" if column.task == "tag" else "label",
            embedding_dim=128,
            samples_per_class=8,
        )
    if column.task == "tag":
        return TagConfig(loss="asymmetric")
    return ClassifyConfig(loss="margin" if row.backbone == "capsnet" else "softmax")
