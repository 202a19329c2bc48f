"""What a preparation would make of a source: shown, and nothing is written."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from jaxtag.datasets.base import ImageRecord, Listing
from jaxtag.errors import printable

_EXAMPLES = 3  # of each split
_NAMES = 20
_FILES = 5  # that are left out, for each reason
_WIDTH = 100  # characters of an annotation


def describe_listing(dataset: str, listing: Listing) -> str:
    """Splits with counts, names of classes or tags, first examples, and what is left out."""
    lines = [f"{dataset} ({listing.variant}): nothing is written"]
    names = _names(listing)
    for split, images in listing.splits.items():
        lines.append(f"  {split:<11} {len(images):>9,} images{_counts(images)}")
    if names:
        kind = "classes" if "label" in listing.features else "tags"
        more = ", …" if len(names) > _NAMES else ""
        lines.append(f"  {len(names):,} {kind}: {', '.join(names[:_NAMES])}{more}")
    for split, images in listing.splits.items():
        lines.append(f"  first of {split}:")
        lines += [
            f"    {image.file}: {_shown(image.fields, names)}" for image in images[:_EXAMPLES]
        ]
    lines += _left_out(listing)
    lines += [f"  warning: {warning}" for warning in listing.warnings]
    lines += [f"  doubtful: {doubt}; it needs --accept_doubtful" for doubt in listing.doubts]
    return "\n".join(map(printable, lines))


def _names(listing: Listing) -> list[str]:
    """The names of classes or tags by their numbers."""
    feature = listing.features.get("label") or listing.features.get("tags")
    return list(getattr(feature, "feature", feature).names) if feature is not None else []


def _counts(images: list[ImageRecord]) -> str:
    """How many captions or tags the images have together."""
    counts: Counter[str] = Counter()
    for image in images:
        for name in ("captions", "tags"):
            counts[name] += len(image.fields.get(name, ()))
    return "".join(f", {count:,} {name}" for name, count in counts.items() if count)


def _shown(fields: Mapping[str, Any], names: list[str]) -> str:
    if "captions" in fields:
        text = " | ".join(fields["captions"]) or "(no caption)"
    elif "tags" in fields:
        text = ", ".join(names[number] for number in fields["tags"]) or "(no tags)"
        if fields["unknown_tags"]:
            text += f" (unknown: {', '.join(names[n] for n in fields['unknown_tags'])})"
    elif "label" in fields:
        text = names[fields["label"]]
    else:
        text = ", ".join(f"{name}={value}" for name, value in fields.items())
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def _left_out(listing: Listing) -> list[str]:
    """What is not used, by its reason, with the first files of each."""
    if not listing.problems:
        return ["  left out: nothing"]
    files: dict[str, list[str]] = {}
    for file, reason in listing.problems:
        files.setdefault(reason.replace(file, "it"), []).append(file)
    lines = [f"  left out: {len(listing.problems):,}"]
    for reason, named in sorted(files.items(), key=lambda item: -len(item[1]))[:_NAMES]:
        more = f" and {len(named) - _FILES:,} more" if len(named) > _FILES else ""
        lines.append(f"    {', '.join(named[:_FILES])}{more}: {reason}")
    return lines
