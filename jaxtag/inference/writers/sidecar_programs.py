"""What photo programs call their sidecar files, and the fields in which they read keywords.

- digiKam: `photo.jpg.xmp`; dc:subject, and paths such as `Places/Paris` in digiKam:TagsList and,
  with `|`, in lr:hierarchicalSubject (digiKam's manual, "Metadata Settings").
- Lightroom Classic: `photo.xmp`, of raw files alone (it reads the metadata of a JPEG in the JPEG);
  dc:subject and lr:hierarchicalSubject.
- darktable: `photo.jpg.xmp`; dc:subject and lr:hierarchicalSubject (its manual, "sidecar files").
- Immich: `photo.jpg.xmp`, else `photo.xmp`; digiKam:TagsList where there is one (its manual, "XMP
  Sidecars").
"""

import dataclasses
from pathlib import Path

from jaxtag.errors import UsageError, did_you_mean


@dataclasses.dataclass(frozen=True)
class KeywordField:
    """A list of keywords that may be paths.

    Attributes:
        container: "Bag" or "Seq".
        separator: of the parts of a path; "" where keywords are no paths.
    """

    namespace: str
    prefix: str
    name: str
    container: str
    separator: str

    def split(self, keyword: str) -> list[str]:
        """The parts of a path."""
        return keyword.split(self.separator) if self.separator else [keyword]


_TAGS_LIST = KeywordField("http://www.digikam.org/ns/1.0/", "digiKam", "TagsList", "Seq", "/")
_HIERARCHICAL = KeywordField(
    "http://ns.adobe.com/lightroom/1.0/", "lr", "hierarchicalSubject", "Bag", "|"
)
PATH_FIELDS = (_TAGS_LIST, _HIERARCHICAL)


@dataclasses.dataclass(frozen=True)
class SidecarProgram:
    """A program that reads sidecars.

    Attributes:
        replaces_suffix: of the names that it reads, in its order, whether they are `photo.xmp`.
        fields: it reads keywords in them, besides dc:subject.
        shares: whether jaxtag adds to sidecars that other programs wrote.
    """

    replaces_suffix: tuple[bool, ...]
    fields: tuple[KeywordField, ...]
    shares: bool = True

    def paths(self, image: Path) -> list[Path]:
        """Where the program looks for the sidecar of an image."""
        names = {True: image.with_suffix(".xmp"), False: image.with_name(f"{image.name}.xmp")}
        return [names[replaces] for replaces in self.replaces_suffix]


ANY_PROGRAM = SidecarProgram((False,), (), shares=False)
_PROGRAMS = {
    "any": ANY_PROGRAM,
    "darktable": SidecarProgram((False,), (_HIERARCHICAL,)),
    "digikam": SidecarProgram((False,), (_TAGS_LIST, _HIERARCHICAL)),
    "immich": SidecarProgram((False, True), (_TAGS_LIST,)),
    "lightroom": SidecarProgram((True,), (_HIERARCHICAL,)),
}


def get_program(name: str) -> SidecarProgram:
    """The program of this name. Raises UsageError for another."""
    if name not in _PROGRAMS:
        raise UsageError(f"--sidecars={name}: unknown{did_you_mean(name, _PROGRAMS)}")
    return _PROGRAMS[name]
