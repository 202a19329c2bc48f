"""Parquet and Arrow files, as Hugging Face's `datasets` writes them, with images inside or not.

https://huggingface.co/docs/datasets/image_dataset (Parquet: `data/train-00000-of-00001.parquet`,
metadata.parquet beside images), https://huggingface.co/docs/datasets/process#save (`save_to_disk`:
dataset_dict.json, and in the folder of each split state.json, dataset_info.json and
data-00000-of-00001.arrow). Names of classes stand in the schema.
"""

import json
import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow

from jaxtag.data.text import clean_names
from jaxtag.datasets.annotations import Table
from jaxtag.datasets.embedded_images import (
    ArrowImages,
    EmbeddedImages,
    ParquetImages,
    image_column,
    open_parquet,
)
from jaxtag.datasets.forms.base import AnnotatedForm, Confidence, Evidence, split_of_path
from jaxtag.datasets.forms.objects import read_objects
from jaxtag.datasets.layout import SPLITS, split_in_name
from jaxtag.datasets.odd_entries import NotATableError
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.table_columns import (
    FILE,
    FILE_ID,
    GROUP,
    SPLIT,
    UNKNOWN,
    VALIDATION,
    any_text_column,
    column_name,
)
from jaxtag.datasets.text_files import read_json
from jaxtag.errors import UserError

_LOOKED_AT = 5  # files, until one has images
_NO_LABEL = -1  # of the hidden labels of a test split


class Parquet(AnnotatedForm):
    """Parquet files with images inside."""

    name = "parquet"
    title = "Parquet with images inside"
    ending = ".parquet"

    def detect(self, source: SourceFiles) -> Evidence | None:
        for name in _files(source, self.ending)[:_LOOKED_AT]:
            try:
                image_column(open_parquet(source, name).schema_arrow, name)
            except UserError:
                continue
            return Evidence(Confidence.SURE, name)
        return None

    def read(self, source: SourceFiles, kind: str | None) -> list[Table]:
        names = _files(source, self.ending)
        if not names:
            raise UserError(f"{source.path}: there is no {self.ending} file")
        return [self._read_file(source, name, kind) for name in names]

    def _open(self, source: SourceFiles, name: str) -> EmbeddedImages:
        return ParquetImages(source, name)

    def _read_file(self, source: SourceFiles, name: str, kind: str | None) -> Table:
        """The rows of a file, whose images become members of the source."""
        images = self._open(source, name)
        where, folder = source.where(name), name.removesuffix(self.ending) + "/"
        source.mount(images, folder)
        classes = _class_names(images.schema)
        others = [column for column in images.schema.names if column != images.column]
        columns = _meant_columns(others, where, kind, self.name)
        text = columns[0]
        rows = enumerate(zip(images.names, images.rows(columns), strict=True))
        hidden: list[tuple[str, str]] = []

        def entries() -> Iterator[tuple[str, dict[str, Any]]]:
            for number, (file, values) in rows:
                location = f"{where}, row {number}"
                if values[text] == _NO_LABEL and text in classes:
                    hidden.append((location, "its label is hidden"))
                elif file is None:
                    hidden.append((location, "it has no image"))
                else:
                    names = classes.get(text, [])
                    yield (
                        location,
                        {**values, "file": folder + file, text: _named(values[text], names)},
                    )

        table = read_objects(entries(), kind)
        for row in table.rows:
            row.path = row.file
        table.problems += hidden
        table.names = clean_names(classes.get(text, ()))
        table.path, table.form = name, self.name
        table.split = _split_of_file(name)
        return table


class SavedDataset(Parquet):
    """What `datasets.Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""

    name = "saved_dataset"
    title = "a saved dataset of Hugging Face"
    ending = ".arrow"

    def detect(self, source: SourceFiles) -> Evidence | None:
        names = _files(source, self.ending)
        return Evidence(Confidence.SURE, names[0]) if names else None

    def _open(self, source: SourceFiles, name: str) -> EmbeddedImages:
        return ArrowImages(source, name)


def read_parquet_table(source: SourceFiles, name: str, kind: str | None) -> Table:
    """Reads a table of annotations that is kept as Parquet, such as metadata.parquet.

    Raises:
        UserError: It is damaged. NotATableError: It has images inside, or none of the columns.
    """
    where = source.where(name)
    file = open_parquet(source, name)
    try:
        image_column(file.schema_arrow, where)
    except NotATableError:
        columns = _meant_columns(file.schema_arrow.names, where, kind, "table")
        files = [c for c in file.schema_arrow.names if column_name(c) in FILE + FILE_ID]
        classes = _class_names(file.schema_arrow).get(columns[0], [])
        batches = file.iter_batches(batch_size=4096, columns=[*columns, *files])
        values = (row for batch in batches for row in batch.to_pylist())
        table = read_objects(
            (
                (f"{where}, row {n}", {**row, columns[0]: _named(row[columns[0]], classes)})
                for n, row in enumerate(values)
            ),
            kind,
        )
        table.names = clean_names(classes)
        return table
    raise NotATableError(f"{where}: it has images inside: --as=parquet reads it")


def _meant_columns(columns: list[str], where: str, kind: str | None, form: str) -> list[str]:
    """The columns to read: that of captions or tags, and then those of splits and groups."""
    names = {column_name(column): column for column in columns}
    text = any_text_column(names, where, kind, form)
    if text is None:
        text = "objects" if "objects" in names else None
    if text is None:
        present = ", ".join(map(repr, columns)) or "nothing else"
        raise NotATableError(f"{where}: no column 'caption' or 'tags'; there is {present}")
    others = (*SPLIT, *VALIDATION, *GROUP, *UNKNOWN)
    return [names[text], *(names[name] for name in others if name in names and name != text)]


def _class_names(schema: pyarrow.Schema) -> dict[str, list[str]]:
    """Column -> the names of its numbers, of the features that `datasets` keeps in a schema."""
    try:
        stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = stored["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    names = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        while isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
            feature = feature["feature"]  # of a list
        feature = feature[0] if isinstance(feature, list) and feature else feature
        listed = feature.get("names") if isinstance(feature, dict) else None
        if isinstance(listed, list) and all(isinstance(name, str) for name in listed):
            names[column] = listed
    return names


def _named(value: Any, names: list[str]) -> Any:
    """A value with the names of its numbers."""
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    return value


def _split_of_file(name: str) -> str | None:
    """The split of a file: that of its folder or its name, or the folder itself, for an error."""
    split = split_of_path(name) or split_in_name(name)
    folder = posixpath.basename(posixpath.dirname(name))
    is_saved_split = name.endswith(SavedDataset.ending) and folder and folder not in SPLITS
    return split or (folder if is_saved_split else None)


def _files(source: SourceFiles, ending: str) -> list[str]:
    """The files of a form; of a saved data set those that its states name, without its caches."""
    names = [name for name in source.names() if name.lower().endswith(ending)]
    stated: list[str] = []
    for state in source.find("state.json") if ending == SavedDataset.ending else ():
        content = read_json(source, state)
        files = content.get("_data_files") if isinstance(content, dict) else None
        for entry in files if isinstance(files, list) else ():
            file = entry.get("filename") if isinstance(entry, dict) else None
            if isinstance(file, str):
                stated.append(posixpath.join(posixpath.dirname(state), file))
    return [name for name in stated if name in source] or names
