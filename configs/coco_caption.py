"""A ViT encoder-decoder captioner on COCO captions (Lin et al. 2014; Chen et al. 2015).

    python -m jaxtag.prepare --dataset=coco_captions --source=COCO
    python -m jaxtag.train --config=coco_caption --workdir=runs/coco
    python -m jaxtag.train --config=coco_caption:variant=B/16,image_size=384 --workdir=runs/coco_b

Smoke run: --config.total_steps=20 --config.batch_size=8. Hardware: one accelerator of 16 GB for
S/16; --config.model.remat=full for L/16. Expected: not yet
measured (full COCO).
"""

from jaxtag.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from jaxtag.errors import UsageError, did_you_mean
from jaxtag.tasks.caption.config import CaptionConfig

_SIZES = {  # encoder; width, depth and heads of the decoder
    "Ti": ("tiny", 192, 4, 3),
    "S": ("small", 384, 6, 6),
    "B": ("base", 768, 6, 12),
    "L": ("large", 1024, 8, 16),
}


def get_config(variant: str = "S/16", image_size: int = 224) -> Config:
    size, _, patch = variant.partition("/")
    if size not in _SIZES or not patch.isdecimal():
        hint = did_you_mean(variant, (f"{name}/16" for name in _SIZES))
        raise UsageError(f"variant={variant!r}: must be SIZE/PATCH{hint}")
    encoder, width, depth, heads = _SIZES[size]
    return Config(
        task=CaptionConfig(
            vocab_size=8192, max_length=32, captions_per_image=2, label_smoothing=0.1
        ),
        batch_size=256,
        total_epochs=60.0,
        log_every=50,
        evaluate_every=2500,
        checkpoint_every=2500,
        data=DataConfig(
            dataset="coco_captions",
            image_size=image_size,
            crop_scale=(0.35, 1.0),
            flip=True,
            num_workers=8,
        ),
        model=ModelConfig(
            backbone=f"vit_{encoder}_patch{patch}",
            kwargs={"drop_path": 0.1},
            decoder_width=width,
            decoder_depth=depth,
            decoder_heads=heads,
            dropout=0.1,
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3 if size in ("Ti", "S") else 5e-4,
            warmup_epochs=2.0,
            weight_decay=0.1,
            ema_decay=0.9998,
        ),
        evaluation=EvaluationConfig(batch_size=128, max_examples=2000),
    )
