"""How large the known data sets are, so that a program can be compiled without them."""

from jaxtag import datasets
from jaxtag.config.schema import Config
from jaxtag.errors import UsageError

# Classes, or tags, of the data sets that are built in, as published.
_WORDS = {
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
_STEPS = 1000  # of an epoch where nobody knows its length


def words(config: Config) -> int:
    """How many tokens, classes or tags a run of `config` has.

    A tokenizer is taken to have as many as it may. Raises UsageError for a data set that is not
    built in.
    """
    if config.task == "caption":
        return config.task.vocab_size
    dataset = _name(config)
    if dataset not in _WORDS:
        raise UsageError(
            f"config.data.dataset = {dataset!r} is not built in: say how many classes or tags it "
            "has (--num_classes=N)"
        )
    return _WORDS[dataset]


def examples(config: Config) -> int:
    """Pictures of the training split; only the learning rate's schedule depends on it."""
    counts = datasets.builder_class(_name(config)).COUNTS
    return counts.get(config.data.train_split, _STEPS * config.batch_size)


def _name(config: Config) -> str:
    return config.data.dataset.partition(":")[0].partition("/")[0]
