"""A contact sheet of a prepared data set, for a look before anything is trained on it."""

from pathlib import Path

from jaxtag.data.decode import decode
from jaxtag.data.sources import PreparedSource, Record
from jaxtag.storage.atomic_file import replacing
from jaxtag.viz.contact_sheet import contact_sheet

EXAMPLES = "examples.png"
_COUNT = 16
_MIN_SIZE = 240  # pixels of the shorter side: enough for the sheet


def draw_examples(folder: Path, split: str) -> Path:
    """Draws the first records of a split with their annotations to `folder/examples.png`.

    Under an image stand its first caption, its class or its tags and, in gray, its other captions
    or its unknown tags.

    Args:
        folder: Of a prepared data set, `DATA_DIR/<dataset>/<version>`.
        split: One with at least one record, as all that were prepared have.
    """
    source = PreparedSource(folder, split)
    records = source.__getitems__(range(min(_COUNT, len(source))))
    images = [decode(record["image"], min_size=_MIN_SIZE) for record in records]
    names = {
        name: source.class_names(name) for name in ("tags", "label") if name in source.features
    }
    texts = [_annotations(record, names) for record in records]
    path = folder / EXAMPLES
    title = f"{folder.parent.name}, {split}"
    with replacing(path) as partial:
        contact_sheet(
            images,
            [first for first, _ in texts],
            [others for _, others in texts],
            partial,
            title=title,
        )
    return path


def _annotations(record: Record, names: dict[str, list[str]]) -> tuple[str, list[str]]:
    """The main annotation of a record, and the others."""
    if "tags" in names:
        tags, unknown = (
            ", ".join(names["tags"][number] for number in record[field])
            for field in ("tags", "unknown_tags")
        )
        return tags or "(no tags)", [f"unknown: {unknown}"] if unknown else []
    if "label" in names:
        return names["label"][record["label"]], []
    first, *others = record["captions"] or ["(no caption)"]
    return first, others
