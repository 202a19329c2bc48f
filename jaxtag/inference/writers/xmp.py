"""XMP sidecar files: keywords and captions for photo programs.

Keywords are in `dc:subject` and the caption in `dc:description` (XMP specification part 1, section
8.4), and where a program is named, in its own fields too (`sidecar_programs`). What jaxtag wrote is
remembered in properties of its own namespace, so that a later run replaces that and nothing else.
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from absl import logging

from jaxtag.data import xmp_packet
from jaxtag.data.embedded_metadata import EmbeddedMetadata, read_embedded
from jaxtag.data.xmp_packet import XmpPacket
from jaxtag.errors import UserError, printable, write_error
from jaxtag.inference.writers.base import Row
from jaxtag.inference.writers.sidecar_programs import (
    ANY_PROGRAM,
    PATH_FIELDS,
    KeywordField,
    SidecarProgram,
)
from jaxtag.storage import atomic_file
from jaxtag.storage.paths import is_store, make_path

_DC = "http://purl.org/dc/elements/1.1/"
# It ends with a slash: exiv2, with which digiKam and darktable write, puts one there.
_OURS = "urn:jaxtag:1.0/"
_SUBJECT = KeywordField(_DC, "dc", "subject", "Bag", "")


class XmpWriter:
    """Writes or updates the sidecar of each image that has a tag or a caption.

    A new sidecar starts from the keywords, the caption and the XMP that the image carries itself,
    since photo programs prefer the sidecar. In a sidecar of ours, keywords and a caption that
    somebody added stay, those that somebody deleted do not come back, and a field that the row does
    not have (keywords, for a captioner) stays as it is. The same holds for sidecars of other
    programs where one is named. Otherwise they are not touched, `photo.xmp` beside `photo.jpg`
    neither; the first one is logged, and their number in the end.

    Args:
        min_score: score that a tag needs to become a keyword.
        program: that reads the sidecars.

    Attributes:
        num_skipped: number of sidecars of other programs.
        num_failed: number of sidecars that could not be written.
    """

    def __init__(self, min_score: float, program: SidecarProgram = ANY_PROGRAM):
        self._min_score, self._program = min_score, program
        self.num_skipped = self.num_failed = 0
        self._last: tuple[Path, str] | None = None  # sidecar and image

    def write(self, row: Row) -> None:
        """Writes the sidecar of one image; the first error is logged, all are counted."""
        if "error" in row or not ("tags" in row or "caption" in row):
            return
        file = row["file"]
        paths = self._program.paths(make_path(file))
        path = next((path for path in paths if path.exists()), paths[0])
        if self._last is not None and self._last[0] == path and self._last[1] != file:
            self._skip(path, "is the sidecar of two images and holds the keywords of the first")
            return
        self._last = path, file
        try:
            content = self._updated(path, file, keywords(row, self._min_score), row.get("caption"))
            if content is not None:
                if not (is_store(path) or path.parent.is_dir()):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                atomic_file.write_bytes(path, content)
        except OSError as error:
            self._count_failure(str(write_error(path, error)))
        except UserError as error:
            self._count_failure(str(error))

    def close(self) -> None:
        """Logs the numbers of sidecars that were not written."""
        if self.num_skipped:
            logging.warning(
                "%d sidecar file(s) of other programs were left as they are", self.num_skipped
            )
        if self.num_failed:
            logging.warning("%d sidecar file(s) could not be written", self.num_failed)

    def abort(self) -> None:
        """Does nothing: each sidecar is whole."""

    def _updated(
        self, path: Path, file: str, tags: list[str] | None, caption: str | None
    ) -> bytes | None:
        """The new content of a sidecar; None where it stays as it is."""
        if path.exists():
            with path.open("rb") as sidecar:
                old = sidecar.read(xmp_packet.MAX_BYTES + 1)
            if len(old) > xmp_packet.MAX_BYTES:
                self._skip(path)
                return None
            try:
                packet = XmpPacket(old)
            except ValueError:
                packet = None
            if packet is None or not (self._program.shares or is_ours(packet)):
                self._skip(path)
                return None
            update(packet, tags, caption, self._program.fields)
            return None if packet.data == old else packet.data
        image = make_path(file)
        other = image.with_suffix(".xmp")
        if other not in self._program.paths(image) and other != image and other.exists():
            self._skip(other)
            return None
        if not (tags or caption):
            return None
        return document(tags, caption, read_embedded(file), self._program.fields)

    def _skip(self, path: Path, reason: str = "is of another program and stays as it is") -> None:
        if not self.num_skipped:
            logging.warning("%s %s", printable(str(path)), reason)
        self.num_skipped += 1

    def _count_failure(self, message: str) -> None:
        if not self.num_failed:
            logging.warning("%s", printable(message))
        self.num_failed += 1


def keywords(row: Row, min_score: float) -> list[str] | None:
    """The tags of a row that become keywords; None where it has no tags."""
    if "tags" not in row:
        return None
    return [tag["tag"] for tag in row["tags"] if tag["score"] >= min_score]


def document(
    tags: Sequence[str] | None,
    caption: str | None,
    embedded: EmbeddedMetadata = EmbeddedMetadata(),  # noqa: B008
    fields: Sequence[KeywordField] = (),
) -> bytes:
    """A new XMP packet with these keywords and this caption, and what the picture carries."""
    packet = XmpPacket(xmp_packet.EMPTY)
    with contextlib.suppress(ValueError):  # a damaged packet of the picture is left out
        packet = XmpPacket(embedded.xmp.strip().encode("utf-8", "replace"))
    add_embedded(packet, embedded)
    update(packet, tags, caption, fields)
    return packet.data.rstrip() + b"\n"


def add_embedded(packet: XmpPacket, embedded: EmbeddedMetadata) -> None:
    """Adds the keywords and the caption that a picture carries outside of its XMP."""
    present = packet.items(_DC, "subject")
    packet.set_items(_DC, "dc", "subject", "Bag", [*present, *embedded.keywords])
    if embedded.caption and not packet.items(_DC, "description"):
        packet.set_text(_DC, "dc", "description", embedded.caption)


def update(
    packet: XmpPacket,
    tags: Sequence[str] | None,
    caption: str | None,
    fields: Sequence[KeywordField] = (),
) -> None:
    """Replaces the keywords and the caption that jaxtag wrote; None leaves a field alone.

    Args:
        packet: changed in place.
        tags: flat keywords.
        caption: text.
        fields: further lists that hold the keywords; those that the packet has are kept in step.
    """
    if tags is not None:
        tags = _unique(map(xmp_packet.clean, tags))
        lists = [f for f in PATH_FIELDS if f in fields or packet.items(f.namespace, f.name)]
        for field in (_SUBJECT, *lists):
            _update_list(packet, field, tags)
    if caption is not None:
        caption = xmp_packet.clean(caption)
        texts, last = packet.items(_DC, "description"), packet.items(_OURS, "caption")
        if texts[:1] == last[:1]:
            packet.set_text(_DC, "dc", "description", caption)
            packet.set_items(_OURS, "jaxtag", "caption", "Bag", [caption])


def _update_list(packet: XmpPacket, field: KeywordField, tags: Sequence[str]) -> None:
    """Replaces the keywords that jaxtag wrote into a list."""
    memory = "keywords" if field is _SUBJECT else field.name
    present = packet.items(field.namespace, field.name)
    written = packet.items(_OURS, memory)
    # Somebody's are kept, and what somebody deleted does not come back.
    own = [keyword for keyword in present if keyword not in written]
    deleted = [keyword for keyword in written if keyword not in present]
    last_parts = {field.split(keyword)[-1] for keyword in own}
    new = [tag for tag in tags if tag not in last_parts and tag not in deleted]
    new = [tag for tag in new if len(field.split(tag)) == 1]  # it would become a path
    packet.set_items(field.namespace, field.prefix, field.name, field.container, [*own, *new])
    packet.set_items(_OURS, "jaxtag", memory, "Bag", [*new, *deleted])


def is_ours(packet: XmpPacket) -> bool:
    """Whether jaxtag made it; other programs that edit it put their own name into it."""
    if packet.toolkit == "jaxtag":
        return True
    return any(packet.items(_OURS, name) for name in ("keywords", "caption"))


def _unique(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text.strip()]
