"""Data sets of pictures with captions, labels or tags, official or a user's own, as ArrayRecord."""

import os
import re
from pathlib import Path

from jaxtag.datasets.base import ImageDatasetBuilder
from jaxtag.datasets.cifar import Cifar10, Cifar100
from jaxtag.datasets.coco import (
    CocoCaptions,
    CocoCaptions2014,
    CocoCaptions2017,
    CocoCaptionsKarpathy,
)
from jaxtag.datasets.coco_tags import CocoTags, CocoTags2014, CocoTags2017
from jaxtag.datasets.corel5k import Corel5k
from jaxtag.datasets.custom import custom_dataset
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.flickr8k import Flickr8kCaptions
from jaxtag.datasets.imagenet import Imagenet2012
from jaxtag.datasets.mirflickr25k import Mirflickr25k
from jaxtag.datasets.mnist import Mnist
from jaxtag.datasets.nus_wide import NusWide
from jaxtag.datasets.shapes import ShapesCaptions
from jaxtag.datasets.summary import Summary
from jaxtag.datasets.voc2007 import Voc2007
from jaxtag.datasets.write import write_dataset
from jaxtag.errors import UsageError, UserError

__all__ = ["NAMES", "Summary", "builder_class", "download_instructions", "prepare"]

_BUILDERS: dict[str, type[ImageDatasetBuilder]] = {
    builder.name: builder
    for builder in (
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
}
# The data sets that are built in; any other name is a user's own.
NAMES = tuple(_BUILDERS)


def builder_class(dataset: str) -> type[ImageDatasetBuilder]:
    """The builder of a data set; of any name that is not built in, the one for own data.

    Raises:
        UsageError: the name cannot be one of a data set.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", dataset):
        raise UsageError(
            f"--dataset={dataset}: a name has small letters, digits and underscores only, and "
            "starts with a letter"
        )
    return _BUILDERS.get(dataset) or custom_dataset(dataset)


def prepare(
    dataset: str,
    source: str | os.PathLike | None,
    data_dir: str | os.PathLike,
    *,
    overwrite: bool = False,
    keep_exif: bool = False,
    workers: int | None = None,
    wait_seconds: float = 0,
) -> Summary:
    """Writes a data set to `data_dir/<dataset>/<version>/`, unless it is there already.

    Every picture is decoded once on the way; a bad one is left out and named, with the reason, in
    `ledger.jsonl` beside the records. The folder appears when all is written, or not at all.

    Args:
        dataset: one of NAMES, or any other name for own data.
        source: the folder (or archive, or own caption file) to read; None for `shapes_captions`.
        data_dir: tfds's root folder.
        overwrite: replace a data set that is there.
        keep_exif: store files as they are, with all their metadata.
        workers: threads that read and decode; all cores by default.
        wait_seconds: how long to wait for another process that prepares the same data set.

    Raises:
        UsageError: a name that cannot be one, a source missing or superfluous.
        UserError: the source is not what it should be, the disk is full or read-only, or another
            process prepares the same data set.
    """
    builder = builder_class(dataset)
    if builder.NEEDS_SOURCE:
        if source is None:
            raise UsageError(
                f"{dataset} is read from files: say where with --source.\n{download_instructions(dataset)}"
            )
        if not Path(source).expanduser().exists():
            raise UserError(f"--source={source} does not exist.\n{download_instructions(dataset)}")
    elif source is not None:
        raise UsageError(f"{dataset} is made from a seed and takes no --source")
    return write_dataset(
        builder,
        source,
        Path(data_dir).expanduser(),
        overwrite=overwrite,
        keep_exif=keep_exif,
        workers=workers,
        wait_seconds=wait_seconds,
    )
