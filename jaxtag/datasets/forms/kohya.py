"""A text file beside each image, with its caption or its tags, as kohya's sd-scripts train on.

https://github.com/kohya-ss/sd-scripts/blob/main/docs/train_README-en.md: `10_name/a.png` with
`a.txt` or `a.caption`; tags are separated by commas. img2dataset's form "files" is the same.
"""

import re
from collections import Counter

from jaxtag.datasets.annotations import CAPTIONS, TAGS, Row, Table, clean_tags
from jaxtag.datasets.archives import ReadError
from jaxtag.datasets.forms.base import (
    AnnotatedForm,
    Confidence,
    Evidence,
    guess_kind,
    split_of_path,
)
from jaxtag.datasets.forms.yolo import is_label_text
from jaxtag.datasets.layout import is_image_name
from jaxtag.datasets.odd_entries import OddEntries
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import UserError

_ENDINGS = (".txt", ".caption")
_REPEATS = re.compile(r"\d+_.+")  # 10_name: how often an image is repeated, and of what it is
_MIN_SHARE = 0.5
_LOOKED_AT = 50
_MAX_BYTES = 1 << 20


class Kohya(AnnotatedForm):
    """A text file beside each image."""

    name = "kohya"
    title = "a text file beside each image"

    def detect(self, source: SourceFiles) -> Evidence | None:
        texts = _texts(source)
        num_images = sum(map(is_image_name, source.names()))
        if not texts or len(texts) < _MIN_SHARE * num_images:
            return None
        samples = list(texts.values())[:_LOOKED_AT]
        if any(is_label_text(_read(source, name) or "") for name in samples):
            return None
        folders = {name.split("/")[-2] for name in texts if "/" in name}
        is_named = bool(folders) and all(_REPEATS.fullmatch(folder) for folder in folders)
        return Evidence(Confidence.SURE if is_named else Confidence.LIKELY, samples[0])

    def read(self, source: SourceFiles, kind: str | None) -> list[Table]:
        table, odd = Table(path="the text files"), OddEntries()
        contents: dict[str, str] = {}
        texts = _texts(source)
        if not texts:
            raise UserError(f"{source.path}: no image has a text file beside it")
        for image, name in texts.items():
            text = _read(source, name)
            if text is None:
                odd.add(name, "it cannot be read as a text in UTF-8")
            else:
                contents[image] = text
        kind = kind or _kind(list(contents.values()), str(source.path))
        for image, text in contents.items():
            lines = [line for line in text.splitlines() if line.strip()]
            values = clean_tags(text.replace("\n", ",").split(",")) if kind == TAGS else lines
            split = split_of_path(image)
            table.rows.append(Row(texts[image], image, kind, values, split, path=image))
        odd.report(len(table.rows), table.problems)
        return [table]


def _texts(source: SourceFiles) -> dict[str, str]:
    """Image -> the text file beside it."""
    texts = {}
    for image in source.names():
        if is_image_name(image) and not _is_in_tar(source, image):
            stem = image.rpartition(".")[0]
            beside = (stem + ending for ending in _ENDINGS)
            text = next((name for name in beside if name in source), None)
            if text is not None:
                texts[image] = text
    return texts


def _is_in_tar(source: SourceFiles, name: str) -> bool:
    archive = source.archive_of(name)
    return archive is not None and archive.suffix.lower() != ".zip"


def _read(source: SourceFiles, name: str) -> str | None:
    try:
        return source.read(name, _MAX_BYTES).decode("utf-8-sig")
    except (ReadError, UnicodeDecodeError):
        return None


def _kind(texts: list[str], where: str) -> str:
    """TAGS where texts are short names between commas that come again, or else by their words."""
    parts = [[part.strip().lower() for part in text.split(",")] for text in texts]
    counts = Counter(part for names in parts for part in set(names) if part)
    several = sum(len(names) > 2 for names in parts)
    mean_words = sum(len(part.split()) for part in counts) / max(len(counts), 1)
    is_repeated = len(texts) < 3 or counts.total() > 1.2 * len(counts)
    if 2 * several > len(texts) and mean_words <= 3 and is_repeated:
        return TAGS
    lines = [line for text in texts for line in text.splitlines()]
    kind = guess_kind(lines, Kohya.name, where)
    return kind if kind == CAPTIONS or several == 0 else TAGS
