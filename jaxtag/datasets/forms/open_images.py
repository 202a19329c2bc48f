"""Open Images' CSVs: labels of images that people verified, or boxes, beside some of the images.

https://storage.googleapis.com/openimages/web/download_v7.html: columns ImageID, Source, LabelName
and Confidence, 1 for a label that is there and 0 for one that is not, whatever else being unknown;
names of labels in class-descriptions.csv. Of millions of rows those of images that are here count.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxtag.data.text import clean_name
from jaxtag.datasets.annotations import TAGS, Row, Table
from jaxtag.datasets.archives import ReadError
from jaxtag.datasets.csv_tables import text_lines
from jaxtag.datasets.forms.base import AnnotatedForm, Confidence, Evidence
from jaxtag.datasets.layout import is_image_name, split_in_name
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import read_text
from jaxtag.errors import UserError

_COLUMNS = ("ImageID", "LabelName", "Confidence")
_MACHINE = "machine"
# Unknown tags of all images together; with more, what was not verified counts as absent.
_MAX_UNKNOWN = 50_000_000


@dataclass
class _Labels:
    """The labels of an image by their identifiers."""

    location: str
    split: str | None
    present: dict[str, None] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)


class OpenImages(AnnotatedForm):
    """CSVs of labels by image."""

    name = "open_images"
    title = "Open Images' CSVs"

    def detect(self, source: SourceFiles) -> Evidence | None:
        names = _label_files(source)
        return Evidence(Confidence.SURE, names[0]) if names else None

    def read(self, source: SourceFiles, kind: str | None) -> list[Table]:
        del kind  # tags only
        files = _label_files(source)
        if not files:
            raise UserError(f"{source.path}: there is no CSV with {', '.join(_COLUMNS)}")
        images = {
            name.rpartition("/")[2].partition(".")[0]: name
            for name in source.names()
            if is_image_name(name)
        }
        table = Table(path=", ".join(files), form=self.name)
        labels: dict[str, _Labels] = {}
        for file in files:
            _read_labels(source, file, images, labels, table)
        names = _descriptions(source)
        self._add_rows(table, labels, images, names)
        return [table]

    def _add_rows(
        self,
        table: Table,
        labels: dict[str, _Labels],
        images: dict[str, str],
        names: dict[str, str],
    ) -> None:
        used = {label for entry in labels.values() for label in (*entry.present, *entry.absent)}
        has_absent = any(entry.absent for entry in labels.values())
        is_masked = has_absent and len(used) * len(labels) <= _MAX_UNKNOWN
        if has_absent and not is_masked:
            table.warnings.append(
                f"{len(used):,} tags of {len(labels):,} images are too many to mask those that "
                "nobody verified: they count as absent"
            )
        ordered = sorted(used)
        for image_id, entry in labels.items():
            verified = entry.absent | set(entry.present)
            unknown = [label for label in ordered if label not in verified] if is_masked else []
            path = images[image_id]
            table.rows.append(
                Row(
                    entry.location,
                    path,
                    TAGS,
                    [names.get(label, label) for label in entry.present],
                    entry.split or split_in_name(path.rpartition("/")[0]),
                    unknown=[names.get(label, label) for label in unknown],
                    path=path,
                )
            )


def _label_files(source: SourceFiles) -> list[str]:
    """The CSVs of labels; those that a machine made and nobody verified only without others."""
    names = [name for name in source.names() if name.lower().endswith(".csv")]
    names = [name for name in names if set(_COLUMNS) <= set(_header(source, name))]
    verified = [name for name in names if _MACHINE not in name.rpartition("/")[2]]
    return verified or names


def _header(source: SourceFiles, name: str) -> list[str]:
    try:
        start = source.read_prefix(name, 4096)
    except ReadError:
        return []
    return start.decode("utf-8-sig", "replace").partition("\n")[0].strip().split(",")


def _rows(source: SourceFiles, name: str) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of each row."""
    reader = csv.reader(text_lines(read_text(source, name)))
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise UserError(f"{source.where(name)}, line {reader.line_num}: {error}") from error


def _read_labels(
    source: SourceFiles,
    name: str,
    images: dict[str, str],
    labels: dict[str, _Labels],
    table: Table,
) -> None:
    rows = _rows(source, name)
    _, header = next(rows)
    image_index, label_index, confidence_index = map(header.index, _COLUMNS)
    where, split = source.where(name), split_in_name(name)
    elsewhere: set[str] = set()
    for line, fields in rows:
        if len(fields) != len(header):
            table.problems.append((f"{where}, line {line}", f"{len(fields)} fields"))
            continue
        image_id, label = fields[image_index], fields[label_index]
        if image_id not in images:
            elsewhere.add(image_id)
            continue
        entry = labels.get(image_id)
        if entry is None:
            entry = labels[image_id] = _Labels(f"{where}, line {line}", split)
        if _is_present(fields[confidence_index]):
            entry.present[label] = None
        else:
            entry.absent.add(label)
    if elsewhere:
        table.problems.append((where, f"{len(elsewhere):,} images that it names are not here"))


def _is_present(confidence: str) -> bool:
    try:
        return float(confidence) >= 0.5
    except ValueError:
        return False


def _descriptions(source: SourceFiles) -> dict[str, str]:
    """Identifier of a label -> its name, of class-descriptions.csv."""
    names: dict[str, str] = {}
    for name in source.names():
        base = name.rpartition("/")[2].lower()
        if "class-descriptions" in base and base.endswith(".csv"):
            pairs = (fields[:2] for _, fields in _rows(source, name) if len(fields) > 1)
            names |= {label: cleaned for label, text in pairs if (cleaned := clean_name(text))}
    return names
