"""A captioner of one's own images, with a table of captions, from published ImageNet weights.

    python -m jaxtag.prepare --dataset=my_captions --source=FOLDER
    python -m jaxtag.train --config=my_captions --workdir=runs/my_captions

The encoder, EfficientNet-Lite0 with the weights of the extra `weights`, is fine-tuned at a tenth of
the decoder's learning rate. Another data set: --config.data.dataset=NAME. Smoke run:
--config.total_steps=5. Hardware: 2 CPU cores. Expected: not yet measured.
"""

from jaxtag import models
from jaxtag.config.schema import Config, ModelConfig, OptimizerConfig
from jaxtag.configs import flickr8k_caption


def get_config(model: str = "efficientnet_lite0", image_size: int = 160) -> Config:
    preprocessing = models.get_preprocessing(model)
    config = flickr8k_caption.get_config(image_size)
    config.total_epochs = 10.0
    config.data.dataset = "my_captions"
    config.data.mean, config.data.std = preprocessing.mean, preprocessing.std
    config.model = ModelConfig(
        backbone=model,
        pretrained=model,
        decoder_width=256,
        decoder_depth=3,
        decoder_heads=4,
        dropout=0.2,
    )
    config.optimizer = OptimizerConfig(
        learning_rate=1e-3,
        warmup_epochs=1.0,
        weight_decay=5e-2,
        lr_mults=((r"^encoder/", 0.1), (r".*", 1.0)),
        ema_decay=0.999,
    )
    return config
