"""Keywords and captions that a picture carries itself: XMP, IPTC and EXIF.

XMP specification part 3 (where the packet is in each format); IPTC-IIM 4.2, datasets 2:25
(keywords) and 2:120 (caption); EXIF's ImageDescription and Windows' XPKeywords.
"""

import contextlib
import dataclasses
import re
import warnings
from typing import IO, Any

from PIL import Image, IptcImagePlugin

from jaxtag.storage.paths import make_path

_XMP_KEYS = ("xmp", "XML:com.adobe.xmp")
_TIFF_XMP = 700
_KEYWORDS, _CAPTION = (2, 25), (2, 120)
_IMAGE_DESCRIPTION, _XP_KEYWORDS = 0x010E, 0x9C9E
# What cameras write as a description of every picture.
_CAMERA_TEXT = re.compile(r"\W*$|.*(DIGITAL CAMERA|DSC|DCIM|^SONY|^SAMSUNG)\W*$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class EmbeddedMetadata:
    """What a picture says of itself.

    Attributes:
        xmp: its XMP packet, "" without one.
        keywords: of IPTC and EXIF.
        caption: of IPTC or EXIF, "" without one.
    """

    xmp: str = ""
    keywords: tuple[str, ...] = ()
    caption: str = ""


def read_embedded(file: str | IO[bytes]) -> EmbeddedMetadata:
    """Reads what there is; a picture or a field that cannot be read has nothing."""
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = make_path(file).open("rb") if isinstance(file, str) else file
        with stream as opened, Image.open(opened) as image:
            iptc: dict[Any, Any] = {}
            with contextlib.suppress(Exception):
                iptc = IptcImagePlugin.getiptcinfo(image) or {}
            exif: Any = {}
            with contextlib.suppress(Exception):
                exif = image.getexif()
            keywords = [_text(value) for value in _list(iptc.get(_KEYWORDS))]
            xp_keywords = _bytes(exif.get(_XP_KEYWORDS))
            if xp_keywords:
                keywords += xp_keywords.decode("utf-16-le", "ignore").strip("\0").split(";")
            caption = " ".join(_text(value) for value in _list(iptc.get(_CAPTION))).strip()
            description = str(exif.get(_IMAGE_DESCRIPTION) or "").strip("\0 ")
            if not caption and not _CAMERA_TEXT.match(description):
                caption = description
            keywords = [word for keyword in keywords if (word := keyword.strip())]
            return EmbeddedMetadata(_xmp(image), tuple(dict.fromkeys(keywords)), caption)
    return EmbeddedMetadata()


def _xmp(image: Image.Image) -> str:
    packets = [image.info.get(key) for key in _XMP_KEYS]
    if hasattr(image, "tag_v2"):
        packets.append(image.tag_v2.get(_TIFF_XMP))
    for packet in packets:
        if isinstance(packet, str):
            return packet
        if packet:
            return _bytes(packet).decode("utf-8", "replace").strip("\0")
    return ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _bytes(value: Any) -> bytes:
    return bytes(value) if value is not None else b""


def _text(value: Any) -> str:
    """IPTC's texts are UTF-8 in today's programs and Latin-1 in old ones."""
    data = _bytes(value)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
