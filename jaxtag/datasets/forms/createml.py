"""Create ML's JSON: `[{"image": "a.jpg", "annotations": [{"label": "dog", "coordinates"}]}]`.

https://developer.apple.com/documentation/createml/building-an-object-detector-data-source;
Roboflow's export is `_annotations.createml.json` in the folder of each split.
"""

from typing import Any

from jaxtag.datasets.annotations import TAGS, Row, Table, clean_file, clean_tags
from jaxtag.datasets.forms.base import JsonForm, dict_entries
from jaxtag.datasets.odd_entries import OddEntries

_FILE = ("image", "imagefilename", "filename")


def _matches(content: Any) -> bool:
    return any(
        _file(entry) and dict_entries(entry.get("annotations")) and "data" not in entry
        for entry in dict_entries(content)
    )


def _file(entry: dict[str, Any]) -> str:
    return next((entry[key] for key in _FILE if isinstance(entry.get(key), str)), "")


def _read(content: Any, where: str, kind: str | None) -> Table:
    del kind  # tags only
    table, odd = Table(), OddEntries()
    for number, entry in enumerate(content):
        location = f"{where}, entry {number}"
        annotations = entry.get("annotations", []) if isinstance(entry, dict) else None
        if not isinstance(annotations, list) or not _file(entry).strip():
            odd.add(location, 'it needs an "image" and a list "annotations"')
            continue
        labels = [a.get("label") if isinstance(a, dict) else None for a in annotations]
        texts = [label for label in labels if isinstance(label, str)]
        if len(texts) < len(labels):
            table.problems.append((location, 'an annotation without "label" is left out'))
        table.rows.append(Row(location, clean_file(_file(entry)), TAGS, clean_tags(texts)))
    odd.report(len(table.rows), table.problems)
    return table


FORM = JsonForm("createml", "Create ML's JSON", _matches, _read)
