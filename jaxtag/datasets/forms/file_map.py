"""An object of files: {"a.jpg": ["a caption", "another"]}, or of tags in the same way."""

from typing import Any

from jaxtag.datasets.annotations import CAPTIONS, TAGS, Row, Table, clean_file, clean_tags
from jaxtag.datasets.forms.base import JsonForm, guess_kind
from jaxtag.datasets.layout import is_image_name
from jaxtag.datasets.odd_entries import OddEntries


def _matches(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    first = list(content.items())[:100]
    return 2 * sum(is_image_name(key) and _texts(value) is not None for key, value in first) > len(
        first
    )


def _texts(value: Any) -> list[str] | None:
    """The texts of an image, None where the value is something else."""
    values = value if isinstance(value, list) else [value]
    texts = [text for text in values if isinstance(text, str)]
    return texts if len(texts) == len(values) else None


def _read(content: Any, where: str, kind: str | None) -> Table:
    table, odd = Table(), OddEntries()
    sound: list[tuple[str, list[str]]] = []
    for file, value in content.items():
        texts = _texts(value)
        if texts is None or not file.strip():
            odd.add(f"{where}: {file[:80]!r}", "it is neither a text nor a list of texts")
        else:
            sound.append((file, texts))
    kind = kind or guess_kind([text for _, texts in sound for text in texts], FORM.name, where)
    for file, texts in sound:
        texts = clean_tags(texts) if kind == TAGS else texts
        is_label = kind == TAGS and isinstance(content[file], str)
        row = Row(f"{where}: {file[:80]!r}", clean_file(file), kind, texts, is_label=is_label)
        table.rows.append(row)
    odd.report(len(table.rows), table.problems)
    return table


FORM = JsonForm("file_map", f"an object of files with {CAPTIONS} or {TAGS}", _matches, _read)
