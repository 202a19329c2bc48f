"""ViT on ImageNet from scratch (Beyer et al. 2022, arXiv:2205.01580, Touvron et al. 2021).

    python -m jaxtag.prepare --dataset=imagenet2012 --source=ILSVRC2012
    python -m jaxtag.train --config=imagenet_vit --workdir=runs/imagenet_vit
    python -m jaxtag.train --config=imagenet_vit:model=vit_base_patch16 --workdir=runs/vit_base

Smoke run: --config.total_steps=5 --config.batch_size=8. Hardware: one accelerator, or many.
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


def get_config(model: str = "vit_small_patch16") -> Config:
    wanted = models.preprocessing_of(model)
    return Config(
        task="classify",
        batch_size=1024,
        total_epochs=300.0,
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
        model=ModelConfig(encoder=model, arguments=(("pool", "gap"), ("drop_path", 0.1))),
        augmentation=AugmentationConfig(randaugment=(2, 10), mixup=0.2, cutmix=1.0),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=1e-3,
            warmup_epochs=10.0,
            weight_decay=0.1,
        ),
        evaluation=EvaluationConfig(batch_size=256, max_examples=10000),
    )
