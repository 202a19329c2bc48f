"""The captioner of flickr8k_caption_frozen, trained on for CIDEr-D (Rennie et al. 2017).

    python -m jaxtag.train --config=flickr8k_caption_frozen --workdir=runs/flickr8k_frozen
    python -m jaxtag.train --config=flickr8k_caption_self_critical --workdir=runs/self_critical

It starts from the model and the vocabulary of the first run (of another one with `:start=DIR`) and
reads the same cached features. Smoke run: --config.total_steps=5. Hardware: 2 CPU cores. Expected:
BLEU-4 0.207, CIDEr 0.503 after 16 minutes.
"""

from jaxtag.config.schema import Config, OptimizerConfig
from jaxtag.configs import flickr8k_caption_frozen
from jaxtag.tasks.caption.config import CaptionConfig


def get_config(start: str = "runs/flickr8k_frozen", total_epochs: float = 4.0) -> Config:
    config = flickr8k_caption_frozen.get_config(total_epochs=total_epochs)
    config.initial_checkpoint = start
    assert isinstance(config.task, CaptionConfig)
    config.task.self_critical_samples = 5
    config.evaluate_every = config.checkpoint_every = 94
    config.model.dropout = 0.0
    config.optimizer = OptimizerConfig(
        learning_rate=5e-5, warmup_steps=20, min_lr_ratio=0.1, ema_decay=0.98
    )
    return config
