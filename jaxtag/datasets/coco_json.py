"""Files in COCO's form: `{"images": [{"id", "file_name"}], "annotations": [{…}]}`.

An annotation is `{"image_id", "caption"}` or, of an object, `{"image_id", "category_id"}` with
`"categories": [{"id", "name"}]` in the file; https://cocodataset.org/#format-data.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jaxtag.datasets.archives import MAX_TEXT_BYTES, ReadError, Store
from jaxtag.errors import UserError

# MD5 of the official archives.
MD5 = {
    "train2014.zip": "0da8cfa0e090c266b78f30e2d2874f1a",
    "val2014.zip": "a3d79f5ed8d289b7a7554ce06a5782b3",
    "annotations_trainval2014.zip": "0a379cfc70b0e71301e0f377548639bd",
    "train2017.zip": "cced6f7f71b7629ddf16f17bbcfab6b2",
    "val2017.zip": "442b8da7639aecaf257c1dceb8ba8c80",
    "annotations_trainval2017.zip": "f4bbac642086de4f52a3fdda2de5fa2c",
}


@dataclass
class CocoImage:
    """An entry of `images`, with what `annotations` say of it: captions, or names of categories."""

    id: str
    file: str
    captions: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


def read_text(store: Store, name: str) -> str:
    """A text file of a user in UTF-8, with or without a byte order mark.

    Raises:
        UserError: it cannot be read, or is in another encoding (names the line).
    """
    try:
        data = store.read(name, MAX_TEXT_BYTES)
    except ReadError as error:
        raise UserError(f"{store.where(name)}: {error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{store.where(name)}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); "
            "save the file as UTF-8"
        ) from error


def read_json(store: Store, name: str) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it cannot be read, or is no JSON (names the line).
    """
    text = read_text(store, name)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{store.where(name)}, line {error.lineno}: no JSON: {error.msg}; "
            "is the file cut short?"
        ) from error
    except RecursionError as error:
        raise UserError(f"{store.where(name)}: no JSON of captions: nested too deeply") from error


def read_coco_json(store: Store, name: str, problems: list[tuple[str, str]]) -> list[CocoImage]:
    """The images of a COCO caption file in its order, with their captions.

    Captions of unknown images go to `problems` as (place in the file, reason).

    Raises:
        UserError: the file is not in COCO's form; says where.
    """
    where = store.where(name)
    content = read_json(store, name)
    images = _images(content, where, problems)
    for place, annotation, image in _annotations(content, images, where, problems):
        caption = annotation.get("caption")
        if not isinstance(caption, str):
            raise UserError(f'{place} has no "caption"; is this the captions_*.json?')
        if image is not None:
            image.captions.append(caption)
    return list(images.values())


def read_coco_instances(
    store: Store, name: str, problems: list[tuple[str, str]]
) -> tuple[list[str], list[CocoImage]]:
    """The names of all categories by their ids, and the images of a file of objects, in its order.

    A category of several objects of an image, crowds too, is among its tags several times.
    Objects of unknown images go to `problems`.

    Raises:
        UserError: the file is not in COCO's form; says where.
    """
    where = store.where(name)
    content = read_json(store, name)
    images = _images(content, where, problems)
    names = {}
    for number, category in enumerate(_objects(content, "categories", where)):
        key, text = category.get("id"), category.get("name")
        if not isinstance(key, int) or not isinstance(text, str) or key in names:
            raise UserError(f'{where}: categories[{number}] needs an "id" of its own and a "name"')
        names[key] = text
    for place, annotation, image in _annotations(content, images, where, problems):
        tag = names.get(annotation.get("category_id"))
        if tag is None:
            raise UserError(f'{place} has no "category_id" of a category')
        if image is not None:
            image.tags.append(tag)
    return [names[key] for key in sorted(names)], list(images.values())


def _images(
    content: Any, where: str, problems: list[tuple[str, str]]
) -> dict[int | str, CocoImage]:
    """The images of a file by their ids, nothing said of them yet."""
    if not isinstance(content, dict) or "images" not in content:
        raise UserError(f'{where}: not in COCO\'s form: it has no "images"')
    images: dict[int | str, CocoImage] = {}
    for number, image in enumerate(_objects(content, "images", where)):
        file, key = image.get("file_name"), image.get("id")
        if not isinstance(file, str) or not isinstance(key, int | str):
            raise UserError(f'{where}: images[{number}] needs an "id" and a "file_name"')
        if key in images:
            problems.append((f"{where}: images[{number}]", f"the id {key} occurs twice"))
            continue
        images[key] = CocoImage(str(key), file)
    return images


def _annotations(
    content: dict, images: dict, where: str, problems: list[tuple[str, str]]
) -> Iterator[tuple[str, dict, CocoImage | None]]:
    """(place in the file, annotation, its image); those of no image are problems and have None."""
    for number, annotation in enumerate(_objects(content, "annotations", where)):
        place = f"{where}: annotations[{number}]"
        key = annotation.get("image_id")
        image = images.get(key) if isinstance(key, int | str) else None
        if image is None:
            problems.append((place, f"there is no image with the id {key}"))
        yield place, annotation, image


def _objects(content: dict, key: str, where: str) -> list[dict]:
    entries = content.get(key, [])
    if not isinstance(entries, list):
        raise UserError(f'{where}: "{key}" is not a list')
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{where}: {key}[{number}] is not an object")
    return entries
