"""EfficientNet B0 to B7 on ImageNet (Tan and Le 2019, arXiv:1905.11946).

    python -m jaxtag.prepare --dataset=imagenet2012 --source=ILSVRC2012
    python -m jaxtag.train --config=imagenet_efficientnet --workdir=runs/imagenet_efficientnet
    python -m jaxtag.train --config=imagenet_efficientnet:model=efficientnet_b4 --workdir=runs/b4

Smoke run: --config.total_steps=5 --config.batch_size=8. Hardware: one accelerator for
B0, a slice of many for B7 at 600 pixels.
Expected: not yet measured (full ImageNet).
"""

from jaxtag.config.schema import AugmentationConfig, Config, OptimizerConfig
from jaxtag.configs import imagenet_resnet50


def get_config(model: str = "efficientnet_b0") -> Config:
    config = imagenet_resnet50.get_config(model=model)
    config.batch_size, config.total_epochs = 2048, 350.0
    config.augmentation = AugmentationConfig(randaugment=(2, 9), random_erasing=0.25)
    config.optimizer = OptimizerConfig(
        name="lamb", learning_rate=5e-3, warmup_epochs=5.0, weight_decay=0.02, ema_decay=0.9999
    )
    return config
