"""MobileNet on ImageNet: V1, V2 or V3 (Howard et al. 2017 and 2019, Sandler et al. 2018).

    python -m jaxtag.prepare --dataset=imagenet2012 --source=ILSVRC2012
    python -m jaxtag.train --config=imagenet_mobilenet --workdir=runs/imagenet_mobilenet
    python -m jaxtag.train --config=imagenet_mobilenet:model=mobilenet_v3_large --workdir=runs/v3

Smoke run: --config.total_steps=5 --config.batch_size=8. Hardware: one accelerator.
Expected: not yet measured (full ImageNet).
"""

from jaxtag.config.schema import Config
from jaxtag.configs import imagenet_resnet50


def get_config(model: str = "mobilenet_v2") -> Config:
    config = imagenet_resnet50.get_config(model=model)
    config.total_epochs = 150.0
    config.optimizer.weight_decay, config.optimizer.ema_decay = 4e-5, 0.9999
    return config
