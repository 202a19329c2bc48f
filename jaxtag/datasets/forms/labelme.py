"""LabelMe: a JSON file beside each image, `{"shapes": [{"label"}], "flags": {}, "imagePath"}`.

https://github.com/wkentaro/labelme: flags that are true are the classes of the image as a whole.
"""

import json
import posixpath
from typing import Any

from jaxtag.datasets.annotations import TAGS, Row, Table, clean_file, clean_tags
from jaxtag.datasets.forms.base import (
    AnnotatedForm,
    Confidence,
    Evidence,
    dict_entries,
    images_by_stem,
    split_of_path,
)
from jaxtag.datasets.odd_entries import OddEntries
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import read_json
from jaxtag.errors import UserError

_LOOKED_AT = 20


class Labelme(AnnotatedForm):
    """A JSON file of shapes for each image."""

    name = "labelme"
    title = "LabelMe's JSON"

    def detect(self, source: SourceFiles) -> Evidence | None:
        for name in _json_files(source)[:_LOOKED_AT]:
            if b'"imagePath"' in source.read_prefix(name, 1 << 20) or _is_labelme(source, name):
                return Evidence(Confidence.SURE, name)
        return None

    def read(self, source: SourceFiles, kind: str | None) -> list[Table]:
        del kind  # tags only
        table, odd = Table(path="the JSON files"), OddEntries()
        images = images_by_stem(source)
        for name in _json_files(source):
            try:
                content = read_json(source, name)
            except UserError as error:
                odd.add(name, str(error).removeprefix(f"{name}: "))
                continue
            if not _has_shapes(content):
                odd.add(name, 'it has no "shapes"')
                continue
            flags = content.get("flags")
            flags = flags if isinstance(flags, dict) else {}
            shapes = [shape.get("label") for shape in content["shapes"] if isinstance(shape, dict)]
            labels = [label for label in shapes if isinstance(label, str)]
            labels += [flag for flag, is_set in flags.items() if is_set is True]
            written = content.get("imagePath")
            file = clean_file(written) if isinstance(written, str) else ""
            path = images.get(name.rpartition(".")[0]) or _beside(source, name, file)
            tags, split = clean_tags(labels), split_of_path(name)
            table.rows.append(Row(name, path or file or name, TAGS, tags, split, path=path))
        odd.report(len(table.rows), table.problems)
        return [table]


def _beside(source: SourceFiles, name: str, file: str) -> str | None:
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), file))
    return path if file and path in source else None


def _json_files(source: SourceFiles) -> list[str]:
    return [name for name in source.names() if name.lower().endswith(".json")]


def _has_shapes(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def _is_labelme(source: SourceFiles, name: str) -> bool:
    try:
        content = read_json(source, name) if source.size(name) < 1 << 24 else None
    except (UserError, json.JSONDecodeError):
        return False
    return isinstance(content, dict) and bool(dict_entries(content.get("shapes")))
