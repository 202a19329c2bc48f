"""What every form of annotations is read into: rows, one an entry, in tables, one a file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jaxtag.data.text import clean_name, clean_path
from jaxtag.datasets.odd_entries import Problems

CAPTIONS, TAGS = "captions", "tags"


@dataclass(slots=True)
class Row:
    """One entry: the annotations of an image in a line or an object.

    Attributes:
        location: File and line, for messages.
        file: The image, as written.
        kind: What `texts` are, CAPTIONS or TAGS.
        texts: The captions or tags.
        split: As written, or None.
        group: Of images that must not be parted; "" where there is none.
        unknown: Tags that were not annotated for this image.
        image_id: COCO's, or None.
        is_label: Whether `texts` come from a column of classes, of which an image has one.
        path: Where the image lies in the source; None where that is not known, or it is missing.
    """

    location: str
    file: str
    kind: str
    texts: list[str]
    split: str | None = None
    group: str = ""
    unknown: Sequence[str] = ()
    image_id: str | None = None
    is_label: bool = False
    path: str | None = None


@dataclass
class Table:
    """What a file of annotations, or a folder of small ones, holds.

    Attributes:
        rows: Of each entry that can be used.
        names: All tags in the order in which the file numbers them; empty where it does not.
        problems: (file or line, reason) of entries that cannot be used.
        warnings: How doubtful columns were read.
        form: Name of the form that it is in, as `--as` takes it.
        path: Of the file in the source.
        folder: Of the images, with a slash; "" where they may lie anywhere.
        doubtful: (location, reason) of rows whose image cannot be told; they are not in `rows`.
        is_located: Whether the images of `rows` were looked for.
        split: That all its images are in by the name of the file or of its folder.
    """

    rows: list[Row] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    problems: Problems = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    form: str = "table"
    path: str = ""
    folder: str = ""
    split: str | None = None
    doubtful: Problems = field(default_factory=list)
    is_located: bool = False


def clean_tags(texts: Iterable[str]) -> list[str]:
    """Names of tags as they are compared, without the empty ones."""
    return [tag for text in texts if (tag := clean_name(text))]


def clean_file(name: str) -> str:
    """An image's name with forward slashes and without a leading ./"""
    return clean_path(name.strip().replace("\\", "/").removeprefix("./"))
