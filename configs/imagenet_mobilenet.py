"""MobileNet on ImageNet: V1, V2 or V3 (Howard et al. 2017 and 2019, Sandler et al. 2018).

    python -m jaxtag.prepare --dataset=imagenet2012 --source=ILSVRC2012
    python -m jaxtag.train --config=imagenet_mobilenet --workdir=runs/imagenet_mobilenet
    python -m jaxtag.train --config=imagenet_mobilenet:model=mobilenet_v3_large --workdir=runs/v3

Smoke run: --config.total_steps=5 --config.batch_size=8. Hardware: one accelerator.
Expected: not yet measured (full ImageNet).
"""

from jaxtag import models
from jaxtag.config import (
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
)


def get_config(model: str = "mobilenet_v2") -> Config:
    wanted = models.preprocessing_of(model)
    return Config(
        task="classify",
        batch_size=1024,
        total_epochs=150.0,
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
        optimizer=OptimizerConfig(
            name="sgd",
            arguments=(("momentum", 0.9), ("nesterov", True)),
            learning_rate=0.4,
            warmup_epochs=5.0,
            weight_decay=4e-5,
            ema_decay=0.9999,
        ),
        evaluation=EvaluationConfig(batch_size=256, max_examples=10000),
    )
