"""AlexNet on ImageNet (Krizhevsky et al. 2012; the single tower of torchvision).

    python -m jaxtag.prepare --dataset=imagenet2012 --source=ILSVRC2012
    python -m jaxtag.train --config=imagenet_alexnet --workdir=runs/imagenet_alexnet
    python -m jaxtag.train --config=imagenet_alexnet:model=alexnet_two_tower --workdir=runs/two

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


def get_config(model: str = "alexnet") -> Config:
    wanted = models.preprocessing_of(model)
    return Config(
        task="classify",
        batch_size=256,
        total_epochs=90.0,
        log_every=100,
        evaluate_every=5000,
        checkpoint_every=5000,
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
            arguments=(("momentum", 0.9),),
            learning_rate=0.01,
            weight_decay=5e-4,
        ),
        evaluation=EvaluationConfig(batch_size=256, max_examples=10000),
    )
