"""CVAT for images 1.1: `<annotations><image name><tag label/><box label/>…` in one file.

https://docs.cvat.ai/docs/manual/advanced/xml_format/. The names of labels stand in <meta>; an
export of a project has the split of an image as its `subset`.
"""

from xml.etree.ElementTree import Element

from jaxtag.data.text import clean_names
from jaxtag.datasets.annotations import TAGS, Row, Table, clean_file, clean_tags
from jaxtag.datasets.forms.base import FileForm
from jaxtag.datasets.layout import SPLITS
from jaxtag.datasets.odd_entries import NotATableError, OddEntries
from jaxtag.datasets.safe_xml import child_text, root_children, root_name
from jaxtag.datasets.source_files import SourceFiles

ROOT = "annotations"
FORM = FileForm("cvat", "a CVAT export")


def read_cvat(source: SourceFiles, name: str) -> Table:
    """Reads the images of an export.

    Raises:
        UserError: It is no XML. NotATableError: It is in another form.
    """
    where = source.where(name)
    if root_name(source, name) != ROOT:
        raise NotATableError(f"{where}: not in CVAT's form: its root is not <{ROOT}>")
    table, odd = Table(form=FORM.name), OddEntries()
    for number, child in enumerate(root_children(source, name)):
        if child.tag == "meta":
            table.names = clean_names(child_text(label, "name") for label in child.iter("label"))
        elif child.tag == "track":
            odd.add(f"{where}, element {number}", "a track of a film: export its frames as images")
        elif child.tag == "image":
            file = clean_file(child.get("name") or "")
            location = f"{where}, image {child.get('id') or number}"
            if file:
                table.rows.append(_row(location, file, child))
            else:
                odd.add(location, "the name of the image is empty")
    odd.report(len(table.rows), table.problems)
    return table


def _row(location: str, file: str, image: Element) -> Row:
    labels = [shape.get("label") or "" for shape in image]
    subset = (image.get("subset") or "").lower()
    is_label = all(shape.tag == "tag" for shape in image)
    split = subset if subset in SPLITS else None
    return Row(location, file, TAGS, clean_tags(labels), split, is_label=is_label)
