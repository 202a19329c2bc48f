"""Published results of the architectures' papers, to stand next to ours.

They are trained as the papers train: often longer, on larger images, or on more data than a cell.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ReferenceResult:
    """A published figure: what was measured, and where it stands."""

    metric: str
    value: float
    source: str


# (architecture, data set) -> result
REFERENCE_RESULTS = {
    ("capsnet", "mnist"): ReferenceResult("top1", 0.9975, "Sabour et al. 2017, table 1"),
    ("alexnet", "imagenet2012"): ReferenceResult("top1", 0.593, "Krizhevsky et al. 2012, table 2"),
    ("squeezenet", "imagenet2012"): ReferenceResult("top1", 0.575, "Iandola et al. 2016, table 2"),
    ("mobilenet", "imagenet2012"): ReferenceResult("top1", 0.720, "Sandler et al. 2018, table 4"),
    ("efficientnet", "imagenet2012"): ReferenceResult(
        "top1", 0.771, "Tan and Le 2019, table 2, B0"
    ),
    ("knn_cnn", "corel5k"): ReferenceResult(
        "f1@5", 0.45, "Verma and Jawahar 2012, table 2: precision 0.44 and recall 0.46, test part"
    ),
}
