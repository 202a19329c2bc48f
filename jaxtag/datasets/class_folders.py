"""Images in folders named after their class, below folders named after their split or not."""

from collections import Counter, defaultdict

from jaxtag.datasets.archives import SourceFiles
from jaxtag.datasets.base import hold_out
from jaxtag.datasets.listings import LabelListing

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif"),
    *(".bmp", ".tif", ".tiff", ".avif", ".jp2"),
)
# Names that people give to splits -> ours.
SPLITS = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def list_class_folders(source: SourceFiles) -> LabelListing | None:
    """Lists the images of `[SPLIT/]CLASS/…/FILE`, wherever in the source that begins.

    Classes are numbered in the order of their names. Without splits, a tenth of the images, by
    a hash of their names, is `validation`. Images outside of class folders become problems.

    Returns:
        None where there are fewer than two such folders.
    """
    base, files = _image_files(source)
    has_splits = {file.split("/")[0].lower() for file in files if "/" in file} <= SPLITS.keys()
    depth = 2 if has_splits else 1
    files_of_class: dict[str, list[tuple[str, str]]] = defaultdict(list)  # (split, file)
    outside = []
    for file in files:
        parts = file.split("/")
        if len(parts) <= depth:
            outside.append(file)
        else:
            split = SPLITS[parts[0].lower()] if has_splits else "train"
            files_of_class[parts[depth - 1]].append((split, file))
    if len(files_of_class) < 2:
        return None
    classes = sorted(files_of_class)
    listing = LabelListing("class folders", {"label": classes})
    for number, name in enumerate(classes):
        fields = {"label": number}
        for split, file in files_of_class[name]:
            listing.add_stored(source, split, base + file, file, fields)
    listing.problems += [(file, "it lies in no folder of a class") for file in outside]
    listing.splits = {
        split: listing.splits[split]
        for split in ("train", "validation", "test")
        if split in listing.splits
    }
    if not has_splits:
        listing.splits = hold_out(listing.splits["train"])
        listing.variant += ", validation held out by file name"
    return listing


def _image_files(source: SourceFiles) -> tuple[str, list[str]]:
    """The folder that holds all class or split folders, and the images' paths below it."""
    files = [name for name in source.names() if name.lower().endswith(IMAGE_SUFFIXES)]
    base = ""
    while True:
        tops = Counter(file.split("/")[0] for file in files)
        (top,) = tops if len(tops) == 1 else (None,)
        if top is None or top.lower() in SPLITS:
            return base, files
        below = [file.removeprefix(f"{top}/") for file in files]
        if not any("/" in file for file in below):
            return base, files
        base, files = f"{base}{top}/", below
