"""Images and texts of COCO captions (Lin et al. 2014; Chen et al. 2015) in one space, by SigLIP.

    python -m jaxtag.prepare --dataset=coco_captions --source=COCO
    python -m jaxtag.train --config=coco_match --workdir=runs/coco_match
    python -m jaxtag.train --config=coco_match:variant=B/16 --workdir=runs/coco_match_b \\
        --config.batch_size=32768 --config.task.loss=clip
    python -m jaxtag.train --config=coco_match:pretrained=hf:openai/clip-vit-base-patch32 \\
        --workdir=runs/coco_clip

`pretrained` names a whole CLIP or SigLIP to fine-tune, in place of a variant: its files set the
sizes of both encoders, the loss, the image size and the normalization.

Smoke run: --config.total_steps=20 --config.batch_size=8. Hardware: one accelerator of 16 GB for
S/16; a batch of 32,768 fits on a TPU v5e of 16x16 (benchmarks/ahead.md). Expected: not yet measured
(full COCO).
"""

import dataclasses

from jaxtag.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from jaxtag.errors import UsageError, did_you_mean
from jaxtag.tasks.match.config import MatchConfig

_SIZES = {  # encoder; width, depth and heads of the text encoder
    "Ti": ("tiny", 192, 12, 3),
    "S": ("small", 384, 12, 6),
    "B": ("base", 512, 12, 8),
    "L": ("large", 768, 12, 12),
}


def get_config(variant: str = "S/16", image_size: int = 224, pretrained: str = "") -> Config:
    config = _make_config(variant, image_size)
    return _fine_tuned(config, pretrained) if pretrained else config


def _fine_tuned(config: Config, pretrained: str) -> Config:
    """Little is to be learned: a small learning rate, and no dropout."""
    return dataclasses.replace(
        config,
        task=MatchConfig(pretrained=pretrained),
        batch_size=256,
        total_epochs=5.0,
        model=ModelConfig(dropout=0.0),
        optimizer=OptimizerConfig(
            learning_rate=1e-5, kwargs={"b2": 0.98}, warmup_epochs=0.5, weight_decay=0.1
        ),
    )


def _make_config(variant: str, image_size: int) -> Config:
    size, _, patch = variant.partition("/")
    if size not in _SIZES or not patch.isdecimal():
        hint = did_you_mean(variant, (f"{name}/16" for name in _SIZES))
        raise UsageError(f"variant={variant!r}: must be SIZE/PATCH{hint}")
    encoder, width, depth, heads = _SIZES[size]
    return Config(
        task=MatchConfig(embedding_dim=width, text_width=width, text_depth=depth, text_heads=heads),
        batch_size=512,
        total_epochs=60.0,
        log_every=50,
        evaluate_every=1000,
        checkpoint_every=1000,
        data=DataConfig(
            dataset="coco_captions",
            image_size=image_size,
            crop_scale=(0.5, 1.0),
            num_workers=8,
        ),
        model=ModelConfig(
            backbone=f"vit_{encoder}_patch{patch}", kwargs={"drop_path": 0.1}, dropout=0.1
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            kwargs={"b2": 0.95},
            warmup_epochs=2.0,
            weight_decay=1e-4,
            ema_decay=0.9998,
        ),
        evaluation=EvaluationConfig(batch_size=128, max_examples=2000),
    )
