"""Any backbone on MNIST (LeCun et al. 1998), enlarged to 32 pixels.

    python -m jaxtag.prepare --dataset=mnist --source=MNIST
    python -m jaxtag.train --config=mnist_resnet18 --workdir=runs/mnist_resnet18
    python -m jaxtag.train --config=mnist_resnet18:model=mobilenet_v2 --workdir=runs/mnist_mobilenet

Smoke run: --config.total_steps=5. Hardware: 2 CPU cores take long, an accelerator minutes.
Expected: not yet measured.
"""

from jaxtag.config.schema import Config
from jaxtag.configs import cifar10_resnet18


def get_config(model: str = "resnet18", image_size: int = 32) -> Config:
    config = cifar10_resnet18.get_config(model=model, image_size=image_size)
    config.data.dataset, config.total_epochs = "mnist", 5.0
    config.data.flip = False  # digits have a left and a right
    config.augmentation.crop_padding_mode = "constant"
    return config
