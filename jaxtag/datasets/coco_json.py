"""Files in COCO's form: `{"images": [{"id", "file_name"}], "annotations": [{…}]}`.

An annotation is `{"image_id", "caption"}` or, of an object, `{"image_id", "category_id"}` with
`"categories": [{"id", "name"}]` in the file; https://cocodataset.org/#format-data. Ids meet by what
they say, whether as numbers or as texts. An odd entry goes to the problems, and the rest goes on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jaxtag.data.text import clean_name, clean_names, clean_path
from jaxtag.datasets.odd_entries import NotATableError, OddEntries, Problems
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


def read_coco_captions(content: Any, where: str, problems: Problems) -> list[CocoImage]:
    """Reads the images of the JSON of COCO captions in its order, with their captions.

    Captions of unknown images, and what is no caption, go to `problems` as (location in the file,
    reason).

    Args:
        where: Name of the file in messages.

    Raises:
        UserError: The file is not in COCO's form; says where.
    """
    images = _images(content, where, problems)
    odd, num_sound = OddEntries(), 0
    for location, annotation, image in _annotations(content, images, where, odd, problems):
        caption = annotation.get("caption")
        if not isinstance(caption, str):
            odd.add(location, 'it has no "caption"; is this the captions_*.json?')
            continue
        num_sound += 1
        if image is not None:
            image.captions.append(caption)
    odd.report(num_sound, problems)
    return list(images.values())


def read_coco_instances(
    content: Any, where: str, problems: Problems
) -> tuple[list[str], list[CocoImage]]:
    """Reads the JSON of objects: names of all categories in the order of their ids, and the images.

    A category of several objects of an image, crowds too, is among its tags several times. Names
    are clean and different (`clean_names`). Objects of unknown images or categories go to
    `problems`.

    Raises:
        UserError: The file is not in COCO's form; says where.
    """
    images = _images(content, where, problems)
    names = _categories(content, where, problems)
    odd, num_sound = OddEntries(), 0
    used: set[str | None] = set()
    for location, annotation, image in _annotations(content, images, where, odd, problems):
        category = _id(annotation.get("category_id"))
        tag = names.get(category) if category is not None else None
        if tag is None:
            odd.add(location, f'it has no "category_id" of a category: {_shown(annotation)}')
            continue
        num_sound += 1
        used.add(category)
        if not tag:
            raise UserError(
                f"{where}: the category with the id {category} has an empty name: give it one"
            )
        if image is not None:
            image.tags.append(tag)
    odd.report(num_sound, problems)
    placeholders = _placeholders(content) - used
    ordered = [names[key] for key in sorted(names, key=_id_order) if key not in placeholders]
    return clean_names(ordered), list(images.values())


def _categories(content: dict[str, Any], where: str, problems: Problems) -> dict[str, str]:
    """Id -> clean name, which may be empty."""
    odd = OddEntries()
    names: dict[str, str] = {}
    for location, category in _objects(content, "categories", where, odd):
        category_id, name = _id(category.get("id")), category.get("name")
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if category_id in names:
            raise UserError(f'{location} needs an "id" of its own and a "name"')
        if category_id is None or not isinstance(name, str):
            odd.add(location, 'it needs an "id" of its own and a "name"')
            continue
        names[category_id] = clean_name(name)
        if not names[category_id]:
            problems.append((location, "its name is empty"))
    odd.report(len(names), problems)
    return names


def _placeholders(content: dict[str, Any]) -> set[str | None]:
    """Ids of categories that stand for the whole data set: Roboflow writes one above all others."""
    categories = [c for c in content["categories"] if isinstance(c, dict)]
    parents = {str(c.get("supercategory")) for c in categories}
    return {
        _id(category.get("id"))
        for category in categories
        if category.get("supercategory") == "none" and category.get("name") in parents
    }


def _images(content: Any, where: str, problems: Problems) -> dict[str, CocoImage]:
    """The images of a file by their ids, without annotations."""
    if not isinstance(content, dict) or "images" not in content:
        raise NotATableError(f'{where}: not in COCO\'s form: it has no "images"')
    odd = OddEntries()
    images: dict[str, CocoImage] = {}
    for location, image in _objects(content, "images", where, odd):
        file, image_id = image.get("file_name"), _id(image.get("id"))
        if not isinstance(file, str) or not file.strip() or image_id is None:
            odd.add(location, 'it needs an "id" and a "file_name"')
        elif image_id in images:
            problems.append((location, f"the id {image_id} occurs twice"))
        else:
            images[image_id] = CocoImage(clean_path(image_id), clean_path(file))
    odd.report(len(images), problems)
    return images


def _annotations(
    content: dict[str, Any],
    images: dict[str, CocoImage],
    where: str,
    odd: OddEntries,
    problems: Problems,
) -> Iterator[tuple[str, dict[str, Any], CocoImage | None]]:
    """(location, annotation, its image); those of no image are problems and have None."""
    for location, annotation in _objects(content, "annotations", where, odd):
        image_id = _id(annotation.get("image_id"))
        image = images.get(image_id) if image_id is not None else None
        if image is None:
            shown = repr(annotation.get("image_id"))[:80]
            problems.append((location, f"there is no image with the id {shown}"))
        yield location, annotation, image


def _objects(
    content: dict[str, Any], key: str, where: str, odd: OddEntries
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(location, entry) of each object of a list; other entries are odd."""
    entries = content.get(key) or []
    if not isinstance(entries, list):
        raise NotATableError(f'{where}: "{key}" is not a list')
    for number, entry in enumerate(entries):
        location = f"{where}: {key}[{number}]"
        if isinstance(entry, dict):
            yield location, entry
        else:
            odd.add(location, "it is not an object")


def _id(value: object) -> str | None:
    """An id as a text, so that 1 and "1" are the same; None for what can be none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    return str(value).strip() or None


def _id_order(category_id: str) -> tuple[bool, int, str]:
    """Numbers in their order, then texts in theirs."""
    is_number = category_id.removeprefix("-").isdecimal() and len(category_id) < 20
    return not is_number, int(category_id) if is_number else 0, category_id


def _shown(annotation: dict[str, Any]) -> str:
    return repr(annotation.get("category_id"))[:80]
