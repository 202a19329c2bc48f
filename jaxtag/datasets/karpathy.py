"""The split files of Karpathy and Fei-Fei (dataset_coco.json, dataset_flickr8k.json).

Deep Visual-Semantic Alignments for Generating Image Descriptions, CVPR 2015, section 4.
"""

from dataclasses import dataclass
from typing import Any

from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import read_json
from jaxtag.errors import UserError

_SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
_MAX_ID = 10**12  # file names of COCO have 12 digits


@dataclass(frozen=True)
class Entry:
    """One image of a split file; `folder` and `coco_id` are COCO's ("" and None elsewhere)."""

    split: str
    file: str
    folder: str
    coco_id: int | None
    captions: tuple[str, ...]


def read_karpathy(source: SourceFiles, name: str) -> list[Entry]:
    """Reads all entries of a split file.

    Raises:
        UserError: It is not in that form.
    """
    content = read_json(source, name)
    try:
        return [_entry(image) for image in content["images"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{source.where(name)} is not a split file of Karpathy: {type(error).__name__} {error}"
        ) from error


def _entry(image: dict[str, Any]) -> Entry:
    """An entry. Raises KeyError, TypeError or AttributeError where a field is not as it should."""
    coco_id = image.get("cocoid")
    if coco_id is not None and (type(coco_id) is not int or not 0 <= coco_id < _MAX_ID):
        raise TypeError(f"cocoid {str(coco_id)[:80]!r} is no number of an image")
    return Entry(
        split=_SPLITS[image["split"]],
        file=_text(image["filename"]),
        folder=_text(image.get("filepath", "")),
        coco_id=coco_id,
        captions=tuple(_text(sentence["raw"]) for sentence in image["sentences"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:80]!r} is no text")
    return value
