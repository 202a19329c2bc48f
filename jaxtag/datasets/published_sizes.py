"""Published sizes of the built-in data sets, so that a program can be compiled without them."""

from jaxtag import datasets
from jaxtag.errors import UsageError

# Classes of a data set with a single label per image, tags of one with several.
_NUM_LABELS = {
    "mnist": 10,
    "cifar10": 10,
    "cifar100": 100,
    "imagenet2012": 1000,
    "voc2007": 20,
    "coco_tags": 80,
    "coco_tags_2014": 80,
    "coco_tags_2017": 80,
    "nus_wide": 81,
    "mirflickr25k": 38,
    "corel5k": 260,
}


def num_labels(dataset: str) -> int:
    """Number of classes, or of tags, of a data set.

    Args:
        dataset: As in `config.data.dataset`, such as `voc2007` or `coco_tags:1.0.0`.

    Raises:
        UsageError: The data set is not built in.
    """
    name = _base_name(dataset)
    if name not in _NUM_LABELS:
        raise UsageError(
            f"config.data.dataset = {dataset!r} is not built in: say how many classes or tags it "
            "has (--num_classes=N)"
        )
    return _NUM_LABELS[name]


def num_examples(dataset: str, split: str) -> int | None:
    """Number of images of a split; None where it is not published."""
    return datasets.builder_class(_base_name(dataset)).COUNTS.get(split)


def _base_name(dataset: str) -> str:
    """The name without version and variant."""
    return dataset.partition(":")[0].partition("/")[0]
