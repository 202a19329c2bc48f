"""XMP sidecar files: keywords and captions for photo programs.

`photo.jpg.xmp` beside `photo.jpg`, as digiKam and darktable name them; keywords are in `dc:subject`
and the caption in `dc:description` (XMP specification part 1, section 8.4).
"""

import errno
import os
import re
from pathlib import Path
from xml.sax.saxutils import escape

from absl import logging

from jaxtag.errors import UserError
from jaxtag.inference.writers.base import Row
from jaxtag.storage import atomic_file

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
    """Writes a sidecar for each image that has a tag or a caption.

    A sidecar of another program is not overwritten: it may hold somebody's edits. The first one is
    logged, and their number in the end.

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
        tags = [tag["tag"] for tag in row.get("tags", []) if tag["score"] >= self._min_score]
        caption = row.get("caption", "")
        if not tags and not caption:
            return
        path = Path(f"{row['file']}.xmp")
        try:
            if _is_foreign(path):
                if not self.num_skipped:
                    logging.warning("%s is of another program and stays as it is", path)
                self.num_skipped += 1
                return
            if not path.parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            atomic_file.write_text(path, document(tags, caption))
        except OSError as error:
            self._count_failure(f"{path} cannot be written: {error.strerror}")
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

    def _count_failure(self, message: str) -> None:
        if not self.num_failed:
            logging.warning("%s", message)
        self.num_failed += 1


def document(tags: list[str], caption: str) -> str:
    """Returns an XMP packet with these keywords and this caption."""
    body = ""
    if tags:
        items = "".join(f"     <rdf:li>{_text(tag)}</rdf:li>\n" for tag in tags)
        body += f"   <dc:subject>\n    <rdf:Bag>\n{items}    </rdf:Bag>\n   </dc:subject>\n"
    if caption:
        item = f'     <rdf:li xml:lang="x-default">{_text(caption)}</rdf:li>\n'
        body += f"   <dc:description>\n    <rdf:Alt>\n{item}    </rdf:Alt>\n   </dc:description>\n"
    return _DOCUMENT % body


def _text(text: str) -> str:
    """Escapes text, and drops the characters that XML 1.0 does not allow."""
    return escape(_NOT_XML.sub("", text))


def _is_foreign(path: Path) -> bool:
    """Whether a sidecar of another program exists at `path`."""
    return path.exists() and _TOOLKIT not in path.read_text(encoding="utf-8", errors="replace")
