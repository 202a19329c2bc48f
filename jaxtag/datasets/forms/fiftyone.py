"""FiftyOne's exports: FiftyOneDataset (samples.json), and image classification and detection.

https://docs.voxel51.com/user_guide/export_datasets.html. The latter two are `data/` and
labels.json, `{"classes": [...] | null, "labels": {uuid: label or list of labels}}`; a label is a
number of a class, a name, or an object with "label".
"""

from typing import Any

from jaxtag.data.text import clean_names
from jaxtag.datasets.annotations import TAGS, Row, Table, clean_file, clean_tags
from jaxtag.datasets.forms.base import JsonForm, dict_entries
from jaxtag.datasets.layout import SPLITS
from jaxtag.datasets.odd_entries import OddEntries

_LISTS = ("classifications", "detections", "polylines", "keypoints")
_PREFERRED = "ground_truth"


def _matches(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get("labels"), dict)
        and isinstance(content.get("classes"), list | None)
    )


def _read(content: Any, where: str, kind: str | None) -> Table:
    del kind  # tags only
    table, odd = Table(), OddEntries()
    classes = content.get("classes") or []
    names = [name if isinstance(name, str) else "" for name in classes]
    table.names = clean_names(names)
    for uuid, value in content["labels"].items():
        location = f"{where}: {uuid[:80]!r}"
        values = value if isinstance(value, list) else [] if value is None else [value]
        labels = [_name(label, names) for label in values]
        if None in labels:
            odd.add(location, "a label is neither a name nor the number of a class")
            continue
        tags = clean_tags(label for label in labels if label)
        is_label = not isinstance(value, list)
        table.rows.append(Row(location, clean_file(uuid), TAGS, tags, is_label=is_label))
    odd.report(len(table.rows), table.problems)
    return table


def _name(label: Any, names: list[str]) -> str | None:
    """The name of a class; None where there is none."""
    value = label.get("label") if isinstance(label, dict) else label
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    return value if isinstance(value, str) else None


def _matches_samples(content: Any) -> bool:
    samples = dict_entries(content.get("samples")) if isinstance(content, dict) else []
    return any("filepath" in sample for sample in samples)


def _read_samples(content: Any, where: str, kind: str | None) -> Table:
    del kind  # tags only
    table, odd = Table(), OddEntries()
    field = _label_field(content["samples"], where, table.warnings)
    for number, sample in enumerate(content["samples"]):
        location = f"{where}: samples[{number}]"
        file = sample.get("filepath") if isinstance(sample, dict) else None
        if not isinstance(file, str) or not file.strip():
            odd.add(location, 'it has no "filepath"')
            continue
        value = sample.get(field)
        tags = clean_tags(label for item in _labels(value) if (label := _name(item, [])))
        splits = {
            SPLITS[tag]
            for tag in _list(sample.get("tags"))
            if isinstance(tag, str) and tag in SPLITS
        }
        split = splits.pop() if len(splits) == 1 else None
        is_label = isinstance(value, dict) and not set(_LISTS) & set(value)
        table.rows.append(Row(location, clean_file(file), TAGS, tags, split, is_label=is_label))
    odd.report(len(table.rows), table.problems)
    return table


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _labels(value: Any) -> list[Any]:
    """The labels in a field of a sample."""
    if not isinstance(value, dict):
        return []
    lists = [value[key] for key in _LISTS if isinstance(value.get(key), list)]
    return [item for items in lists for item in items] if lists else [value]


def _label_field(samples: list[Any], where: str, warnings: list[str]) -> str:
    """The field that holds the labels: `ground_truth`, or the first that has any."""
    fields = dict.fromkeys(
        key
        for sample in dict_entries(samples)
        for key, value in sample.items()
        if any(isinstance(label, dict) and "label" in label for label in _labels(value))
    )
    if len(fields) > 1:
        chosen = _PREFERRED if _PREFERRED in fields else next(iter(fields))
        warnings.append(f"{where}: labels are in {', '.join(fields)}: {chosen!r} is read")
        return chosen
    return next(iter(fields), _PREFERRED)


FORM = JsonForm("fiftyone", "a FiftyOne export of labels", _matches, _read)
SAMPLES_FORM = JsonForm("fiftyone", "a FiftyOne dataset", _matches_samples, _read_samples)
