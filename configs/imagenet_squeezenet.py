"""SqueezeNet on ImageNet (Iandola et al. 2016, arXiv:1602.07360).

    python -m jaxtag.prepare --dataset=imagenet2012 --source=ILSVRC2012
    python -m jaxtag.train --config=imagenet_squeezenet --workdir=runs/imagenet_squeezenet

Smoke run: --config.total_steps=5 --config.batch_size=8. Hardware: one accelerator.
Expected: not yet measured (full ImageNet).
"""

from jaxtag.config.schema import Config, OptimizerConfig
from jaxtag.configs import imagenet_resnet50
from jaxtag.tasks.classify.config import ClassifyConfig


def get_config(model: str = "squeezenet1_1") -> Config:
    config = imagenet_resnet50.get_config(model=model)
    config.batch_size, config.task = 512, ClassifyConfig()
    config.optimizer = OptimizerConfig(
        name="sgd",
        kwargs={"momentum": 0.9},
        learning_rate=0.04,
        schedule="linear",
        weight_decay=2e-4,
    )
    return config
