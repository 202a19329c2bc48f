"""A cell of the survey's table: an architecture on a data set, as jaxtag.compare trains it.

    python -m jaxtag.train --config=compare --workdir=runs/cell
    python -m jaxtag.train --config=compare:architecture=vit,dataset=cifar10 --workdir=runs/vit

Architectures and data sets are named in jaxtag/comparison/cells.py. Smoke run:
--config.total_steps=5. Hardware: 2 CPU cores, minutes. Expected: not yet measured.
"""

from jaxtag.comparison import grid
from jaxtag.config.schema import Config


def get_config(
    architecture: str = "resnet", dataset: str = "mnist", pictures: int = 60_000, seed: int = 0
) -> Config:
    return grid.configuration(architecture, dataset, pictures, seed, None)
