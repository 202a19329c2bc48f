"""Finds the form that a source is in, and lists its images; refuses to guess between several."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from jaxtag.datasets.annotated_listing import count_located, list_tables
from jaxtag.datasets.annotations import CAPTIONS, Table
from jaxtag.datasets.base import Listing
from jaxtag.datasets.class_folders import list_class_folders
from jaxtag.datasets.forms.base import Confidence, Evidence, LayoutForm
from jaxtag.datasets.forms.label_maps import name_numbers
from jaxtag.datasets.forms.registry import (
    CLASS_FOLDERS,
    FALLBACK_FORMS,
    LAYOUT_FORMS,
    TABLE_FORMS,
    FormChoice,
    layout_form,
)
from jaxtag.datasets.forms.tables import TableReader
from jaxtag.datasets.forms.unknown_layout import unknown_layout
from jaxtag.datasets.layout import is_image_name
from jaxtag.datasets.odd_entries import NotATableError
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import UserError

# A table of tags that names fewer of the images in class folders is not what they are read by.
_MIN_COVERAGE = 0.5
# Tables by the names that tools give them.
_TITLES = {
    "_annotations.coco.json": "a Roboflow COCO export",
    "_annotations.createml.json": "a Roboflow Create ML export",
    "_annotations.csv": "a Roboflow table of objects",
    "_classes.csv": "a Roboflow multi-label export",
    "metadata.csv": "a Hugging Face imagefolder",
    "metadata.jsonl": "a Hugging Face imagefolder",
    "metadata.parquet": "a Hugging Face imagefolder",
}


def list_own_images(source: SourceFiles, choice: FormChoice) -> Listing:
    """Lists the images of a source in the form that it is in, or that the user says it is in.

    Returns:
        The listing; its `form` says what the source looks like.

    Raises:
        UserError: It is in no form, or may be in several.
    """
    form = layout_form(choice.name)
    if form is not None:
        listing = form.list_images(source, choice.kind)
    elif choice.name is not None:
        reader = TableReader(source, choice.name, choice.kind)
        listing = list_own_tables(source, _required(reader))
    else:
        listing = _detected(source)
    return listing


def list_own_tables(source: SourceFiles, tables: list[Table]) -> Listing:
    """Lists the images of tables."""
    names = ", ".join(table.path for table in tables)
    name_numbers(source, tables)
    listing = list_tables(source, tables, f"own data, {names}")
    listing.form = _described(_title(tables), _shown(table.path for table in tables), listing)
    return listing


def _required(reader: TableReader) -> list[Table]:
    tables = reader.read()
    if tables:
        return tables
    if reader.refused:
        raise reader.refused[0]
    raise UserError(f"{reader.source.path}: there is no such file at its top")


@dataclass
class _Tables:
    """The tables of a source, read at most once.

    Attributes:
        tables: Those that were read.
        refused: Errors of files that are none.
        are_about_images: Whether they name as many images that they and not folders are meant.
    """

    tables: list[Table] = field(default_factory=list)
    refused: list[NotATableError] = field(default_factory=list)
    are_about_images: bool = False

    @classmethod
    def of(cls, source: SourceFiles) -> "_Tables":
        reader = TableReader(source)
        tables = reader.read()
        return cls(tables, reader.refused, bool(tables) and _are_about_images(source, tables))


def _detected(source: SourceFiles) -> Listing:
    layouts = _fitting(source, LAYOUT_FORMS)
    sure = [entry for entry in layouts if entry[1].confidence == Confidence.SURE]
    if sure:
        return _list_layout(source, sure, _tables_beside(source))
    own = _Tables.of(source)
    if own.are_about_images:
        return _list_layout(source, layouts, own)
    folders = list_class_folders(source, strict=bool(own.tables or own.refused))
    if folders is not None and layouts:
        seen = Evidence(Confidence.LIKELY, "the names of the folders")
        _refuse_several(source, [*layouts, (CLASS_FOLDERS, seen)], [])
    if folders is None and own.tables:
        return list_own_tables(source, own.tables)
    # Folders that are called after dates are those of an archive, whose photos may have keywords.
    if not layouts and (folders is None or folders.doubts):
        layouts = _fitting(source, FALLBACK_FORMS)
    if layouts:
        listing = _list_layout(source, layouts, own)
        listing.problems += [_as_problem(error) for error in own.refused]
        return listing
    if folders is not None:
        return _class_folders(source, folders, own)
    if own.refused:
        raise own.refused[0]
    raise UserError(unknown_layout(source))


def _fitting(source: SourceFiles, forms: Sequence[LayoutForm]) -> list[tuple[LayoutForm, Evidence]]:
    """The forms that the source may be in, with what says so."""
    return [(form, evidence) for form in forms if (evidence := form.detect(source))]


def _class_folders(source: SourceFiles, listing: Listing, own: _Tables) -> Listing:
    """The listing of class folders, which says why tables are not used."""
    listing.form = _described(CLASS_FOLDERS.title, "", listing)
    listing.problems += [_as_problem(error) for error in own.refused]
    for table in own.tables:
        listing.problems.append((table.path, "the folders of classes are used, not this table"))
        listing.warnings.append(
            f"{table.path} names few of the images, and the folders of classes are used: "
            f"--source={source.path / table.path} takes the table"
        )
    return listing


def _as_problem(error: NotATableError) -> tuple[str, str]:
    location, _, reason = str(error).partition(": ")
    return location, reason


def _tables_beside(source: SourceFiles) -> _Tables:
    """The tables beside the files of a tool, whose own files may look like tables."""
    try:
        return _Tables.of(source)
    except UserError:
        return _Tables()


def _list_layout(
    source: SourceFiles, layouts: list[tuple[LayoutForm, Evidence]], own: _Tables
) -> Listing:
    """Lists the one of several forms that fits, or the tables; refuses where several fit."""
    tables = own.tables if own.are_about_images else []
    if len(layouts) + bool(tables) > 1:
        _refuse_several(source, layouts, tables)
    if tables:
        return list_own_tables(source, tables)
    form, evidence = layouts[0]
    listing = form.list_images(source, None)
    listing.form = _described(form.title, evidence.seen, listing)
    return listing


def _refuse_several(
    source: SourceFiles, layouts: list[tuple[LayoutForm, Evidence]], tables: list[Table]
) -> None:
    """Raises UserError with the forms that fit."""
    fitting = [(form.name, f"{form.title} ({evidence.seen})") for form, evidence in layouts]
    if tables:
        shown = _shown(table.path for table in tables)
        fitting.append((tables[0].form, f"{_title(tables)} ({shown})"))
    titles = " and like ".join(title for _, title in fitting)
    names = " or ".join(f"--as={name}" for name, _ in fitting)
    raise UserError(f"{source.path} looks like {titles}: say which it is with {names}")


def _are_about_images(source: SourceFiles, tables: list[Table]) -> bool:
    num_located = count_located(source, tables)
    if any(row.kind == CAPTIONS for table in tables for row in table.rows):
        return num_located > 0
    return num_located >= _MIN_COVERAGE * sum(map(is_image_name, source.names()))


def _title(tables: list[Table]) -> str:
    base = tables[0].path.rpartition("/")[2].lower()
    return _TITLES.get(base) or TABLE_FORMS[tables[0].form]


def _shown(names: Iterator[str]) -> str:
    first, *others = names
    return f"{first} and {len(others)} more" if others else first


def _described(title: str, seen: str, listing: Listing) -> str:
    """What a source looks like, in a line without its end."""
    splits = len(listing.splits)
    images = sum(map(len, listing.splits.values()))
    counts = [f"{splits} split{'s' * (splits != 1)}", f"{images:,} image{'s' * (images != 1)}"]
    for name, noun in (("label", "classes"), ("tags", "tags")):
        feature = listing.features.get(name)
        if feature is not None:
            counts.append(f"{len(getattr(feature, 'feature', feature).names):,} {noun}")
            break
    if "captions" in listing.features:
        captions = sum(len(i.fields["captions"]) for s in listing.splits.values() for i in s)
        counts.append(f"{captions:,} caption{'s' * (captions != 1)}")
    return f"{title}{f' ({seen})' if seen else ''}: {', '.join(counts)}"
