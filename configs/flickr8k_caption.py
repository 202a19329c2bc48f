"""A captioner on Flickr8k (Hodosh et al. 2013), from scratch, sized for an hour on 2 CPU cores.

    python -m jaxtag.prepare --dataset=flickr8k_captions --source=FLICKR8K
    python -m jaxtag.train --config=flickr8k_caption --workdir=runs/flickr8k

Smoke run: --config.total_steps=20. Hardware: 2 CPU cores, one hour; a GPU takes minutes.
Expected: CIDEr 0.29 and BLEU-4 0.135 on the dev part (benchmarks/README.md).
"""

from jaxtag.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from jaxtag.tasks.caption.config import CaptionConfig


def get_config(image_size: int = 112) -> Config:
    return Config(
        task=CaptionConfig(
            vocab_size=4096, max_length=24, captions_per_image=2, label_smoothing=0.1
        ),
        batch_size=64,
        total_epochs=20.0,
        evaluate_every=625,
        checkpoint_every=625,
        data=DataConfig(
            dataset="flickr8k_captions",
            image_size=image_size,
            crop_scale=(0.4, 1.0),
            flip=True,
        ),
        model=ModelConfig(
            backbone="vit_small_patch16",
            kwargs={
                "stem": "conv",
                "depth": 4,
                "width": 256,
                "heads": 4,
                "mlp_dim": 1024,
                "drop_path": 0.1,
            },
            decoder_width=256,
            decoder_depth=3,
            decoder_heads=4,
            dropout=0.2,
        ),
        optimizer=OptimizerConfig(
            name="muon",
            learning_rate=2e-3,
            warmup_epochs=1.0,
            weight_decay=0.1,
            ema_decay=0.999,
        ),
        evaluation=EvaluationConfig(batch_size=50, max_examples=200),
    )
