"""The splits of own data: what is held out, and what is doubtful about those that are there."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping

from jaxtag.datasets.archives import ReadError
from jaxtag.datasets.base import ImageRecord, Listing, hold_out
from jaxtag.datasets.source_files import SourceFiles

_MIN_TRAIN = 10  # images of which one is held out where only train was given
_NAMED = 5  # classes in a warning
# Equal images of two splits are kept in one of them, unless they are more than this share.
_MAX_SHARED = 0.5


def complete_splits(
    listing: Listing, source: SourceFiles, groups: Mapping[str, str], has_splits: bool
) -> None:
    """Holds out a `validation` split where there is none, and tells what is doubtful.

    Images of the same bytes stay on one side: those that are held out go together, and one that
    was given to two splits is left out of `train`.

    Args:
        listing: Its splits are replaced.
        source: Where the images are.
        groups: File -> its group, which is held out as a whole.
        has_splits: Whether the user named splits.
    """
    twins = _equal_images(listing, source)
    if has_splits:
        _part_twins(listing, twins)
    else:
        groups = dict(groups) | {
            image.file: f"equal:{images[0][1].file}"
            for images in twins
            for _, image in images
            if image.file not in groups
        }
    train = listing.splits.get("train", [])
    lacks_validation = has_splits and not listing.splits.get("validation")
    if not has_splits or (lacks_validation and len(train) >= _MIN_TRAIN):
        held_out = hold_out(train, groups=groups)
        _keep_one_of_each_class(held_out, groups)
        listing.splits = {**listing.splits, **held_out}
        if lacks_validation:
            listing.warnings.append(
                "there is no validation split: a tenth of train is held out for it"
            )
    elif lacks_validation:
        listing.warnings.append(
            "there is no validation split, which training wants: name one, or give "
            "--config.data.evaluation_split"
        )
    order = ("train", "validation", "test")
    listing.splits = {split: listing.splits[split] for split in order if listing.splits.get(split)}
    _warn_of_conflicts(listing, twins)
    _warn_of_classes(listing)


def doubt_classes(listing: Listing) -> None:
    """Doubts classes that train or validation lacks, of splits that the user named.

    What only validation or test has cannot be learned, and what validation lacks is not measured:
    mostly names are misspelled, or a part of the images is not there.
    """
    if "label" not in listing.features or "train" not in listing.splits:
        return
    names = listing.features["label"].names
    labels = {
        split: {image.fields["label"] for image in images}
        for split, images in listing.splits.items()
    }
    trained = labels.pop("train")
    for split, present in labels.items():
        unseen = [names[label] for label in sorted(present - trained)]
        unused = [names[label] for label in sorted(trained - present)]
        if unseen:
            listing.doubts.append(
                f"{split} has classes that train does not have: {_some(unseen)}"
                + (f"; train has {_some(unused)}, which {split} lacks" if unused else "")
            )
        elif unused and split == "validation":
            listing.doubts.append(f"{split} lacks classes that train has: {_some(unused)}")


def _equal_images(listing: Listing, source: SourceFiles) -> list[list[tuple[str, ImageRecord]]]:
    """The (split, image) of each group of at least two images with the same bytes."""
    by_size: dict[int, list[tuple[str, ImageRecord]]] = defaultdict(list)
    for split, images in listing.splits.items():
        for image in images:
            if image.path:
                by_size[source.size(image.path)].append((split, image))
    candidates: dict[object, list[tuple[str, ImageRecord]]] = defaultdict(list)
    for entries in by_size.values():
        for entry in entries if len(entries) > 1 else ():
            try:
                candidates[source.fingerprint(entry[1].path)].append(entry)
            except ReadError:
                continue  # it is reported when it is verified
    equal: dict[bytes, list[tuple[str, ImageRecord]]] = defaultdict(list)
    for entries in candidates.values():
        for entry in entries if len(entries) > 1 else ():
            try:
                equal[hashlib.blake2b(entry[1].load(), digest_size=16).digest()].append(entry)
            except ReadError:
                continue
    return [entries for entries in equal.values() if len(entries) > 1]


def _part_twins(listing: Listing, twins: list[list[tuple[str, ImageRecord]]]) -> None:
    """Leaves images out of train that another split has too, and tells of other pairs."""
    shared: dict[str, str] = {}
    for entries in twins:
        others = [f"{image.file} in {split}" for split, image in entries if split != "train"]
        if others:
            shared |= {image.file: others[0] for split, image in entries if split == "train"}
        elsewhere = {split for split, _ in entries} - {"train"}
        if len(elsewhere) > 1:
            listing.notes.append(
                (entries[0][1].file, f"the same image is in {' and in '.join(sorted(elsewhere))}")
            )
    train = listing.splits.get("train", [])
    if not shared:
        return
    smallest = min(len(images) for images in listing.splits.values())
    is_kept = len(shared) > _MAX_SHARED * min(len(train), smallest)
    for file, other in shared.items():
        if is_kept:
            listing.notes.append((file, f"the same image as {other}"))
        else:
            listing.problems.append((file, f"the same image as {other}, where it is kept"))
    if is_kept:
        listing.warnings.append(
            f"{len(shared):,} images of train are in another split too, such as "
            f"{next(iter(shared))}: figures on that split say nothing about new images"
        )
    else:
        listing.splits["train"] = [image for image in train if image.file not in shared]
        listing.warnings.append(
            f"{len(shared):,} images of train are in another split too and are left out of train"
        )


def _warn_of_conflicts(listing: Listing, twins: list[list[tuple[str, ImageRecord]]]) -> None:
    """Tells of the same image in two classes."""
    if "label" not in listing.features:
        return
    names = listing.features["label"].names
    conflicts = [
        [image for _, image in entries]
        for entries in twins
        if len({image.fields["label"] for _, image in entries}) > 1
    ]
    for images in conflicts:
        classes = sorted({names[image.fields["label"]] for image in images})
        listing.notes.append(
            (
                images[0].file,
                f"the same image has the classes {', '.join(classes)}: see "
                f"{', '.join(image.file for image in images[1:4])}",
            )
        )
    if conflicts:
        first = conflicts[0]
        listing.warnings.append(
            f"{len(conflicts):,} images are in several classes, such as {first[0].file} and "
            f"{first[1].file}: all are in ledger.jsonl"
        )


def _keep_one_of_each_class(
    held_out: dict[str, list[ImageRecord]], groups: Mapping[str, str]
) -> None:
    """Moves an image back to train of each class that has none there, if another is left."""
    trained = {image.fields.get("label") for image in held_out["train"]}
    for image in list(held_out["validation"]):
        label = image.fields.get("label")
        if label in trained:
            continue
        group = groups.get(image.file) or image.file
        moved = [i for i in held_out["validation"] if (groups.get(i.file) or i.file) == group]
        if len(moved) == len(held_out["validation"]):
            return
        files = {i.file for i in moved}
        held_out["validation"] = [i for i in held_out["validation"] if i.file not in files]
        held_out["train"] += moved
        trained |= {i.fields.get("label") for i in moved}


def _warn_of_classes(listing: Listing) -> None:
    """Tells of classes or tags that a split lacks, and of names that differ in case only."""
    field = next((name for name in ("label", "tags") if name in listing.features), None)
    if field is None or not listing.splits:
        return
    feature = listing.features[field]
    names = list(getattr(feature, "feature", feature).names)
    noun = "classes" if field == "label" else "tags"
    counts: dict[str, Counter[int]] = {}
    for split, images in listing.splits.items():
        values = (image.fields[field] for image in images)
        counts[split] = Counter(
            label for value in values for label in (value if isinstance(value, list) else [value])
        )
    used = set().union(*counts.values())
    for split, present in counts.items():
        lacking = [names[label] for label in sorted(used - set(present))]
        if lacking:
            listing.warnings.append(
                f"{len(lacking):,} of {len(names):,} {noun} have no image in {split}: "
                f"{_some(lacking)}"
            )
    lower = defaultdict(list)
    for name in names:
        lower[name.casefold()].append(name)
    alike = [" and ".join(map(repr, same)) for same in lower.values() if len(same) > 1]
    if alike:
        listing.warnings.append(f"{noun} that differ in case only: {_some(alike)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
