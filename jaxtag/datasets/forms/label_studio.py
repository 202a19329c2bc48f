"""Label Studio's exports: JSON (tasks with results), JSON-MIN (values only) and cells of its CSV.

https://labelstud.io/guide/task_format and https://labelstud.io/guide/export. Files that were
uploaded are called `/data/upload/PROJECT/HASH-name.jpg`, files of local storage
`/data/local-files/?d=path/name.jpg`.
"""

import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

from jaxtag.datasets.annotations import CAPTIONS, TAGS, Row, Table, clean_file, clean_tags
from jaxtag.datasets.forms.base import JsonForm, choose_kind, dict_entries
from jaxtag.datasets.layout import is_image_name
from jaxtag.datasets.odd_entries import OddEntries
from jaxtag.datasets.table_columns import FILE, is_caption_column

# Fields of JSON-MIN that are not annotations.
_MIN_MARKS = ("annotation_id", "annotator", "lead_time")
_MIN_OTHERS = (*_MIN_MARKS, "id", "created_at", "updated_at", "agreement", "file_upload")
_LABELS = re.compile(r".*labels|choices|taxonomy")
_CAPTIONS = ("text", "textarea")


def _matches(content: Any) -> bool:
    return any(
        isinstance(entry.get("data"), dict) and ("annotations" in entry or "completions" in entry)
        for entry in dict_entries(content)
    )


def _matches_min(content: Any) -> bool:
    return any(sum(mark in entry for mark in _MIN_MARKS) > 1 for entry in dict_entries(content))


class _Task:
    """The annotations of an image: captions, tags, and whether the tags are one choice."""

    def __init__(self, location: str, file: str):
        self.location, self.file = location, file
        self.captions: list[str] = []
        self.tags: list[str] = []
        self.are_choices = True

    def add(self, name: str, value: Any) -> None:
        """Adds what a result or a field of the name holds; shapes without names have nothing."""
        if isinstance(value, dict):
            for key, item in value.items():
                self.add(key, item)
        elif name in _CAPTIONS or is_caption_column(name):
            self.captions += _strings(value)
        elif _LABELS.fullmatch(name):
            self.tags += clean_tags(_strings(value))
            self.are_choices &= name == "choices"
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for item in value:
                self.add(name, item if isinstance(item, dict) else {})


def _strings(value: Any) -> Iterator[str]:
    """The texts in a value; of a taxonomy, whose choices are paths, the last of each."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            path = item if isinstance(item, list) else [item]
            yield from (text for text in path[-1:] if isinstance(text, str))


def file_of_url(url: str) -> str:
    """The path that a URL of Label Studio or of a store stands for."""
    address, _, query = url.strip().partition("?")
    if "local-files" in address and query:
        return clean_file(urllib.parse.parse_qs(query).get("d", [""])[0])
    if "://" in address:
        return clean_file(urllib.parse.unquote(address.partition("://")[2]))
    return clean_file(urllib.parse.unquote(address) if "/data/upload/" in address else url)


def _file(data: dict[str, Any]) -> str:
    """The image of a task; "" without one."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    for key in (*(key for key in texts if key.lower() in FILE), *texts):
        file = file_of_url(texts[key])
        if key.lower() in FILE or is_image_name(file):
            return file
    return ""


def _read(content: Any, where: str, kind: str | None) -> Table:
    tasks: list[_Task] = []
    table, odd, num_several = Table(), OddEntries(), 0
    for number, entry in enumerate(content):
        location = f"{where}, entry {number}"
        data = entry.get("data") if isinstance(entry, dict) else None
        file = _file(data) if isinstance(data, dict) else ""
        if not file:
            odd.add(location, 'it has no image in "data"')
            continue
        annotations = entry.get("annotations") or entry.get("completions")
        listed = annotations if isinstance(annotations, list) else []
        sound = [a for a in listed if isinstance(a, dict) and not a.get("was_cancelled")]
        if not sound:
            table.problems.append((location, f"{file} was not annotated, or skipped"))
            continue
        num_several += len(sound) > 1
        task = _Task(location, file)
        results = min(sound, key=lambda a: not a.get("ground_truth")).get("result")
        for result in results if isinstance(results, list) else []:
            task.add("", result.get("value") if isinstance(result, dict) else None)
        tasks.append(task)
    if num_several:
        table.warnings.append(
            f"{where}: {num_several:,} images were annotated several times: the annotation marked "
            "as ground truth is read, or else the first"
        )
    return _finish(table, tasks, odd, where, kind)


def _read_min(content: Any, where: str, kind: str | None) -> Table:
    tasks: dict[str, _Task] = {}
    table, odd = Table(), OddEntries()
    for number, entry in enumerate(content):
        location = f"{where}, entry {number}"
        file = _file(entry) if isinstance(entry, dict) else ""
        if not file:
            odd.add(location, "it has no image")
        elif file in tasks:
            table.problems.append((location, f"{file} was annotated before: the first is read"))
        else:
            task = tasks[file] = _Task(location, file)
            for key, value in entry.items():
                if key not in _MIN_OTHERS and key.lower() not in FILE:
                    # A single choice is a text, under the name that the user gave the control.
                    name = (
                        key if is_caption_column(key) or not isinstance(value, str) else "choices"
                    )
                    task.add(name, value)
    return _finish(table, list(tasks.values()), odd, where, kind)


def _finish(
    table: Table, tasks: list[_Task], odd: OddEntries, where: str, kind: str | None
) -> Table:
    has_captions = any(task.captions for task in tasks)
    has_tags = any(task.tags for task in tasks)
    kind = choose_kind(has_captions, has_tags, kind, FORM.name, where)
    for task in tasks:
        texts = task.captions if kind == CAPTIONS else task.tags
        is_label = kind == TAGS and task.are_choices
        table.rows.append(Row(task.location, task.file, kind, texts, is_label=is_label))
    odd.report(len(table.rows), table.problems)
    return table


FORM = JsonForm("label_studio", "a Label Studio export", _matches, _read)
MIN_FORM = JsonForm(FORM.name, "a Label Studio export (JSON-MIN)", _matches_min, _read_min)
