"""XML of annotations, read without entities: those of strangers may expand to gigabytes.

Billion laughs and external entities are declared in the document type; any declaration of one is
refused. The children of the root are made one at a time, so that a file of a million images fits.
"""

import contextlib
from collections.abc import Iterator
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from jaxtag.datasets.archives import MAX_TEXT_BYTES, ReadError
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import UserError

_CHUNK = 1 << 16
_MAX_DEPTH = 100


def root_name(source: SourceFiles, name: str) -> str:
    """The name of the root of an XML file, looking at its first bytes only; "" where it is none."""
    try:
        start = source.read_prefix(name, _CHUNK)
    except ReadError:
        return ""
    names: list[str] = []
    parser = _parser()
    parser.StartElementHandler = lambda tag, attributes: names.append(tag)
    with contextlib.suppress(expat.ExpatError, LookupError, UserError):  # an unknown encoding
        parser.Parse(start, False)
    return names[0] if names else ""


def root_children(source: SourceFiles, name: str) -> Iterator[Element]:
    """Yields the children of the root of an XML file.

    Raises:
        UserError: It cannot be read, is no XML, or declares entities; names the line.
    """
    where = source.where(name)
    try:
        data = source.read(name, MAX_TEXT_BYTES)
    except ReadError as error:
        raise UserError(f"{where}: {error}") from error
    children = _Children()
    parser = _parser()
    parser.StartElementHandler = children.start
    parser.EndElementHandler = children.end
    parser.CharacterDataHandler = children.data
    try:
        for start in range(0, len(data), _CHUNK):
            parser.Parse(data[start : start + _CHUNK], False)
            yield from children.finished
            children.finished.clear()
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise UserError(f"{where}, line {error.lineno}: no XML: {reason}") from error
    except LookupError as error:
        raise UserError(f"{where}: no XML: {error}") from error  # an unknown encoding
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def child_text(element: Element, name: str) -> str:
    """The text of a child without blanks around it; "" without one."""
    return (element.findtext(name) or "").strip()


class _Children:
    """Builds the elements at depth 1."""

    def __init__(self) -> None:
        self.finished: list[Element] = []
        self._depth = 0
        self._builder: TreeBuilder | None = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UserError(f"elements are nested more than {_MAX_DEPTH} deep")
        if self._depth == 2:
            self._builder = TreeBuilder()
        if self._builder is not None:
            self._builder.start(tag, attributes)

    def data(self, text: str) -> None:
        if self._builder is not None:
            self._builder.data(text)

    def end(self, tag: str) -> None:
        if self._builder is not None:
            self._builder.end(tag)
            if self._depth == 2:
                self.finished.append(self._builder.close())
                self._builder = None
        self._depth -= 1


def _parser() -> expat.XMLParserType:
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(*declaration: object) -> None:
        del declaration
        raise UserError("XML that declares entities is refused")

    parser.EntityDeclHandler = refuse
    return parser
