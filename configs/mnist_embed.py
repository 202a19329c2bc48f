"""Deep metric learning on MNIST: the network and the losses of cifar10_embed.

    python -m jaxtag.prepare --dataset=mnist --source=MNIST
    python -m jaxtag.train --config=mnist_embed --workdir=runs/mnist_embed

Smoke run: --config.total_steps=5. Hardware: 2 CPU cores, minutes. Expected: recall@1 0.989 and
map@r 0.945 after 40 steps (raw pixels: 0.956 and 0.310); the whole run is not yet measured.
"""

from jaxtag.config.schema import Config
from jaxtag.configs import cifar10_embed


def get_config(loss: str = "multi_similarity", total_epochs: float = 2.0) -> Config:
    config = cifar10_embed.get_config(loss, total_epochs)
    config.data.dataset, config.data.image_size = "mnist", 28
    config.data.flip = False  # digits have a left and a right
    config.model.kwargs = {"widths": (32, 64, 64)}
    config.augmentation.crop_padding_mode = "constant"
    return config
