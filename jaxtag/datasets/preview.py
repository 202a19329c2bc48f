"""A picture of what a prepared data set holds, for a look before anything is trained on it."""

from pathlib import Path
from typing import Any

from jaxtag.data.decode import decode
from jaxtag.data.sources import Source
from jaxtag.viz.contact_sheet import contact_sheet

EXAMPLES = "examples.png"
_COUNT = 16
_MIN_SIZE = 240  # pixels of the shorter side: enough for the sheet


def draw(folder: Path, split: str) -> Path:
    """Writes some records of a split, as they come, with what they say, to `folder/examples.png`.

    Under a picture stand its first caption, its class or its tags and, in grey, its other captions
    or the tags of which nothing is known.

    Args:
        folder: of a prepared data set, `DATA_DIR/<dataset>/<version>`.
        split: one with at least one record, as all that were prepared have.
    """
    source = Source(folder, split)
    records = source.__getitems__(range(min(_COUNT, len(source))))
    pictures = [decode(record["image"], min_size=_MIN_SIZE) for record in records]
    features = source.features
    said = [_said(record, features) for record in records]
    path = folder / EXAMPLES
    partial = path.with_suffix(".partial")
    title = f"{folder.parent.name}, {split}"
    contact_sheet(pictures, *zip(*said, strict=True), partial, title=title)
    return partial.replace(path)


def _said(record: dict[str, Any], features: Any) -> tuple[str, list[str]]:
    """What a record says, and what else."""
    if "tags" in features:
        names = features["tags"].feature.names
        tags, unknown = (
            ", ".join(names[number] for number in record[field])
            for field in ("tags", "unknown_tags")
        )
        return tags or "(no tags)", [f"unknown: {unknown}"] if unknown else []
    if "label" in features:
        return features["label"].names[record["label"]], []
    first, *others = record["captions"] or ["(no caption)"]
    return first, others
