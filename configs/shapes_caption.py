"""Captions of drawn scenes: the embedded data set, for a first run, a test, a sanity check.

    python -m jaxtag.train --config=shapes_caption --workdir=runs/shapes

Smoke run: --config.total_steps=20. Hardware: 2 CPU cores, a few minutes; needs no download.
Expected: 0.96 of the captions of held-out scenes exact, CIDEr 3.9 (benchmarks/README.md).
"""

from jaxtag.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from jaxtag.tasks.caption.config import CaptionConfig


def get_config(image_size: int = 64) -> Config:
    return Config(
        task=CaptionConfig(vocab_size=512, max_length=32, captions_per_image=2),
        batch_size=32,
        total_steps=900,
        evaluate_every=450,
        checkpoint_every=450,
        data=DataConfig(
            dataset="shapes_captions",
            image_size=image_size,
            crop_scale=(1.0, 1.0),
        ),
        model=ModelConfig(
            backbone="vit_tiny_patch8",
            kwargs={"stem": "conv", "depth": 2, "width": 128, "heads": 4, "mlp_dim": 512},
            decoder_width=128,
            decoder_depth=2,
            decoder_heads=4,
            dropout=0.0,
        ),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=4e-3, warmup_steps=50, weight_decay=0.02
        ),
        evaluation=EvaluationConfig(batch_size=64, max_examples=250),
    )
