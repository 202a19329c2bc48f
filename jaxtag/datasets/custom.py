"""A user's own images, in any of the forms in which people and tools keep them."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from jaxtag.data.text import clean_path
from jaxtag.datasets.annotation_tables import read_table
from jaxtag.datasets.archives import is_archive
from jaxtag.datasets.base import ImageDatasetBuilder, Listing
from jaxtag.datasets.forms.detect import list_own_images, list_own_tables
from jaxtag.datasets.forms.registry import FormChoice
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import printable


class CustomDataset(ImageDatasetBuilder):
    """A user's own images with captions, tags or class labels.

    They are in one of the forms of `jaxtag.datasets.forms`, or the source is one file of
    annotations. Splits come from a column `split`, from the names of several files (train.csv,
    val.csv) or of their folders, or are made: a tenth of the images, by a hash of their names, is
    `validation`; images of the same `group`, and of the same bytes, stay together. A column
    `unknown_tags` names tags that an image may have or not; losses and metrics mask them. Where a
    column `label` gives each image one tag, that is its class too.

    Attributes:
        CHOICE: The form that the source is in, if the user says so.
    """

    CHOICE: ClassVar[FormChoice] = FormChoice()

    @classmethod
    @contextmanager
    def open_listing(cls, path: str | os.PathLike[str] | None) -> Iterator[Listing]:
        assert path is not None
        root, table = Path(path).expanduser(), None
        if root.is_file() and not is_archive(root.name):
            root, table = root.parent, clean_path(root.name)
        with SourceFiles(root, cls.accepts_archive, has_shards=True) as source:
            if table:
                tables = [read_table(source, table, cls.CHOICE.kind)]
                listing = list_own_tables(source, tables)
            else:
                listing = cls.list_images(source)
            listing.problems += source.refused
            listing.warnings += source.warnings
            if listing.form and cls.CHOICE.name is None:
                reads = "--as=… reads it otherwise"
                print(printable(f"looks like {listing.form}; {reads}"), file=sys.stderr)
            yield listing

    @classmethod
    def list_images(cls, source: SourceFiles) -> Listing:
        return list_own_images(source, cls.CHOICE)


def custom_dataset(name: str, choice: FormChoice | None = None) -> type[CustomDataset]:
    """The builder of own data under a name, in any form or the one that is chosen."""
    body = {
        "name": name,
        "CHOICE": choice or FormChoice(),
        "__doc__": CustomDataset.__doc__,
        "__module__": __name__,
    }
    return type("CustomDataset", (CustomDataset,), body)
