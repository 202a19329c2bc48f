"""Multi-label tagging of Corel-5K (Duygulu et al. 2002): a head on frozen ImageNet features.

    python -m jaxtag.prepare --dataset=corel5k --source=COREL5K
    python -m jaxtag.train --config=corel5k_tag_frozen --workdir=runs/corel5k_linear
    python -m jaxtag.train --config=corel5k_tag_frozen:head=query --workdir=runs/corel5k_query

EfficientNet-Lite0's features (the extra `weights`) are computed once and cached. Smoke run:
--config.total_steps=5. Hardware: 2 CPU cores. Expected: F1@5 0.399, mAP 0.477 after three minutes
(`head=query,image_size=224`, which overfits: 0.322, 0.359 after 11).
"""

from jaxtag import models
from jaxtag.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from jaxtag.tasks.tag.config import TagConfig


def get_config(
    head: str = "linear",
    model: str = "efficientnet_lite0",
    image_size: int = 320,
    total_epochs: float = 30.0,
) -> Config:
    preprocessing = models.get_preprocessing(model)
    return Config(
        task=TagConfig(loss="binary_cross_entropy", head=head, max_pos_weight=10.0),
        batch_size=64,
        total_epochs=total_epochs,
        evaluate_every=315,
        checkpoint_every=315,
        data=DataConfig(
            dataset="corel5k",
            image_size=image_size,
            crop_scale=(1.0, 1.0),
            mean=preprocessing.mean,
            std=preprocessing.std,
        ),
        model=ModelConfig(
            backbone=model,
            pretrained=model,
            freeze=True,
            cached_views=1,
            decoder_width=256,
            decoder_heads=4,
            dropout=0.2,
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, warmup_epochs=1.0, weight_decay=0.2, ema_decay=0.99
        ),
        evaluation=EvaluationConfig(batch_size=100),
    )
