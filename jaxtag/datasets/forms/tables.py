"""The files of annotations in a source: at its top, or one in the folder of each split."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtag.datasets.annotated_listing import count_located
from jaxtag.datasets.annotation_tables import is_table, read_table
from jaxtag.datasets.annotations import Table
from jaxtag.datasets.forms.label_maps import is_label_map
from jaxtag.datasets.layout import split_and_rest, split_in_name
from jaxtag.datasets.odd_entries import NotATableError
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import UserError

# Annotations that come beside captions in COCO's folders; objects are read where nothing else is.
_INSTANCES = "instances_"
_IGNORED = (
    *("person_keypoints_", "panoptic_", "stuff_", "image_info_"),
    *("sample_submission", "dataset-metadata.", "dataset_infos."),
)


@dataclass(frozen=True)
class _File:
    """A file that may be a table: its path, the split of its folder, and that folder."""

    path: str
    split: str | None = None
    folder: str = ""


class TableReader:
    """Reads the tables of a source.

    Args:
        form: Name of the form that they must be in; any by default.
        kind: CAPTIONS or TAGS, for tables that have both.

    Attributes:
        source: The source.
        refused: The errors of files that are no tables of images, or in another form.
    """

    def __init__(self, source: SourceFiles, form: str | None = None, kind: str | None = None):
        self.source, self._form, self._kind = source, form, kind
        self.refused: list[NotATableError] = []
        self._errors: list[tuple[_File, UserError]] = []

    def read(self) -> list[Table]:
        """The tables at the top of the source or, without any, in the folders of its splits.

        Raises:
            UserError: There are several that are no splits.
        """
        names = [name for name in self.source.names() if is_table(name)]
        base = _common_folder(self.source.names())
        at_top = [
            _File(name)
            for name in names
            if name.removeprefix(base).removeprefix("annotations/").count("/") == 0
            and not _base_name(name).startswith(_IGNORED)
        ]
        is_instances = {file: _base_name(file.path).startswith(_INSTANCES) for file in at_top}
        tables = self._readable([file for file in at_top if not is_instances[file]])
        tables = tables or self._readable([file for file in at_top if is_instances[file]])
        self._settle_errors(tables)
        tables = [table for table in tables if not is_label_map(table, tables)]
        if len(tables) > 1:
            splits = [split_in_name(table.path) for table in tables]
            are_splits = None not in splits and len(set(splits)) == len(splits)
            naming = [table for table in tables if count_located(self.source, [table])]
            if not are_splits and len(naming) == 1:  # beside lists of classes, examples of answers
                return naming
            if not are_splits:
                raise UserError(
                    f"{self.source.path} has several files that may hold captions or tags: "
                    f"{', '.join(table.path for table in tables)}. Give one with --source=FILE, or "
                    "name them after splits (train.csv, val.csv)"
                )
            for table, split in zip(tables, splits, strict=True):
                table.split = split
        return tables or self._read_splits(base, names)

    def _read_splits(self, base: str, names: list[str]) -> list[Table]:
        """Reads the tables in the folders of the splits, one each: train/captions.csv."""
        candidates: dict[str, list[_File]] = {}
        for name in names:
            folder, _, file = name.removeprefix(base).partition("/")
            split, rest = split_and_rest(folder)
            if split and not rest and file and "/" not in file and not file.startswith(_IGNORED):
                candidates.setdefault(split, []).append(_File(name, split, f"{base}{folder}/"))
        tables: list[Table] = []
        for split, files in candidates.items():
            readable = self._readable(files)
            if len(readable) > 1:
                raise UserError(
                    f"{self.source.path} has several files of captions or tags in {split}: "
                    f"{', '.join(table.path for table in readable)}: leave one"
                )
            tables += readable
        self._settle_errors(tables)
        return tables

    def _settle_errors(self, tables: list[Table]) -> None:
        """Raises the error of a malformed table, unless it is beside one that is read."""
        for file, error in self._errors:
            if not tables or file.split or split_in_name(file.path):
                raise error
            tables[0].warnings.append(f"{file.path} is not used: {error}")
        self._errors.clear()

    def _readable(self, files: list[_File]) -> list[Table]:
        tables = []
        for file in files:
            try:
                table = read_table(self.source, file.path, self._kind)
                if self._form not in (None, table.form):
                    raise NotATableError(f"{file.path}: in the form {table.form}, not {self._form}")
            except NotATableError as error:
                self.refused.append(error)
            except UserError as error:
                self._errors.append((file, error))
            else:
                table.split, table.folder = file.split, file.folder
                tables.append(table)
        return tables


def _common_folder(names: Sequence[str]) -> str:
    """The single folder at the top, with a slash, or ""."""
    tops = {name.split("/")[0] for name in names if "/" in name}
    is_single = len(tops) == 1 and all("/" in name for name in names)
    return f"{tops.pop()}/" if is_single else ""


def _base_name(path: str) -> str:
    return path.rpartition("/")[2].lower()
