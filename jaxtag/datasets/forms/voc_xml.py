"""One's own Pascal VOC: an XML file for each image, as labelImg, Roboflow and others write it.

`<annotation><filename/><object><name/></object></annotation>` in Annotations/ with the images in
JPEGImages/ and the splits in ImageSets/Main/{train,val,test}.txt, or beside the images;
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/, sections 2 and 3.
"""

import posixpath

from jaxtag.datasets.annotations import TAGS, Row, Table, clean_file, clean_tags
from jaxtag.datasets.forms.base import (
    AnnotatedForm,
    Confidence,
    Evidence,
    images_by_stem,
    split_of_path,
)
from jaxtag.datasets.layout import SPLITS
from jaxtag.datasets.odd_entries import OddEntries
from jaxtag.datasets.safe_xml import child_text, root_children, root_name
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import read_lines
from jaxtag.errors import UserError

_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "img")
_LOOKED_AT = 20  # files, until one is found


class VocXml(AnnotatedForm):
    """An XML file of objects for each image."""

    name = "voc"
    title = "Pascal VOC's XML"

    def detect(self, source: SourceFiles) -> Evidence | None:
        for name in _xml_files(source)[:_LOOKED_AT]:
            if root_name(source, name) == "annotation":
                return Evidence(Confidence.SURE, name)
        return None

    def read(self, source: SourceFiles, kind: str | None) -> list[Table]:
        del kind  # tags only
        table, odd = Table(path="the XML files"), OddEntries()
        images, splits = images_by_stem(source), _image_sets(source)
        for name in _xml_files(source):
            if root_name(source, name) != "annotation":
                continue
            try:
                file, tags = _read_annotation(source, name)
            except UserError as error:
                odd.add(source.where(name), str(error).removeprefix(f"{source.where(name)}: "))
                continue
            path = _image_of(source, images, name, file)
            stem = name.rpartition("/")[2].rpartition(".")[0]
            split = splits.get(stem) or split_of_path(name)
            if splits and not split:
                table.problems.append((name, "ImageSets/Main has it in no split"))
                continue
            table.rows.append(Row(name, path or file or stem, TAGS, tags, split, path=path))
        odd.report(len(table.rows), table.problems)
        return [table]


def _xml_files(source: SourceFiles) -> list[str]:
    return [name for name in source.names() if name.lower().endswith(".xml")]


def _read_annotation(source: SourceFiles, name: str) -> tuple[str, list[str]]:
    """The name of the image, and the names of its objects."""
    file, tags = "", []
    for child in root_children(source, name):
        if child.tag == "filename":
            file = (child.text or "").strip()
        elif child.tag == "object":
            tags.append(child_text(child, "name"))
    return clean_file(file), clean_tags(tags)


def _image_of(source: SourceFiles, by_stem: dict[str, str], name: str, file: str) -> str | None:
    """The image of an XML file: beside it or in the folder of images, by either's name."""
    folder, base = posixpath.split(name)
    above = posixpath.dirname(folder)
    stem = base.rpartition(".")[0]
    folders = (folder, *(posixpath.join(above, name) for name in _IMAGE_FOLDERS))
    for parent in folders:
        path = posixpath.join(parent, file)
        if file and path in source:
            return path
        if posixpath.join(parent, stem) in by_stem:
            return by_stem[posixpath.join(parent, stem)]
    return None


def _image_sets(source: SourceFiles) -> dict[str, str]:
    """Stem of an image -> its split, of ImageSets/Main."""
    splits: dict[str, str] = {}
    for name in source.names():
        folder, base = posixpath.split(name)
        split = SPLITS.get(base.lower().removesuffix(".txt"))
        if split and folder.lower().endswith("imagesets/main"):
            splits |= {line.split()[0]: split for line in read_lines(source, name)}
    return splits
