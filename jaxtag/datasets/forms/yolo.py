"""YOLO: data.yaml with names and splits, and a text file of objects for each image.

https://docs.ultralytics.com/datasets/detect/: `images/…/a.jpg` has its objects in
`labels/…/a.txt`, a line each that starts with the number of the class; an image without one has
none. Exports of Label Studio and darknet's have the names in classes.txt or obj.names instead.
"""

import re
from typing import Any

import yaml

from jaxtag.data.text import clean_name, clean_path
from jaxtag.datasets.annotations import TAGS, Row, Table
from jaxtag.datasets.archives import ReadError
from jaxtag.datasets.forms.base import AnnotatedForm, Confidence, Evidence, split_of_path
from jaxtag.datasets.layout import SPLITS, is_image_name
from jaxtag.datasets.odd_entries import OddEntries
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import read_lines, read_text
from jaxtag.errors import UserError

_LINE = re.compile(r"\d+( -?[\d.]+(e-?\d+)?){4,}")
_NAMES = ("obj.names", "classes.txt", "classes.names", "predefined_classes.txt")
_LOOKED_AT = 1000  # images, until one has labels
_MAX_YAML_BYTES = 1 << 20
_MAX_LABEL_BYTES = 16 << 20
_MAX_CLASSES = 1_000_000


class Yolo(AnnotatedForm):
    """data.yaml (or a list of names), and labels in text files."""

    name = "yolo"
    title = "a YOLO data set"

    def detect(self, source: SourceFiles) -> Evidence | None:
        described = _yaml_file(source) or _names_file(source)
        images = _images(source)[:_LOOKED_AT]
        if described is None or not any(_labels_of(source, image) for image in images):
            return None
        return Evidence(Confidence.SURE, described)

    def read(self, source: SourceFiles, kind: str | None) -> list[Table]:
        del kind  # tags only
        described = _yaml_file(source)
        content = _read_yaml(source, described) if described else {}
        listed = _names_file(source)
        if not described and listed is None:
            raise UserError(f"{source.path}: there is neither a data.yaml nor a list of names")
        names = _names(content, described or "")
        if not names and listed is not None:
            names = dict(enumerate(map(clean_name, read_lines(source, listed))))
        table, odd = Table(path=described or listed or ""), OddEntries()
        table.names = [names[number] for number in sorted(names)]
        folders = _split_folders(source, content)
        for image in _images(source):
            split = folders.split_of(image)
            if folders.are_named and split is None:
                table.problems.append((image, f"{described} has it in no split"))
                continue
            labels = _labels_of(source, image)
            try:
                tags = _read_labels(source, labels, names) if labels else []
            except (UserError, ReadError) as error:
                odd.add(labels or image, str(error))
                continue
            table.rows.append(Row(labels or image, image, TAGS, tags, split, path=image))
        odd.report(len(table.rows), table.problems)
        return [table]


def _images(source: SourceFiles) -> list[str]:
    return [name for name in source.names() if is_image_name(name)]


def _yaml_file(source: SourceFiles) -> str | None:
    """The shallowest YAML file that has names of classes."""
    names = [name for name in source.names() if name.lower().endswith((".yaml", ".yml"))]
    for name in sorted(names, key=lambda name: (name.count("/"), name))[:20]:
        try:
            content = _read_yaml(source, name)
        except UserError:
            continue
        if "names" in content and ("train" in content or "val" in content or "nc" in content):
            return name
    return None


def _names_file(source: SourceFiles) -> str | None:
    return source.first(*_NAMES)


def _read_yaml(source: SourceFiles, name: str) -> dict[str, Any]:
    if source.size(name) > _MAX_YAML_BYTES:
        raise UserError(f"{source.where(name)}: larger than a description of a data set may be")
    text = read_text(source, name)
    try:
        # Aliases of aliases grow without limit where they are walked: no description needs any.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise UserError(f"{source.where(name)}: YAML with aliases is refused")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = str(error).replace("\n", " ")
        raise UserError(f"{source.where(name)}: no YAML: {line}") from error
    return content if isinstance(content, dict) else {}


def _names(content: dict[str, Any], where: str) -> dict[int, str]:
    """Number of a class -> its name."""
    names = content.get("names") or {}
    entries = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(entries, dict) or len(entries) > _MAX_CLASSES:
        raise UserError(f'{where}: "names" is neither a list nor an object of numbers')
    try:
        return {int(number): clean_name(str(name)) for number, name in entries.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f'{where}: "names" has a key that is no number: {error}') from error


def _labels_of(source: SourceFiles, image: str) -> str | None:
    """The file of an image's objects: in labels/ where the image is in images/, or beside it."""
    stem = image.rpartition(".")[0]
    before, slash, after = f"/{stem}".rpartition("/images/")
    candidates = [f"{before}/labels/{after}.txt".lstrip("/")] if slash else []
    candidates += [f"{stem}.txt", f"labels/{stem.rpartition('/')[2]}.txt"]
    return next((name for name in candidates if name in source and name not in _NAMES), None)


def _read_labels(source: SourceFiles, name: str, names: dict[int, str]) -> list[str]:
    lines = source.read(name, _MAX_LABEL_BYTES).decode("ascii", "replace").splitlines()
    tags: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        first = line.split(maxsplit=1)[0] if line.strip() else ""
        if first and not (first.isdecimal() and len(first) < 10):
            raise UserError(f"line {number} does not start with the number of a class")
        if first:
            if int(first) not in names:
                raise UserError(f"line {number} has the class {first}, which has no name")
            tags[names[int(first)]] = None
    return list(tags)


class _SplitFolders:
    """The folders and lists of files that data.yaml names for each split."""

    def __init__(self) -> None:
        self.folders: dict[str, str] = {}
        self.files: dict[str, str] = {}

    @property
    def are_named(self) -> bool:
        return bool(self.folders or self.files)

    def split_of(self, image: str) -> str | None:
        """The split of an image: listed, in a named folder, or in one called after a split."""
        if image in self.files:
            return self.files[image]
        inside = [folder for folder in self.folders if f"/{image}".find(f"/{folder}/") >= 0]
        if inside:
            return self.folders[max(inside, key=len)]
        return None if self.are_named else split_of_path(image)


def _split_folders(source: SourceFiles, content: dict[str, Any]) -> _SplitFolders:
    splits = _SplitFolders()
    for key in ("train", "val", "valid", "validation", "test"):
        values = content.get(key)
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not value.strip():
                continue
            path = "/".join(
                p for p in clean_path(value).replace("\\", "/").split("/") if p.strip(".")
            )
            if path.lower().endswith(".txt"):
                for listed in source.find(path)[:1]:
                    images = (source.locate(line) for line in read_lines(source, listed))
                    splits.files |= {found[0]: SPLITS[key] for found in images if found}
            elif folder := _known_folder(source, path):
                splits.folders[folder] = SPLITS[key]
    return splits


def _known_folder(source: SourceFiles, path: str) -> str | None:
    """The longest ending of a path that is a folder of the source."""
    parts = path.split("/")
    names = [f"/{name}" for name in _images(source)]
    for start in range(len(parts)):
        folder = "/".join(parts[start:])
        if any(f"/{folder}/" in name for name in names):
            return folder
    return None


def is_label_text(text: str) -> bool:
    """Whether a text is one of objects: numbers only."""
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and all(_LINE.fullmatch(line.strip()) for line in lines)
