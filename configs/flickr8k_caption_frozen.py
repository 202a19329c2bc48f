"""A captioner on Flickr8k (Hodosh et al. 2013) whose encoder is frozen: published ImageNet weights.

    python -m jaxtag.prepare --dataset=flickr8k_captions --source=FLICKR8K
    python -m jaxtag.train --config=flickr8k_caption_frozen --workdir=runs/flickr8k_frozen

With `:tags_from=efficientnet_lite0` each caption is written after three tags of that classifier.
EfficientNet-Lite0's features (the extra `weights`) are computed once and cached, 250 KB an image
and view; only the decoder is trained. Smoke run: --config.total_steps=20. Hardware: 2 CPU cores.
Expected: BLEU-4 0.187, CIDEr 0.458 after 23 minutes.
"""

from jaxtag import models
from jaxtag.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from jaxtag.tasks.caption.config import CaptionConfig, DecodingConfig


def get_config(
    model: str = "efficientnet_lite0",
    image_size: int = 224,
    cached_views: int = 1,
    total_epochs: float = 20.0,
    tags_from: str = "",
) -> Config:
    preprocessing = models.get_preprocessing(model)
    return Config(
        task=CaptionConfig(
            vocab_size=3000,
            max_length=40 if tags_from else 20,
            tags_from=tags_from or None,
            captions_per_image=2,
            label_smoothing=0.1,
            decoding=DecodingConfig(method="beam", beam_size=3),
        ),
        batch_size=64,
        total_epochs=total_epochs,
        evaluate_every=470,
        checkpoint_every=470,
        data=DataConfig(
            dataset="flickr8k_captions",
            image_size=image_size,
            crop_scale=(1.0, 1.0) if cached_views == 1 else (0.5, 1.0),
            flip=cached_views > 1,
            mean=preprocessing.mean,
            std=preprocessing.std,
        ),
        model=ModelConfig(
            backbone=model,
            pretrained=model,
            freeze=True,
            cached_views=cached_views,
            decoder_width=256,
            decoder_depth=2,
            decoder_heads=4,
            dropout=0.3,
        ),
        optimizer=OptimizerConfig(
            name="muon",
            learning_rate=2e-3,
            warmup_epochs=1.0,
            weight_decay=0.1,
            ema_decay=0.998,
        ),
        evaluation=EvaluationConfig(batch_size=50, max_examples=200),
    )
