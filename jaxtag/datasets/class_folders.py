"""Pictures in folders named after their class, below folders named after their split or not."""

from collections import Counter, defaultdict

from jaxtag.datasets.archives import Store
from jaxtag.datasets.base import hold_out
from jaxtag.datasets.labelled import LabelListing

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2")
# Names that people give to splits -> ours.
SPLITS = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def list_class_folders(store: Store) -> LabelListing | None:
    """The pictures of `[SPLIT/]CLASS/…/FILE`, wherever in the store that begins.

    Classes are numbered in the order of their names. Without splits, a tenth of the pictures, by
    a hash of their names, is `validation`. Pictures outside of class folders become problems.

    Returns:
      None where there are fewer than two such folders.
    """
    base, files = _files(store)
    splits = {file.split("/")[0].lower() for file in files if "/" in file} <= SPLITS.keys()
    depth = 2 if splits else 1
    placed, outside = defaultdict(list), []
    for file in files:
        parts = file.split("/")
        if len(parts) <= depth:
            outside.append(file)
        else:
            split = SPLITS[parts[0].lower()] if splits else "train"
            placed[parts[depth - 1]].append((split, file))
    if len(placed) < 2:
        return None
    classes = sorted(placed)
    listing = LabelListing("class folders", {"label": classes})
    for number, name in enumerate(classes):
        fields = {"label": number}
        for split, file in placed[name]:
            listing.add_stored(store, split, base + file, file, fields)
    listing.problems += [(file, "it lies in no folder of a class") for file in outside]
    listing.splits = {
        split: listing.splits[split]
        for split in ("train", "validation", "test")
        if split in listing.splits
    }
    if not splits:
        listing.splits = hold_out(listing.splits["train"])
        listing.variant += ", validation held out by file name"
    return listing


def _files(store: Store) -> tuple[str, list[str]]:
    """The folder that holds all class or split folders, and the pictures' paths below it."""
    files = [name for name in store.names() if name.lower().endswith(PICTURES)]
    base = ""
    while True:
        tops = Counter(file.split("/")[0] for file in files)
        (top,) = tops if len(tops) == 1 else (None,)
        if top is None or top.lower() in SPLITS:
            return base, files
        inside = [file.removeprefix(f"{top}/") for file in files]
        if not any("/" in file for file in inside):
            return base, files
        base, files = f"{base}{top}/", inside
