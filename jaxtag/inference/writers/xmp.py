"""XMP sidecar files: keywords and captions for photo programs.

`photo.jpg.xmp` beside `photo.jpg`, as digiKam and darktable name them; keywords are in `dc:subject`
and the caption in `dc:description` (XMP specification part 1, section 8.4). What jaxtag wrote is
remembered in properties of its own namespace, so that a later run replaces that and nothing else.
"""

import errno
import os
import re
import xml.dom.minidom as minidom
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from absl import logging

from jaxtag.errors import UserError, printable, write_error
from jaxtag.inference.writers.base import Row
from jaxtag.inference.writers.embedded_metadata import EmbeddedMetadata, read_embedded
from jaxtag.storage import atomic_file

_MAX_BYTES = 1 << 24  # a larger sidecar is none that we would read
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TOOLKIT = 'x:xmptk="jaxtag"'
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_OURS = "urn:jaxtag:1.0"
_XMLNS = "http://www.w3.org/2000/xmlns/"
_XML = "http://www.w3.org/XML/1998/namespace"
_EMPTY = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" {_TOOLKIT}>
 <rdf:RDF xmlns:rdf="{_RDF}">
  <rdf:Description rdf:about=""/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


class XmpWriter:
    """Writes or updates the sidecar of each image that has a tag or a caption.

    A new sidecar starts from the keywords, the caption and the XMP that the image carries itself,
    since photo programs prefer the sidecar. In a sidecar of ours, keywords and a caption that
    somebody added stay, those that somebody deleted do not come back, and a field that the row does
    not have (keywords, for a captioner) stays as it is. A sidecar of another program, `photo.xmp`
    beside `photo.jpg` too, is not touched; the first one is logged, and their number in the end.

    Args:
        min_score: score that a tag needs to become a keyword.

    Attributes:
        num_skipped: number of sidecars of other programs.
        num_failed: number of sidecars that could not be written.
    """

    def __init__(self, min_score: float):
        self._min_score = min_score
        self.num_skipped = self.num_failed = 0

    def write(self, row: Row) -> None:
        """Writes the sidecar of one image; the first error is logged, all are counted."""
        if "error" in row or not ("tags" in row or "caption" in row):
            return
        tags = None
        if "tags" in row:
            tags = [tag["tag"] for tag in row["tags"] if tag["score"] >= self._min_score]
        path = Path(f"{row['file']}.xmp")
        try:
            content = self._updated(path, row["file"], tags, row.get("caption"))
            if content is not None:
                if not path.parent.is_dir():
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                atomic_file.write_text(path, content)
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
    ) -> str | None:
        """The new content of a sidecar; None where it stays as it is."""
        if path.exists():
            if path.stat().st_size > _MAX_BYTES:
                self._skip(path)
                return None
            old = path.read_bytes().decode("utf-8", "replace")
            sidecar = _parse(old)
            if sidecar is None or not sidecar.is_ours():
                self._skip(path)
                return None
            sidecar.update(tags, caption)
            new = sidecar.text()
            return None if new == old else new
        other = Path(file).with_suffix(".xmp")
        if other != Path(file) and other.exists():
            self._skip(other)
            return None
        return document(tags, caption, read_embedded(file)) if tags or caption else None

    def _skip(self, path: Path) -> None:
        if not self.num_skipped:
            logging.warning("%s is of another program and stays as it is", printable(str(path)))
        self.num_skipped += 1

    def _count_failure(self, message: str) -> None:
        if not self.num_failed:
            logging.warning("%s", printable(message))
        self.num_failed += 1


def document(
    tags: Sequence[str] | None,
    caption: str | None,
    embedded: EmbeddedMetadata = EmbeddedMetadata(),  # noqa: B008
) -> str:
    """A new XMP packet with these keywords and this caption, and what the picture carries."""
    sidecar = (_parse(embedded.xmp) if embedded.xmp else None) or _parse(_EMPTY)
    assert sidecar is not None
    sidecar.add_own(embedded.keywords, embedded.caption)
    sidecar.update(tags, caption)
    return sidecar.text()


class _Sidecar:
    """An XMP packet, of which only the fields that change are touched."""

    def __init__(self, tree: minidom.Document):
        self._tree = tree
        self._descriptions = tree.getElementsByTagNameNS(_RDF, "Description")

    def is_ours(self) -> bool:
        """Whether jaxtag made it; other programs that edit it put their own name into it."""
        roots = self._tree.getElementsByTagNameNS("adobe:ns:meta/", "xmpmeta")
        if any(root.getAttributeNS("adobe:ns:meta/", "xmptk") == "jaxtag" for root in roots):
            return True
        return any(self._find(_OURS, name) for name in ("keywords", "caption"))

    def add_own(self, keywords: Iterable[str], caption: str) -> None:
        """Adds what the picture carries outside of its XMP."""
        present = self._items(_DC, "subject")
        merged = _unique([*present, *map(_text, keywords)])
        if merged != present:
            self._set_items(_DC, "subject", "Bag", merged)
        if caption and not self._items(_DC, "description"):
            self._set_items(_DC, "description", "Alt", [_text(caption)])

    def update(self, tags: Sequence[str] | None, caption: str | None) -> None:
        """Replaces the keywords and the caption that jaxtag wrote; None leaves a field alone."""
        if tags is not None:
            tags = _unique(map(_text, tags))
            present, written = self._items(_DC, "subject"), self._items(_OURS, "keywords")
            # Somebody's are kept, and what somebody deleted does not come back.
            own = [keyword for keyword in present if keyword not in written]
            deleted = [keyword for keyword in written if keyword not in present]
            new = [tag for tag in tags if tag not in own and tag not in deleted]
            self._change(_DC, "subject", "Bag", present, [*own, *new])
            self._change(_OURS, "keywords", "Bag", written, [*new, *deleted])
        if caption is not None:
            caption = _text(caption)
            texts, last = self._items(_DC, "description"), self._items(_OURS, "caption")
            if texts[:1] == last[:1]:
                new = [caption] if caption.strip() else []
                self._change(_DC, "description", "Alt", texts, [*new, *texts[1:]])
                self._change(_OURS, "caption", "Bag", last, new)

    def text(self) -> str:
        """The packet as text."""
        return "\n".join(node.toxml() for node in self._tree.childNodes).rstrip("\n") + "\n"

    def _change(
        self, namespace: str, name: str, container: str, before: list[str], after: list[str]
    ) -> None:
        if after != before:
            self._set_items(namespace, name, container, after)

    def _find(self, namespace: str, name: str) -> minidom.Element | None:
        """The element of a property."""
        for description in self._descriptions:
            for child in description.childNodes:
                if child.nodeType == child.ELEMENT_NODE and (
                    (child.namespaceURI, child.localName) == (namespace, name)
                ):
                    return child
        return None

    def _items(self, namespace: str, name: str) -> list[str]:
        """The texts of a property: a list's items, an element's text or an attribute."""
        element = self._find(namespace, name)
        if element is None:
            values = [
                description.getAttributeNS(namespace, name)
                for description in self._descriptions
                if description.hasAttributeNS(namespace, name)
            ]
            return [value for value in values if value]
        items = element.getElementsByTagNameNS(_RDF, "li")
        texts = [_content(item) for item in items] if items else [_content(element).strip()]
        return [text for text in texts if text]

    def _set_items(self, namespace: str, name: str, container: str, items: list[str]) -> None:
        """Writes a property; without items, removes it."""
        element = self._find(namespace, name)
        language = {}  # of the items of a text in several languages
        if element is not None:
            for item in element.getElementsByTagNameNS(_RDF, "li"):
                language[_content(item)] = item.getAttributeNS(_XML, "lang")
        for description in self._descriptions:
            if description.hasAttributeNS(namespace, name):
                description.removeAttributeNS(namespace, name)
        if not items:
            if element is not None:
                _remove(element)
            return
        if element is None:
            description = self._descriptions[0]
            prefix = {_DC: "dc", _OURS: "jaxtag"}[namespace]
            element = self._tree.createElementNS(namespace, f"{prefix}:{name}")
            element.setAttributeNS(_XMLNS, f"xmlns:{prefix}", namespace)
            self._indent(description, "\n   ")
            description.appendChild(element)
            self._indent(description, "\n  ")
        while element.firstChild:
            element.removeChild(element.firstChild)
        # Whatever prefix the packet has for RDF.
        rdf = self._descriptions[0].prefix or "rdf"
        bag = self._tree.createElementNS(_RDF, f"{rdf}:{container}")
        for number, text in enumerate(items):
            item = self._tree.createElementNS(_RDF, f"{rdf}:li")
            if container == "Alt":
                default = "x-default" if number == 0 else ""
                item.setAttributeNS(_XML, "xml:lang", language.get(text) or default or "x-default")
            item.appendChild(self._tree.createTextNode(text))
            self._indent(bag, "\n     ")
            bag.appendChild(item)
        self._indent(bag, "\n    ")
        self._indent(element, "\n    ")
        element.appendChild(bag)
        self._indent(element, "\n   ")

    def _indent(self, parent: minidom.Element, text: str) -> None:
        last = parent.lastChild
        if last is not None and last.nodeType == last.TEXT_NODE and not last.data.strip():
            parent.removeChild(last)
        parent.appendChild(self._tree.createTextNode(text))


def _parse(text: str) -> _Sidecar | None:
    """A packet; None for what is none."""
    if len(text) > _MAX_BYTES or "<!DOCTYPE" in text:  # entities are a way to fill the memory
        return None
    try:
        tree = minidom.parseString(text.encode("utf-8", "replace").strip())
    except (ExpatError, ValueError, RecursionError):
        return None
    sidecar = _Sidecar(tree)
    return sidecar if tree.getElementsByTagNameNS(_RDF, "Description") else None


def _content(element: minidom.Element) -> str:
    return "".join(node.data for node in element.childNodes if node.nodeType in (node.TEXT_NODE, 4))


def _remove(element: minidom.Element) -> None:
    parent: Any = element.parentNode
    before: Any = element.previousSibling
    if before is not None and before.nodeType == before.TEXT_NODE and not before.data.strip():
        parent.removeChild(before)
    parent.removeChild(element)


def _unique(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text.strip()]


def _text(text: str) -> str:
    """Drops the characters that XML 1.0 does not allow."""
    return _NOT_XML.sub("", text)
