"""The split files of Karpathy and Fei-Fei (dataset_coco.json, dataset_flickr8k.json).

Deep Visual-Semantic Alignments for Generating Image Descriptions, CVPR 2015, section 4.
"""

from dataclasses import dataclass

from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import read_json
from jaxtag.errors import UserError

_SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}


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
        return [
            Entry(
                split=_SPLITS[image["split"]],
                file=image["filename"],
                folder=image.get("filepath", ""),
                coco_id=image.get("cocoid"),
                captions=tuple(sentence["raw"] for sentence in image["sentences"]),
            )
            for image in content["images"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{source.where(name)} is not a split file of Karpathy: {type(error).__name__} {error}"
        ) from error
