"""The builders of data sets by name: those that are built in, registered ones, a user's own."""

import re
from typing import TypeVar

from jaxtag import registry
from jaxtag.datasets.base import ImageDatasetBuilder
from jaxtag.datasets.cifar import Cifar10, Cifar100
from jaxtag.datasets.coco import (
    CocoCaptions,
    CocoCaptions2014,
    CocoCaptions2017,
    CocoCaptionsKarpathy,
    CocoTags,
    CocoTags2014,
    CocoTags2017,
)
from jaxtag.datasets.corel5k import Corel5k
from jaxtag.datasets.custom import custom_dataset
from jaxtag.datasets.flickr8k import Flickr8kCaptions
from jaxtag.datasets.imagenet import Imagenet2012
from jaxtag.datasets.mirflickr25k import Mirflickr25k
from jaxtag.datasets.mnist import Mnist
from jaxtag.datasets.nus_wide import NusWide
from jaxtag.datasets.shapes import ShapesCaptions
from jaxtag.datasets.voc2007 import Voc2007
from jaxtag.errors import UsageError

_Builder = TypeVar("_Builder", bound=type[ImageDatasetBuilder])
_BUILT_IN: tuple[type[ImageDatasetBuilder], ...] = (
    ShapesCaptions,
    CocoCaptions,
    CocoCaptions2014,
    CocoCaptions2017,
    CocoCaptionsKarpathy,
    Flickr8kCaptions,
    Mnist,
    Cifar10,
    Cifar100,
    Imagenet2012,
    Voc2007,
    CocoTags,
    CocoTags2014,
    CocoTags2017,
    NusWide,
    Mirflickr25k,
    Corel5k,
)
_KIND = "dataset"
_FIELD = "config.data.dataset"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
# The built-in data sets; a name that is neither theirs nor registered is one for own data.
NAMES = tuple(builder.name for builder in _BUILT_IN)


def register_dataset(builder: _Builder) -> _Builder:
    """A class decorator that registers a builder under its `name`."""
    return registry.register(_KIND, builder.name)(builder)


for _builder in _BUILT_IN:
    register_dataset(_builder)


def builder_class(dataset: str) -> type[ImageDatasetBuilder]:
    """The builder of a data set.

    Args:
        dataset: A built-in or registered name, `package.module:Name` of a subclass of
            `ImageDatasetBuilder`, or any other name, which is one for own data.

    Raises:
        UsageError: The name cannot be one of a data set, or there is no such class.
    """
    if _is_import_path(dataset):
        builder = registry.import_object(dataset, _FIELD)
        if not (isinstance(builder, type) and issubclass(builder, ImageDatasetBuilder)):
            raise UsageError(
                f"{_FIELD} = {dataset!r}: not a subclass of jaxtag.datasets.ImageDatasetBuilder"
            )
        return builder
    if not _NAME.fullmatch(dataset):
        raise UsageError(
            f"--dataset={dataset}: a name has small letters, digits and underscores only, and "
            "starts with a letter"
        )
    if dataset in registry.names(_KIND):
        return registry.resolve(_KIND, dataset, _FIELD)
    return custom_dataset(dataset)


def dataset_name(dataset: str) -> tuple[str, str]:
    """(name of its folder, version) of `name`, `name:1.0.0` or `package.module:Name`.

    Without a version, that is "".
    """
    if _is_import_path(dataset):
        return builder_class(dataset).name, ""
    name, _, version = dataset.partition(":")
    return name, version


def _is_import_path(dataset: str) -> bool:
    suffix = dataset.partition(":")[2]
    return bool(suffix) and not _VERSION.fullmatch(suffix)
