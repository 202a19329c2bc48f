"""What the papers of the architectures report, to stand beside our figures.

Trained as the papers train: often longer, on larger pictures, or on more data than a cell.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """A figure of a paper: what was measured, and where it stands."""

    metric: str
    value: float
    source: str


PUBLISHED = {
    ("capsnet", "mnist"): Published("top1", 0.9975, "Sabour et al. 2017, table 1"),
    ("alexnet", "imagenet2012"): Published("top1", 0.593, "Krizhevsky et al. 2012, table 2"),
    ("squeezenet", "imagenet2012"): Published("top1", 0.575, "Iandola et al. 2016, table 2"),
    ("mobilenet", "imagenet2012"): Published("top1", 0.720, "Sandler et al. 2018, table 4"),
    ("efficientnet", "imagenet2012"): Published("top1", 0.771, "Tan and Le 2019, table 2, B0"),
    ("knn_cnn", "corel5k"): Published(
        "f1@5", 0.45, "Verma and Jawahar 2012, table 2: precision 0.44 and recall 0.46, test part"
    ),
}
