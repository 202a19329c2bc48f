"""An XMP packet whose fields are changed in place: all other bytes stay as they are.

XMP specification part 1 (ISO 16684-1): properties are child elements, or attributes, of the
`rdf:Description` elements of `rdf:RDF`; lists are `rdf:Bag`, `rdf:Seq` and `rdf:Alt` of `rdf:li`.
Programs differ in prefixes, quotes, indentation and order, and some compare a file with what they
wrote; so a change is made to the text and not to a tree that is written anew.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from xml.parsers import expat
from xml.sax.saxutils import escape

MAX_BYTES = 1 << 24  # a larger packet is none that we would read
_MAX_DEPTH = 200
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XML = "http://www.w3.org/XML/1998/namespace"
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SEPARATOR = " "  # of a namespace and a name, as expat gives them
# The start tag of an element up to its `>`, which may stand in the value of an attribute.
_START_TAG = re.compile(rb"<[^<>\"']*(?:\"[^\"]*\"[^<>\"']*|'[^']*'[^<>\"']*)*>")
EMPTY = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="jaxtag">
 <rdf:RDF xmlns:rdf="{_RDF}">
  <rdf:Description rdf:about=""/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
""".encode()


@dataclasses.dataclass
class _Element:
    """An element: where its parts lie in the packet, its text and what is in it.

    Attributes:
        name: namespace and local name, separated by a blank.
        start: offset of its start tag.
        content: offset behind its start tag.
        content_end: offset of its end tag; that of `content` for an empty-element tag.
        end: offset behind it.
    """

    name: str
    start: int
    content: int
    attributes: dict[str, str]
    prefixes: dict[str, str]
    content_end: int = 0
    end: int = 0
    text: str = ""
    children: list["_Element"] = dataclasses.field(default_factory=list)


class XmpPacket:
    """A packet of which single properties are read and changed.

    Args:
        data: UTF-8.

    Raises:
        ValueError: it is no XMP packet, or one that declares entities.
    """

    def __init__(self, data: bytes):
        if len(data) > MAX_BYTES or b"<!DOCTYPE" in data:  # entities are a way to fill the memory
            raise ValueError("no XMP packet that is read")
        self.data = data
        self._parse()

    @property
    def toolkit(self) -> str:
        """The program that wrote it, as it names itself."""
        return next(
            (e.attributes.get("adobe:ns:meta/ xmptk", "") for e in self._roots if e.attributes), ""
        )

    def items(self, namespace: str, name: str) -> list[str]:
        """The texts of a property: a list's items, an element's text or an attribute."""
        element = self._find(namespace, name)
        if element is None:
            key = namespace + _SEPARATOR + name
            values = [d.attributes[key] for d in self._descriptions if key in d.attributes]
            return [value for value in values if value]
        items = _list_items(element)
        texts = [item.text for item in items] if items else [element.text.strip()]
        return [text for text in texts if text]

    def set_items(
        self, namespace: str, prefix: str, name: str, container: str, items: Sequence[str]
    ) -> None:
        """Gives a list these items: others are taken out, new ones added behind the last.

        Args:
            namespace: of the property.
            prefix: of the namespace, where the packet has none.
            name: of the property.
            container: "Bag" or "Seq", of a list that is new.
            items: texts; without any, the property goes.
        """
        items = [text for text in dict.fromkeys(map(clean, items)) if text.strip()]
        present = self.items(namespace, name)
        if present == items:
            return
        element = self._find(namespace, name)
        old = _list_items(element) if element is not None else []
        remaining = [item for item in old if item.text in items]
        if not remaining:
            self._remove(namespace, name)
            if items:
                self._insert(namespace, prefix, name, container, items)
            return
        edits = [(*self._with_space(item), b"") for item in old if item.text not in items]
        present = [item.text for item in remaining]
        last = remaining[-1]
        space = self.data[self._with_space(last)[0] : last.start]
        tag = self._tag_name(last)
        new = [f"<{tag}>{escape(text)}</{tag}>" for text in items if text not in present]
        edits.append((last.end, last.end, b"".join(space + text.encode() for text in new)))
        self._edit(edits)

    def set_text(self, namespace: str, prefix: str, name: str, text: str) -> None:
        """Gives a text of several languages its default; "" removes it."""
        text = clean(text)
        element = self._find(namespace, name)
        items = _list_items(element) if element is not None else []
        if not items:
            self._remove(namespace, name)
            if text.strip():
                self._insert(namespace, prefix, name, "Alt", [text])
        elif text.strip() and items[0].content < items[0].end:
            self._edit([(items[0].content, items[0].content_end, escape(text).encode())])
        elif len(items) > 1:
            self._edit([(*self._with_space(items[0]), b"")])
        else:
            self._remove(namespace, name)

    def _parse(self) -> None:
        self._roots, self._descriptions = _elements(self.data)
        if not self._descriptions:
            raise ValueError("no XMP packet: it has no rdf:Description")

    def _find(self, namespace: str, name: str) -> _Element | None:
        key = namespace + _SEPARATOR + name
        children = (child for d in self._descriptions for child in d.children)
        return next((child for child in children if child.name == key), None)

    def _edit(self, edits: Iterable[tuple[int, int, bytes]]) -> None:
        data = self.data
        for start, end, new in sorted(edits, reverse=True):
            data = data[:start] + new + data[end:]
        self.data = data
        self._parse()

    def _with_space(self, element: _Element) -> tuple[int, int]:
        """The range of an element with the white space before it."""
        start = element.start
        while start and self.data[start - 1] in b" \t\r\n":
            start -= 1
        return start, element.end

    def _tag_name(self, element: _Element) -> str:
        match = re.match(rb"<([^\s/>]+)", self.data[element.start : element.content])
        assert match is not None
        return match[1].decode()

    def _remove(self, namespace: str, name: str) -> None:
        """Removes a property, in whichever form it is there."""
        element = self._find(namespace, name)
        if element is not None:
            self._edit([(*self._with_space(element), b"")])
        key = namespace + _SEPARATOR + name
        for description in self._descriptions:
            if key not in description.attributes:
                continue
            names = [f"{p}:{name}" for p, n in description.prefixes.items() if n == namespace]
            pattern = rf"\s(?:{'|'.join(names)})\s*=\s*(?:\"[^\"]*\"|'[^']*')".encode()
            tag = self.data[description.start : description.content]
            self._edit([(description.start, description.content, re.sub(pattern, b"", tag))])
            break

    def _insert(
        self, namespace: str, prefix: str, name: str, container: str, items: Sequence[str]
    ) -> None:
        """Adds a property at the end of the first description."""
        target = self._descriptions[0]
        before = self.data[: target.start].rpartition(b"\n")[2].decode()
        margin = before if not before.strip() else ""
        prefixes = [p for p, n in target.prefixes.items() if n == namespace and p]
        declared = "" if prefixes else f' xmlns:{prefix}="{namespace}"'
        tag = f"{prefixes[0] if prefixes else prefix}:{name}"
        rdf = next(p for p, n in target.prefixes.items() if n == _RDF)
        rdf = f"{rdf}:" if rdf else ""
        language = ' xml:lang="x-default"' if container == "Alt" else ""
        lines = [
            f" <{tag}{declared}>",
            f"  <{rdf}{container}>",
            *(f"   <{rdf}li{language}>{escape(text)}</{rdf}li>" for text in items),
            f"  </{rdf}{container}>",
            f" </{tag}>",
        ]
        new = "".join(f"\n{margin}{line}" for line in lines).encode()
        if self.data[target.content - 2 : target.content] == b"/>":
            end = f"\n{margin}</{self._tag_name(target)}>".encode()
            self._edit([(target.content - 2, target.content, b">" + new + end)])
            return
        stop = target.content_end
        while stop > target.content and self.data[stop - 1] in b" \t\r\n":
            stop -= 1
        if stop == target.content_end:
            new += f"\n{margin}".encode()
        self._edit([(stop, stop, new)])


def _elements(data: bytes) -> tuple[list[_Element], list[_Element]]:
    """The elements above the descriptions, and the descriptions, with what is in them."""
    parser = expat.ParserCreate("utf-8", _SEPARATOR)
    parser.buffer_text = True
    stack: list[_Element] = []
    outer: list[_Element] = []
    descriptions: list[_Element] = []
    scopes: list[tuple[str, str | None]] = []  # prefixes that are bound, the innermost last

    def start(name: str, attributes: dict[str, str]) -> None:
        tag = _START_TAG.match(data, parser.CurrentByteIndex)
        if tag is None or len(stack) > _MAX_DEPTH:
            raise ValueError("no XMP packet that is read")
        prefixes = {p: n for p, n in scopes if n} if name == f"{_RDF} Description" else {}
        element = _Element(name, tag.start(), tag.end(), attributes, prefixes)
        if stack:
            stack[-1].children.append(element)
        if name == f"{_RDF} Description" and (stack and stack[-1].name == f"{_RDF} RDF"):
            descriptions.append(element)
        elif not descriptions:
            outer.append(element)
        stack.append(element)

    def end(_: str) -> None:
        element, index = stack.pop(), parser.CurrentByteIndex
        if data[element.content - 2 : element.content] == b"/>":
            element.content_end = element.end = element.content
        else:
            element.content_end, element.end = index, data.index(b">", index) + 1

    def text(characters: str) -> None:
        if stack:
            stack[-1].text += characters

    handlers: dict[str, Callable[..., object]] = {
        "StartElementHandler": start,
        "EndElementHandler": end,
        "CharacterDataHandler": text,
        "StartNamespaceDeclHandler": lambda prefix, uri: scopes.append((prefix or "", uri)),
        "EndNamespaceDeclHandler": lambda _: scopes.pop(),
    }
    for handler, function in handlers.items():
        setattr(parser, handler, function)
    try:
        data.decode("utf-8")
        parser.Parse(data, True)
    except (expat.ExpatError, UnicodeDecodeError, LookupError) as error:
        raise ValueError(f"no XMP packet: {error}") from error
    return outer, descriptions


def _list_items(element: _Element) -> list[_Element]:
    """The items of a list."""
    return [
        item
        for child in element.children
        if child.name.startswith(f"{_RDF} ")
        for item in child.children
        if item.name == f"{_RDF} li"
    ]


def clean(text: str) -> str:
    """Drops the characters that XML 1.0 does not allow."""
    return _NOT_XML.sub("", text)
