"""Published sizes of the built-in data sets, so that a program can be compiled without them."""

from jaxtag.datasets.base import ImageDatasetBuilder
from jaxtag.datasets.builders import builder_class, dataset_name
from jaxtag.errors import UsageError


def num_labels(dataset: str) -> int:
    """Number of classes, or of tags, of a data set.

    Args:
        dataset: As in `config.data.dataset`, such as `voc2007` or `coco_tags:1.0.0`.

    Raises:
        UsageError: Nobody knows how many there are.
    """
    labels = _builder(dataset).NUM_LABELS
    if labels is None:
        raise UsageError(
            f"config.data.dataset = {dataset!r} is not built in: say how many classes or tags it "
            "has (--num_classes=N)"
        )
    return labels


def num_examples(dataset: str, split: str) -> int | None:
    """Number of images of a split; None where it is not published."""
    return _builder(dataset).COUNTS.get(split)


def _builder(dataset: str) -> type[ImageDatasetBuilder]:
    name, _ = dataset_name(dataset)
    return builder_class(name.partition("/")[0])
