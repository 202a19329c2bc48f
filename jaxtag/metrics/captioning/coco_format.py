"""Captions in COCO's file formats: reads results and references, and scores one by the other.

Results are a list of `{"image_id": …, "caption": …}`; references an object whose `annotations` are
such entries, several per image (other keys of the official files are ignored). Ids are integers or
strings; 7 and "7" are two images. The lines and the table of jaxtag.annotate are results too: their
files are found among the `images` of the references by name.
"""

import csv
import io
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxtag.data.spreadsheet import unescape_cell
from jaxtag.errors import UserError
from jaxtag.metrics import captioning
from jaxtag.metrics.captioning import unspaced
from jaxtag.storage import json_files
from jaxtag.storage.paths import make_path

Id = int | str


def load_results(path: str | Path, ids: Mapping[str, Id] | None = None) -> dict[Id, str]:
    """Reads a results file: from image id to its only caption.

    Args:
        path: JSON, or what jaxtag.annotate wrote: .jsonl or .csv.
        ids: file name -> image id, for what jaxtag.annotate wrote.

    Raises:
        UserError: the file cannot be read, an entry is malformed, or an image occurs twice.
    """
    if os.fspath(path).lower().endswith((".jsonl", ".ndjson", ".csv")):
        entries: Any = _annotated(path, ids or {})
    else:
        entries = _read(path)
    if not isinstance(entries, list):
        raise UserError(
            f'{path}: results must be a list of {{"image_id": …, "caption": …}}, '
            f"not {_kind(entries)}"
        )
    captions: dict[Id, str] = {}
    indices: dict[Id, int] = {}
    for index, entry in enumerate(entries):
        key, caption = _parse_entry(path, f"entry {index}", entry)
        if key in captions:
            raise UserError(
                f"{path}: image {key!r} has two captions (entries {indices[key]} and {index}); "
                "results hold one per image"
            )
        captions[key], indices[key] = caption, index
    if not captions:
        raise UserError(f"{path}: no captions in it")
    return captions


def load_references(path: str | Path) -> dict[Id, list[str]]:
    """Reads COCO's captions JSON: from image id to its captions.

    The images come in the order of `images`, as in coco-caption, or of `annotations` where `images`
    is absent. An image without a caption is left out.

    Raises:
        UserError: the file cannot be read or an entry is malformed.
    """
    return _references(path, _read(path))


def _references(path: str | Path, content: Any) -> dict[Id, list[str]]:
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise UserError(
            f'{path}: references must be COCO\'s captions JSON, an object with a list "annotations"'
        )
    captions: dict[Id, list[str]] = {}
    for index, entry in enumerate(annotations):
        key, caption = _parse_entry(path, f"annotation {index}", entry)
        captions.setdefault(key, []).append(caption)
    if not captions:
        raise UserError(f"{path}: no captions in it")
    images = content.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise UserError(f'{path}: "images" must be a list of objects')
    order = [image["id"] for image in images if isinstance(image.get("id"), int | str)]
    return {key: captions[key] for key in dict.fromkeys([*order, *captions]) if key in captions}


def score_files(results: str | Path, references: str | Path) -> dict[str, float]:
    """Scores the captions of one file against the references of another.

    As in coco-caption, every result must be for an image that has references, and images without a
    result do not count. Their number is printed to stderr and returned, since leaving out hard
    images raises every score.

    Returns:
        The metrics of `captioning.score`, then `images` (scored) and `images_without_result`.

    Raises:
        UserError: as `load_results` and `load_references`, and for results of unknown images.
    """
    content = _read(references)
    expected = _references(references, content)
    hypotheses = load_results(results, _ids_by_file(content))
    unknown = [key for key in hypotheses if key not in expected]
    if unknown:
        raise UserError(
            f"{results}: {len(unknown)} of {len(hypotheses)} images have no references in "
            f"{references}, e.g. image_id {unknown[0]!r}{_hint(unknown[0], expected)}"
        )
    missing = len(expected) - len(hypotheses)
    if missing:
        print(
            f"{results}: no caption for {missing} of the {len(expected)} images of "
            f"{references}; they are not scored",
            file=sys.stderr,
        )
    captions = [caption for group in expected.values() for caption in group]
    if warning := unspaced.describe([*captions, *hypotheses.values()]):
        print(f"warning: {references}: {warning}", file=sys.stderr)
    scores = captioning.score(hypotheses, expected)
    return {**scores, "images": len(hypotheses), "images_without_result": missing}


def _ids_by_file(content: Any) -> dict[str, Id]:
    """File name -> id of the images of references."""
    return {
        image["file_name"]: image["id"]
        for image in content.get("images", [])
        if isinstance(image.get("file_name"), str) and isinstance(image.get("id"), int | str)
    }


def _annotated(path: str | Path, ids: Mapping[str, Id]) -> list[dict[str, Any]]:
    """What jaxtag.annotate wrote as entries of results; an image that it could not read has none.

    Raises:
        UserError: a line is malformed, or its file is not one of the references.
    """
    by_name: dict[str, list[str]] = {}
    for name in ids:
        by_name.setdefault(_components(name)[-1], []).append(name)
    entries = []
    for where, row in _annotated_rows(path):
        if not isinstance(row, dict):
            raise UserError(f"{path}: {where} must be an object, not {_kind(row)}")
        file, caption = row.get("file"), row.get("caption")
        if "image_id" in row:
            entries.append(row)
        elif not isinstance(file, str):
            raise UserError(f'{path}: {where} needs a "file" or an "image_id"')
        elif caption or not row.get("error"):
            # The longest common ending: an annotated path has more folders than a name of COCO's.
            matches = [n for n in by_name.get(_components(file)[-1], ()) if _is_ending(n, file)]
            if not matches:
                raise UserError(
                    f"{path}: {where}: {file} is none of the images of the references, whose "
                    'files "images" names'
                )
            entries.append({"image_id": ids[max(matches, key=len)], "caption": caption})
    return entries


def _annotated_rows(path: str | Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of a table or of JSON lines."""
    text = _read_text(path)
    if os.fspath(path).lower().endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text, newline=""))
        for row in reader:
            cells = {name: unescape_cell(cell or "") for name, cell in row.items() if name}
            yield f"line {reader.line_num}", cells
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _parse(path, line)


def _is_ending(name: str, path: str) -> bool:
    """Whether a path ends with the components of `name`."""
    parts = _components(name)
    return _components(path)[-len(parts) :] == parts


def _components(path: str) -> list[str]:
    parts = unicodedata.normalize("NFC", path).replace("\\", "/").split("/")
    return [part for part in parts if part not in ("", ".")] or [""]


def _hint(key: Id, expected: dict[Id, list[str]]) -> str:
    """A hint for ids that differ in their type only."""
    if isinstance(key, int):
        other: Id = str(key)
    elif key.isdecimal():
        other = int(key)
    else:
        return ""
    if other not in expected:
        return ""
    return f" (they are for {other!r}: write the ids in both files alike)"


def _read(path: str | Path) -> Any:
    return _parse(path, _read_text(path))


def _read_text(path: str | Path) -> str:
    try:
        return make_path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from error


def _parse(path: str | Path, text: str) -> Any:
    return json_files.parse(text, path)


def _parse_entry(path: str | Path, where: str, entry: Any) -> tuple[Id, str]:
    if not isinstance(entry, dict):
        raise UserError(f"{path}: {where} must be an object, not {_kind(entry)}")
    key, caption = entry.get("image_id"), entry.get("caption")
    if not isinstance(key, int | str) or isinstance(key, bool):
        raise UserError(f'{path}: {where} needs an "image_id", a whole number or a text')
    if not isinstance(caption, str):
        raise UserError(f'{path}: {where} (image_id {key!r}) needs a "caption", a text')
    return key, caption


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "nothing" if value is None else "a number")
