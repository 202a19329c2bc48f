"""Keywords and captions that photo programs keep in images (XMP, IPTC, EXIF) or in sidecars.

Sidecars are `photo.jpg.xmp` or `photo.xmp`. Keywords are dc:subject, or else the last names of
digiKam:TagsList and lr:hierarchicalSubject; captions dc:description (XMP specification part 1).
"""

import io
import itertools
from typing import IO

from jaxtag.data.embedded_metadata import EmbeddedMetadata, read_embedded
from jaxtag.data.xmp_packet import MAX_BYTES, XmpPacket
from jaxtag.datasets.annotations import CAPTIONS, TAGS, Row, Table, clean_tags
from jaxtag.datasets.archives import ReadError
from jaxtag.datasets.forms.base import AnnotatedForm, Confidence, Evidence, split_of_path
from jaxtag.datasets.layout import is_image_name
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import UserError

_DC = "http://purl.org/dc/elements/1.1/"
_PATHS = (
    ("http://www.digikam.org/ns/1.0/", "TagsList", "/"),
    ("http://ns.adobe.com/lightroom/1.0/", "hierarchicalSubject", "|"),
)
_LOOKED_AT = 50  # images, until one has keywords


class Keywords(AnnotatedForm):
    """Keywords in images or sidecars."""

    name = "keywords"
    title = "images with keywords"

    def detect(self, source: SourceFiles) -> Evidence | None:
        images = filter(is_image_name, source.names())
        for image in itertools.islice(images, _LOOKED_AT):
            keywords, _ = _annotations(source, image)
            if keywords:
                return Evidence(Confidence.LIKELY, image)
        return None

    def read(self, source: SourceFiles, kind: str | None) -> list[Table]:
        table = Table(path="the keywords of images")
        annotated = {
            image: _annotations(source, image) for image in source.names() if is_image_name(image)
        }
        has_keywords = any(keywords for keywords, _ in annotated.values())
        has_captions = any(captions for _, captions in annotated.values())
        if not has_keywords and not has_captions:
            raise UserError(f"{source.path}: no image has keywords or a caption")
        if kind is None and has_keywords and has_captions:
            table.warnings.append("there are captions too: --as=keywords:captions reads these")
        kind = kind or (TAGS if has_keywords else CAPTIONS)
        for image, (keywords, captions) in annotated.items():
            texts = keywords if kind == TAGS else captions
            if texts:
                table.rows.append(Row(image, image, kind, texts, split_of_path(image), path=image))
            else:
                noun = "keywords" if kind == TAGS else "caption"
                table.problems.append((image, f"it has no {noun}"))
        return [table]


def _annotations(source: SourceFiles, image: str) -> tuple[list[str], list[str]]:
    """The keywords and the captions of an image: of its sidecar, or else its own."""
    for sidecar in (f"{image}.xmp", f"{image.rpartition('.')[0]}.xmp"):
        if sidecar in source:
            keywords, captions = _of_packet(_read(source, sidecar))
            if keywords or captions:
                return keywords, captions
    embedded = _embedded(source, image)
    keywords, captions = _of_packet(embedded.xmp.encode())
    return (
        keywords or clean_tags(embedded.keywords),
        captions or ([embedded.caption] if embedded.caption else []),
    )


def _embedded(source: SourceFiles, image: str) -> EmbeddedMetadata:
    file: IO[bytes]
    try:
        file = source.open(image)
    except ReadError:  # in a zip
        file = io.BytesIO(_read(source, image))
    with file:
        return read_embedded(file)


def _of_packet(data: bytes) -> tuple[list[str], list[str]]:
    """The keywords and the captions of an XMP packet; none of one that cannot be read."""
    try:
        packet = XmpPacket(data)
    except ValueError:
        return [], []
    keywords = packet.items(_DC, "subject")
    for namespace, name, separator in _PATHS:
        keywords = keywords or [
            path.rpartition(separator)[2] for path in packet.items(namespace, name)
        ]
    return clean_tags(keywords), packet.items(_DC, "description")[:1]


def _read(source: SourceFiles, name: str) -> bytes:
    try:
        return source.read(name, MAX_BYTES)
    except ReadError:
        return b""
