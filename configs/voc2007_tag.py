"""Multi-label tagging of Pascal VOC 2007 with ML-Decoder and the asymmetric loss.

    python -m jaxtag.prepare --dataset=voc2007 --source=VOC
    python -m jaxtag.train --config=voc2007_tag --workdir=runs/voc2007 \\
        --config.model.pretrained=resnet50.safetensors
    python -m jaxtag.evaluate --workdir=runs/voc2007 --split=test

The weights are ImageNet's, of torchvision or timm (see jaxtag.weights); without them it trains from
nothing. Recipe after Ridnik et al. 2021, arXiv:2111.12933, section 4, and arXiv:2009.14119. Papers
train on both training splits: --config.data.train_split=train+validation.
Smoke run: --config.total_steps=5 --config.batch_size=8. Hardware: one accelerator.
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
from jaxtag.tasks.tag.config import TagConfig


def get_config(model: str = "resnet50", head: str = "query", image_size: int = 448) -> Config:
    preprocessing = models.get_preprocessing(model)
    return Config(
        task=TagConfig(loss="asymmetric", head=head),
        batch_size=64,
        total_epochs=40.0,
        evaluate_every=500,
        checkpoint_every=500,
        data=DataConfig(
            dataset="voc2007",
            image_size=image_size,
            crop_scale=(1.0, 1.0),
            flip=True,
            mean=preprocessing.mean,
            std=preprocessing.std,
            num_workers=8,
        ),
        model=ModelConfig(backbone=model, decoder_width=768, decoder_heads=8),
        augmentation=AugmentationConfig(randaugment=(2, 9), random_erasing=0.5),
        optimizer=OptimizerConfig(
            learning_rate=2e-4,
            schedule="one_cycle",
            warmup_epochs=8.0,
            weight_decay=1e-2,
            ema_decay=0.997,
        ),
        evaluation=EvaluationConfig(batch_size=64),
    )
