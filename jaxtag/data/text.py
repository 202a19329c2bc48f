"""Texts and names as they are compared and stored: valid UTF-8, in Unicode's form NFC.

macOS writes é as two characters (NFD) where other systems write one (NFC), JSON may hold half of a
surrogate pair, and file names may be bytes that are no UTF-8 at all.
"""

import re
import unicodedata
from collections.abc import Iterable

_SURROGATE = re.compile("[\ud800-\udfff]")
_ZERO_WIDTH = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))
_CONTROL = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0))}


def clean_text(text: str) -> str:
    """A text in NFC; half a surrogate pair becomes U+FFFD, the mark of what cannot be read."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _SURROGATE.sub("\ufffd", _join_surrogates(text)))


def clean_path(path: str) -> str:
    r"""The name of a file in NFC; bytes that are no UTF-8 are spelled as `\udcXX`, as in JSON."""
    if path.isascii():
        return path
    spelled = _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", _join_surrogates(path))
    return unicodedata.normalize("NFC", spelled)


def clean_name(name: str) -> str:
    """The name of a class or tag on one line, in NFC, without blanks around it; may be "".

    tfds keeps names one a line and drops what is blank: a line break or an empty name would give
    all later names other numbers.
    """
    name = clean_path(name.translate(_ZERO_WIDTH).translate(_CONTROL))
    return " ".join(name.split())


def clean_names(names: Iterable[str]) -> list[str]:
    """The different ones of `names` after `clean_name`, in order of first mention; none is empty.

    Every reader numbers classes and tags by this list.
    """
    return list(dict.fromkeys(filter(None, map(clean_name, names))))


def _join_surrogates(text: str) -> str:
    """Two halves of a surrogate pair as the character that they mean."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
