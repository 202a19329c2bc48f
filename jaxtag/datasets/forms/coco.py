"""COCO's JSON of captions or objects, of one's own or as Roboflow exports it.

https://cocodataset.org/#format-data; Roboflow's "COCO JSON" is `_annotations.coco.json` in the
folder of each split (https://roboflow.com/formats/coco-json).
"""

from typing import Any

from jaxtag.datasets.annotations import CAPTIONS, TAGS, Row, Table, clean_file
from jaxtag.datasets.coco_json import read_coco_captions, read_coco_instances
from jaxtag.datasets.forms.base import JsonForm


def _read(content: Any, where: str, kind: str | None) -> Table:
    table = Table()
    kind = kind or (TAGS if _holds_instances(content) else CAPTIONS)
    if kind == TAGS:
        table.names, images = read_coco_instances(content, where, table.problems)
        if not any(image.tags for image in images):
            table.warnings.append(f"{where}: there are no annotations of any category")
    else:
        images = read_coco_captions(content, where, table.problems)
    for image in images:
        texts = image.tags if kind == TAGS else image.captions
        location = f"{where}, image {image.id}"
        table.rows.append(Row(location, clean_file(image.file), kind, texts, image_id=image.id))
    return table


def _holds_instances(content: object) -> bool:
    """Whether a file in COCO's form is one of objects, not of captions."""
    if not isinstance(content, dict) or not content.get("categories"):
        return False
    annotations = content.get("annotations")
    objects = (
        [a for a in annotations if isinstance(a, dict)] if isinstance(annotations, list) else []
    )
    return not any("caption" in annotation for annotation in objects[:100])


# Whatever is an object and nothing else is read as COCO's, whose errors say what it lacks.
FORM = JsonForm("coco", "COCO's JSON", lambda content: True, _read)
