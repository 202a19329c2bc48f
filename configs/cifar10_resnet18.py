"""Any backbone on CIFAR-10 (Krizhevsky 2009).

    python -m jaxtag.prepare --dataset=cifar10 --source=CIFAR10
    python -m jaxtag.train --config=cifar10_resnet18 --workdir=runs/cifar10_resnet18
    python -m jaxtag.train --config=cifar10_resnet18:model=mobilenet_v2 --workdir=runs/mobilenet

Smoke run: --config.total_steps=5. Hardware: 2 CPU cores take long, an accelerator minutes.
Expected: not yet measured.
"""

from jaxtag import models
from jaxtag.config.schema import (
    AugmentationConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
)
from jaxtag.tasks.classify.config import ClassifyConfig


def get_config(model: str = "resnet18", image_size: int = 32) -> Config:
    preprocessing = models.get_preprocessing(model)
    small = {"small_images": True} if model.startswith("resnet") else {}
    return Config(
        task=ClassifyConfig(label_smoothing=0.1),
        batch_size=128,
        total_epochs=60.0,
        evaluate_every=1000,
        checkpoint_every=1000,
        data=DataConfig(
            dataset="cifar10",
            evaluation_split="test",
            image_size=image_size,
            crop_scale=(1.0, 1.0),
            flip=True,
            mean=preprocessing.mean,
            std=preprocessing.std,
        ),
        model=ModelConfig(backbone=model, kwargs=small),
        augmentation=AugmentationConfig(crop_padding=image_size // 8, crop_padding_mode="reflect"),
        optimizer=OptimizerConfig(
            name="sgd",
            kwargs={"momentum": 0.9, "nesterov": True},
            learning_rate=0.05,
            warmup_epochs=1.0,
            weight_decay=5e-4,
        ),
        evaluation=EvaluationConfig(batch_size=200),
    )
