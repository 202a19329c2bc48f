"""Multi-label tagging of Corel-5K (Duygulu et al. 2002) with a small ResNet, from nothing.

    python -m jaxtag.prepare --dataset=corel5k --source=COREL5K
    python -m jaxtag.train --config=corel5k_tag --workdir=runs/corel5k

Rare tags, of which there are many, weigh more. Smoke run: --config.total_steps=5. Hardware: 2 CPU
cores, a quarter of an hour. Expected on the 500 held-out pictures: mAP 0.302, F1@5 0.228, N+ 106
(one seed, benchmarks/README.md; the most frequent tags: F1@5 0.006).
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
from jaxtag.tasks.tag.config import TagConfig


def get_config(model: str = "resnet18", image_size: int = 96, total_epochs: float = 30.0) -> Config:
    preprocessing = models.get_preprocessing(model)
    shallow = {"depths": (1, 1, 1, 1)} if model == "resnet18" else {}
    return Config(
        task=TagConfig(loss="binary_cross_entropy", max_pos_weight=10.0),
        batch_size=64,
        total_epochs=total_epochs,
        evaluate_every=300,
        checkpoint_every=300,
        data=DataConfig(
            dataset="corel5k",
            image_size=image_size,
            crop_scale=(0.35, 1.0),
            flip=True,
            mean=preprocessing.mean,
            std=preprocessing.std,
        ),
        model=ModelConfig(backbone=model, kwargs=shallow),
        augmentation=AugmentationConfig(mixup=0.2),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, warmup_epochs=2.0, weight_decay=5e-2, ema_decay=0.99
        ),
        evaluation=EvaluationConfig(batch_size=100),
    )
