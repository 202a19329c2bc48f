"""XMP sidecar files: keywords and captions that photo programs read.

`picture.jpg.xmp` beside `picture.jpg`, as digiKam and darktable name them; keywords are in
`dc:subject` and the caption in `dc:description` (XMP specification part 1, section 8.4).
"""

import contextlib
import re
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from absl import logging

_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TOOLKIT = 'x:xmptk="jaxtag"'
_DOCUMENT = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" {_TOOLKIT}>
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
%s  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


class XmpWriter:
    """Writes one for each picture that has a tag or a caption.

    A sidecar that another program wrote is left as it is: it may hold somebody's edits. The first
    such is named, and how many there were in the end.

    Attributes:
      kept: how many sidecars of other programs were left.
      failed: how many could not be written.

    Args:
      least: score that a tag needs to become a keyword.
    """

    def __init__(self, least: float):
        self._least = least
        self.kept = self.failed = 0

    def add(self, line: dict[str, Any]) -> None:
        """Writes the sidecar of one picture; the first error is logged, all are counted."""
        tags = [tag["tag"] for tag in line.get("tags", []) if tag["score"] >= self._least]
        caption = line.get("caption", "")
        if not tags and not caption:
            return
        path = Path(f"{line['file']}.xmp")
        try:
            if path.exists() and _TOOLKIT not in path.read_text(encoding="utf-8", errors="replace"):
                if not self.kept:
                    logging.warning("%s is of another program and stays as it is", path)
                self.kept += 1
                return
            _write(path, document(tags, caption))
        except OSError as error:
            if not self.failed:
                logging.warning("%s cannot be written: %s", path, error.strerror)
            self.failed += 1

    def finish(self) -> None:
        """Tells what was not written."""
        if self.kept:
            logging.warning("%d sidecar file(s) of other programs were left as they are", self.kept)
        if self.failed:
            logging.warning("%d sidecar file(s) could not be written", self.failed)


def document(tags: list[str], caption: str) -> str:
    """The XMP packet with these keywords and this caption."""
    body = ""
    if tags:
        items = "".join(f"     <rdf:li>{_text(tag)}</rdf:li>\n" for tag in tags)
        body += f"   <dc:subject>\n    <rdf:Bag>\n{items}    </rdf:Bag>\n   </dc:subject>\n"
    if caption:
        item = f'     <rdf:li xml:lang="x-default">{_text(caption)}</rdf:li>\n'
        body += f"   <dc:description>\n    <rdf:Alt>\n{item}    </rdf:Alt>\n   </dc:description>\n"
    return _DOCUMENT % body


def _text(text: str) -> str:
    """Escaped; without the characters that XML 1.0 cannot hold."""
    return escape(_NOT_XML.sub("", text))


def _write(path: Path, text: str) -> None:
    """A whole file, or none: a reader never meets half of one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
