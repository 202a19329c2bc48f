"""A cell of the survey's table: an architecture on a data set, as jaxtag.compare trains it.

    python -m jaxtag.train --config=compare --workdir=runs/cell
    python -m jaxtag.train --config=compare:architecture=vit,dataset=cifar10 --workdir=runs/vit

Architectures and data sets are named in jaxtag/comparison/grid.py. Smoke run:
--config.total_steps=5. Hardware: 2 CPU cores, minutes. Expected: not yet measured.
"""

from jaxtag.comparison import grid
from jaxtag.config.schema import Config


def get_config(
    architecture: str = "resnet",
    dataset: str = "mnist",
    num_images: int = 60_000,
    seed: int = 0,
    weights: str = "",
) -> Config:
    return grid.cell_config(architecture, dataset, num_images, seed, None, weights or None)
