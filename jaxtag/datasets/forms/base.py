"""What a form of annotations is: its name, how it is told from others, and its reader."""

import abc
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtag.datasets.annotated_listing import list_tables
from jaxtag.datasets.annotations import CAPTIONS, TAGS, Table
from jaxtag.datasets.base import Listing
from jaxtag.datasets.layout import SPLITS, is_image_name
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.table_columns import TwoKindsError


class Confidence(enum.IntEnum):
    """How sure a form is: likely, or sure by files that are its tool's own."""

    LIKELY = 1
    SURE = 2


@dataclass(frozen=True)
class Evidence:
    """Why a source may be in a form.

    Attributes:
        confidence: How sure that is.
        seen: The files that tell, for people: "data.yaml".
    """

    confidence: Confidence
    seen: str


@dataclass(frozen=True)
class FileForm:
    """A form of which one file holds all annotations of a data set, or of a split.

    Attributes:
        name: As `--as` takes it.
        title: For people, with its article: "a Label Studio export".
    """

    name: str
    title: str


@dataclass(frozen=True)
class JsonForm(FileForm):
    """A form of JSON.

    Attributes:
        matches: Whether the content of a file is in this form.
        read: Takes the content, the file's name in messages, and CAPTIONS or TAGS where the user
            said which of them to read.
    """

    matches: Callable[[Any], bool]
    read: Callable[[Any, str, str | None], Table]


class LayoutForm(abc.ABC):
    """A form that is a folder of files.

    Attributes:
        name: As `--as` takes it.
        title: For people, with its article: "a YOLO data set".
    """

    name: str
    title: str

    @abc.abstractmethod
    def detect(self, source: SourceFiles) -> Evidence | None:
        """Why the source may be in this form; None where it is not."""

    @abc.abstractmethod
    def list_images(self, source: SourceFiles, kind: str | None) -> Listing:
        """Lists the images with their annotations.

        Args:
            kind: CAPTIONS or TAGS, for a form that has both.

        Raises:
            UserError: The source is not in this form; says what is missing.
        """


class AnnotatedForm(LayoutForm):
    """A form of a folder that is read into tables of rows."""

    @abc.abstractmethod
    def read(self, source: SourceFiles, kind: str | None) -> list[Table]:
        """Reads all annotations; arguments and errors as `list_images`."""

    def list_images(self, source: SourceFiles, kind: str | None) -> Listing:
        return list_tables(source, self.read(source, kind), f"own data, {self.title}")


def split_of_path(path: str) -> str | None:
    """The split that a folder above a file is called after; None without one."""
    folders = path.split("/")[:-1]
    return next((SPLITS[name.lower()] for name in folders if name.lower() in SPLITS), None)


def images_by_stem(source: SourceFiles) -> dict[str, str]:
    """Path without the ending -> path, of all images."""
    return {name.rpartition(".")[0]: name for name in source.names() if is_image_name(name)}


def dict_entries(content: Any) -> list[dict[str, Any]]:
    """The objects among the first entries of a list; empty for anything else."""
    entries = content[:100] if isinstance(content, list) else []
    return [entry for entry in entries if isinstance(entry, dict)]


def choose_kind(has_captions: bool, has_tags: bool, kind: str | None, form: str, where: str) -> str:
    """CAPTIONS or TAGS of a form that may have both.

    Raises:
        TwoKindsError: It has both, and `kind` does not say which.
    """
    if kind is None and has_captions and has_tags:
        raise TwoKindsError(
            f"{where}: there are captions and tags: say which with --as={form}:{CAPTIONS} or "
            f"--as={form}:{TAGS}, and make a data set of each"
        )
    return kind or (CAPTIONS if has_captions else TAGS)


def guess_kind(texts: list[str], form: str, where: str) -> str:
    """CAPTIONS or TAGS, by how many words texts have and how often the same come again.

    Raises:
        TwoKindsError: They may be either.
    """
    filled = [text for text in texts if text.strip()][:10_000]
    mean_words = sum(len(text.split()) for text in filled) / max(len(filled), 1)
    are_repeated = 2 * len({text.strip().lower() for text in filled}) < len(filled)
    if mean_words >= 4 and not (are_repeated and mean_words < 6):
        return CAPTIONS
    if mean_words <= 2 or (mean_words < 4 and are_repeated):
        return TAGS
    shown = repr(filled[0][:60])
    raise TwoKindsError(
        f"{where}: texts such as {shown} may be captions or tags: say which with "
        f"--as={form}:{CAPTIONS} or --as={form}:{TAGS}"
    )
