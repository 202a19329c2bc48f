"""Files in COCO's form: `{"images": [{"id", "file_name"}], "annotations": [{…}]}`.

An annotation is `{"image_id", "caption"}` or, of an object, `{"image_id", "category_id"}` with
`"categories": [{"id", "name"}]` in the file; https://cocodataset.org/#format-data.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jaxtag.datasets.archives import SourceFiles
from jaxtag.datasets.text_files import read_json
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
    """An entry of `images`, with its annotations: captions, or names of categories."""

    id: str
    file: str
    captions: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


def read_coco_json(
    source: SourceFiles, name: str, problems: list[tuple[str, str]]
) -> list[CocoImage]:
    """Reads the images of a COCO caption file in its order, with their captions.

    Captions of unknown images go to `problems` as (location in the file, reason).

    Raises:
        UserError: The file is not in COCO's form; says where.
    """
    where = source.where(name)
    content = read_json(source, name)
    images = _images(content, where, problems)
    for location, annotation, image in _annotations(content, images, where, problems):
        caption = annotation.get("caption")
        if not isinstance(caption, str):
            raise UserError(f'{location} has no "caption"; is this the captions_*.json?')
        if image is not None:
            image.captions.append(caption)
    return list(images.values())


def read_coco_instances(
    source: SourceFiles, name: str, problems: list[tuple[str, str]]
) -> tuple[list[str], list[CocoImage]]:
    """Reads a file of objects: names of all categories in the order of their ids, and the images.

    A category of several objects of an image, crowds too, is among its tags several times.
    Objects of unknown images go to `problems`.

    Raises:
        UserError: The file is not in COCO's form; says where.
    """
    where = source.where(name)
    content = read_json(source, name)
    images = _images(content, where, problems)
    names: dict[Any, str] = {}
    for number, category in enumerate(_objects(content, "categories", where)):
        category_id, category_name = category.get("id"), category.get("name")
        is_complete = isinstance(category_id, int) and isinstance(category_name, str)
        if not is_complete or category_id in names:
            raise UserError(f'{where}: categories[{number}] needs an "id" of its own and a "name"')
        names[category_id] = str(category_name)
    for location, annotation, image in _annotations(content, images, where, problems):
        tag = names.get(annotation.get("category_id"))
        if tag is None:
            raise UserError(f'{location} has no "category_id" of a category')
        if image is not None:
            image.tags.append(tag)
    return [names[category_id] for category_id in sorted(names)], list(images.values())


def _images(
    content: Any, where: str, problems: list[tuple[str, str]]
) -> dict[int | str, CocoImage]:
    """The images of a file by their ids, without annotations."""
    if not isinstance(content, dict) or "images" not in content:
        raise UserError(f'{where}: not in COCO\'s form: it has no "images"')
    images: dict[int | str, CocoImage] = {}
    for number, image in enumerate(_objects(content, "images", where)):
        file, image_id = image.get("file_name"), image.get("id")
        if not isinstance(file, str) or not isinstance(image_id, int | str):
            raise UserError(f'{where}: images[{number}] needs an "id" and a "file_name"')
        if image_id in images:
            problems.append((f"{where}: images[{number}]", f"the id {image_id} occurs twice"))
            continue
        images[image_id] = CocoImage(str(image_id), file)
    return images


def _annotations(
    content: dict[str, Any],
    images: dict[int | str, CocoImage],
    where: str,
    problems: list[tuple[str, str]],
) -> Iterator[tuple[str, dict[str, Any], CocoImage | None]]:
    """(location, annotation, its image); those of no image are problems and have None."""
    for number, annotation in enumerate(_objects(content, "annotations", where)):
        location = f"{where}: annotations[{number}]"
        image_id = annotation.get("image_id")
        image = images.get(image_id) if isinstance(image_id, int | str) else None
        if image is None:
            problems.append((location, f"there is no image with the id {image_id}"))
        yield location, annotation, image


def _objects(content: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    entries = content.get(key, [])
    if not isinstance(entries, list):
        raise UserError(f'{where}: "{key}" is not a list')
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{where}: {key}[{number}] is not an object")
    return entries
