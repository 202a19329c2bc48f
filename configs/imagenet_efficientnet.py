"""EfficientNet B0 to B7 on ImageNet (Tan and Le 2019, arXiv:1905.11946).

    python -m jaxtag.prepare --dataset=imagenet2012 --source=ILSVRC2012
    python -m jaxtag.train --config=imagenet_efficientnet --workdir=runs/imagenet_efficientnet
    python -m jaxtag.train --config=imagenet_efficientnet:model=efficientnet_b4 --workdir=runs/b4

Smoke run: --config.total_steps=5 --config.batch_size=8. Hardware: one accelerator for
B0, a slice of many for B7 at 600 pixels.
Expected: not yet measured (full ImageNet).
"""

from jaxtag import models
from jaxtag.config import (
    AugmentationConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
)


def get_config(model: str = "efficientnet_b0") -> Config:
    wanted = models.preprocessing_of(model)
    return Config(
        task="classify",
        batch_size=2048,
        total_epochs=350.0,
        log_every=100,
        evaluate_every=5000,
        checkpoint_every=5000,
        label_smoothing=0.1,
        data=DataConfig(
            dataset="imagenet2012",
            image_size=wanted.image_size,
            crop_area=(0.08, 1.0),
            center_crop=wanted.crop,
            flip=True,
            mean=wanted.mean,
            std=wanted.std,
            workers=8,
        ),
        model=ModelConfig(encoder=model),
        augmentation=AugmentationConfig(randaugment=(2, 9), erasing=0.25),
        optimizer=OptimizerConfig(
            name="lamb",
            learning_rate=5e-3,
            warmup_epochs=5.0,
            weight_decay=0.02,
            ema_decay=0.9999,
        ),
        evaluation=EvaluationConfig(batch_size=256, max_examples=10000),
    )
