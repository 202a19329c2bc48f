"""WebDataset: tars in which the files of an example lie together, `KEY.jpg`, `KEY.cls`, `KEY.txt`.

https://github.com/webdataset/webdataset#the-webdataset-format: the key is the path up to the first
dot of the name. `cls` is a number or a name of a class (classnames.txt may name the numbers), `txt`
a caption, `json` an object with fields such as "caption" or "label". Shards are named after their
split (train-000000.tar) or lie in its folder.
"""

from collections import Counter
from typing import Any

from jaxtag.datasets.annotations import CAPTIONS, TAGS, Row, Table, clean_tags
from jaxtag.datasets.archives import ReadError
from jaxtag.datasets.forms.base import (
    AnnotatedForm,
    Confidence,
    Evidence,
    choose_kind,
    split_of_path,
)
from jaxtag.datasets.forms.objects import read_objects
from jaxtag.datasets.layout import is_image_name, split_in_name
from jaxtag.datasets.odd_entries import OddEntries
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import parse_json, read_lines
from jaxtag.errors import UserError

_CAPTIONS, _CLASSES, _OBJECT = ("txt", "caption"), ("cls", "cls.txt"), "json"
_CLASS_NAMES = ("classnames.txt", "classes.txt")
_MAX_BYTES = 16 << 20
_MIN_SHARE = 0.5


class WebDataset(AnnotatedForm):
    """Tars with the files of an example beside each other."""

    name = "webdataset"
    title = "a WebDataset"

    def detect(self, source: SourceFiles) -> Evidence | None:
        examples = _examples(source)
        annotated = sum(len(parts) > 1 for parts in examples.values())
        if not examples or annotated < _MIN_SHARE * len(examples):
            return None
        image = next(iter(examples.values()))["image"]
        archive = source.archive_of(image)
        return Evidence(Confidence.SURE, archive.name if archive else image)

    def read(self, source: SourceFiles, kind: str | None) -> list[Table]:
        examples = _examples(source)
        if not examples:
            raise UserError(f"{source.path}: there are no tars with images")
        endings = Counter(ending for parts in examples.values() for ending in parts)
        has_captions = any(endings[ending] for ending in _CAPTIONS)
        has_classes = any(endings[ending] for ending in _CLASSES)
        wanted: tuple[str, ...] = (_OBJECT,)
        if has_captions or has_classes:
            kind = choose_kind(has_captions, has_classes, kind, self.name, str(source.path))
            wanted = _CAPTIONS if kind == CAPTIONS else _CLASSES
        table, odd = Table(path="the tars"), OddEntries()
        names = _class_names(source)
        for key, parts in examples.items():
            name = next((parts[ending] for ending in wanted if ending in parts), None)
            if name is None:
                odd.add(parts["image"], f"it has no {' or '.join(wanted)} beside it")
                continue
            try:
                row = _row(source, key, parts["image"], name, kind, names)
            except (ReadError, UserError, ValueError) as error:
                odd.add(name, str(error).removeprefix(f"{name}: "))
                continue
            table.rows.append(row)
        odd.report(len(table.rows), table.problems)
        if names and any(row.kind == TAGS for row in table.rows):
            table.names = clean_tags(names)
        return [table]


def _row(
    source: SourceFiles, key: str, image: str, name: str, kind: str | None, names: list[str]
) -> Row:
    text = source.read(name, _MAX_BYTES).decode("utf-8-sig")
    if name.endswith(f".{_OBJECT}"):
        content: Any = parse_json(text)
        fields = {**content, "file": image} if isinstance(content, dict) else content
        (row,) = read_objects([(name, fields)], kind).rows
    elif kind == CAPTIONS:
        row = Row(name, image, CAPTIONS, [line for line in text.splitlines() if line.strip()])
    else:
        label = text.strip()
        if label.isdecimal() and int(label[:9]) < len(names):
            label = names[int(label)]
        row = Row(name, image, TAGS, clean_tags([label]), is_label=True)
    archive = source.archive_of(image)
    row.split = row.split or (split_in_name(archive.name) if archive else None)
    row.split = row.split or split_of_path(key)
    row.path = image
    return row


def _examples(source: SourceFiles) -> dict[str, dict[str, str]]:
    """Key -> {"image": its path, other endings: their paths}, of the files in tars."""
    parts: dict[str, dict[str, str]] = {}
    for name in source.names():
        archive = source.archive_of(name)
        if archive is not None and archive.suffix.lower() != ".zip":
            folder, slash, base = name.rpartition("/")
            stem, _, ending = base.partition(".")
            kind = "image" if is_image_name(name) else ending.lower()
            parts.setdefault(folder + slash + stem, {}).setdefault(kind, name)
    return {key: endings for key, endings in parts.items() if "image" in endings}


def _class_names(source: SourceFiles) -> list[str]:
    name = source.first(*_CLASS_NAMES)
    return read_lines(source, name) if name else []
