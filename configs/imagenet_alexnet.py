"""AlexNet on ImageNet (Krizhevsky et al. 2012; the single tower of torchvision).

    python -m jaxtag.prepare --dataset=imagenet2012 --source=ILSVRC2012
    python -m jaxtag.train --config=imagenet_alexnet --workdir=runs/imagenet_alexnet
    python -m jaxtag.train --config=imagenet_alexnet:model=alexnet_two_tower --workdir=runs/two

Smoke run: --config.total_steps=5 --config.batch_size=8. Hardware: one accelerator.
Expected: not yet measured (full ImageNet).
"""

from jaxtag.config.schema import Config, OptimizerConfig
from jaxtag.configs import imagenet_resnet50
from jaxtag.tasks.classify.config import ClassifyConfig


def get_config(model: str = "alexnet") -> Config:
    config = imagenet_resnet50.get_config(model=model)
    config.batch_size, config.task = 256, ClassifyConfig()
    config.optimizer = OptimizerConfig(
        name="sgd", kwargs={"momentum": 0.9}, learning_rate=0.01, weight_decay=5e-4
    )
    return config
