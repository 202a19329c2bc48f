"""Files that hold all annotations of a data set or split: CSV, JSON, JSON-lines, CVAT's XML."""

from jaxtag.datasets.annotations import Table
from jaxtag.datasets.csv_tables import read_csv
from jaxtag.datasets.forms.cvat import read_cvat
from jaxtag.datasets.forms.json_forms import json_form
from jaxtag.datasets.forms.objects import read_json_lines
from jaxtag.datasets.forms.parquet import read_parquet_table
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import read_json
from jaxtag.errors import UserError

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
# `image,caption` as Kaggle's Flickr8k and Flickr30k have it, and CVAT's export.
_OTHERS = ("captions.txt", "annotations.xml")


def is_table(name: str) -> bool:
    """Whether a file name may be one of captions or tags."""
    return name.lower().endswith(_SUFFIXES) or name.lower().rpartition("/")[2] in _OTHERS


def read_table(source: SourceFiles, name: str, kind: str | None = None) -> Table:
    """Reads a table of captions or tags, by the suffix of its name and its content.

    Args:
        kind: CAPTIONS or TAGS: which of them to read where there are both.

    Raises:
        UserError: It is malformed; names the file, the line and, for columns, the nearest name.
            NotATableError: It holds no annotations of images.
    """
    suffix = name.lower().rpartition(".")[2]
    if suffix in ("csv", "tsv", "txt"):
        table = read_csv(source, name, "\t" if suffix == "tsv" else None, kind)
    elif suffix in ("jsonl", "ndjson"):
        table = read_json_lines(source, name, kind)
    elif suffix == "json":
        content = read_json(source, name)
        form = json_form(content)
        table = form.read(content, source.where(name), kind)
        table.form = form.name
    elif suffix == "parquet":
        table = read_parquet_table(source, name, kind)
    elif suffix == "xml":
        table = read_cvat(source, name)
    else:
        raise UserError(f"{source.where(name)}: tables are read from {', '.join(_SUFFIXES)}")
    table.path = name
    return table
