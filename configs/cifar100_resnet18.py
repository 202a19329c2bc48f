"""Any backbone on CIFAR-100 (Krizhevsky 2009).

    python -m jaxtag.prepare --dataset=cifar100 --source=CIFAR100
    python -m jaxtag.train --config=cifar100_resnet18 --workdir=runs/cifar100_resnet18
    python -m jaxtag.train --config=cifar100_resnet18:model=mobilenet_v2 --workdir=runs/mobilenet

Smoke run: --config.total_steps=5. Hardware: 2 CPU cores take long, an accelerator minutes.
Expected: not yet measured.
"""

from jaxtag.config.schema import Config
from jaxtag.configs import cifar10_resnet18


def get_config(model: str = "resnet18", image_size: int = 32) -> Config:
    config = cifar10_resnet18.get_config(model=model, image_size=image_size)
    config.data.dataset, config.total_epochs = "cifar100", 100.0
    return config
