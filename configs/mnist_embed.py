"""Deep metric learning on MNIST: the network and the losses of cifar10_embed.

    python -m jaxtag.prepare --dataset=mnist --source=MNIST
    python -m jaxtag.train --config=mnist_embed --workdir=runs/mnist_embed

Smoke run: --config.total_steps=5. Hardware: 2 CPU cores, minutes. Expected: recall@1 0.989 and
map@r 0.945 after 40 steps (raw pixels: 0.956 and 0.310); the whole run is not yet measured.
"""

from jaxtag.config import flags
from jaxtag.config.schema import Config


def get_config(criterion: str = "multi_similarity", total_epochs: float = 2.0) -> Config:
    arguments = f"criterion={criterion},total_epochs={total_epochs}"
    config = flags.load(f"cifar10_embed:{arguments}")
    config.data.dataset, config.data.image_size = "mnist", 28
    config.data.flip = False  # digits have a left and a right
    config.model.arguments = (("widths", (32, 64, 64)),)
    config.augmentation.crop_border = "constant"
    return config
