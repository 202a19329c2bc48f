"""What to say of a source in no form that is known: what is there, and what would do."""

from collections import Counter

from jaxtag.datasets.layout import is_image_name
from jaxtag.datasets.source_files import SourceFiles

_SHOWN = 4
# Files that hold images in a way that is not read -> what to do with them.
_CONTAINERS = {
    **dict.fromkeys(
        (".tfrecord", ".tfrecords"),
        "TFRecords have no fixed fields: write the images as files, with a table beside them",
    ),
    **dict.fromkeys(
        (".h5", ".hdf5", ".mat", ".npz", ".npy", ".lmdb", ".mdb", ".pkl", ".pickle", ".pt", ".rec"),
        "arrays and databases are not read: write the images as files, in a folder for each class "
        "or with a table beside them",
    ),
    **dict.fromkeys(
        (".xls", ".xlsx", ".ods"), "spreadsheets are not read: save the table as tags.csv"
    ),
    **dict.fromkeys(
        (".7z", ".rar"), "this kind of archive is not read: unpack it, or pack a zip or tar"
    ),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv"), "films are not read: save their frames"),
}


def unknown_layout(source: SourceFiles) -> str:
    """The message: what was seen, what it resembles, the smallest file that makes it readable."""
    names = source.names()
    images = [name for name in names if is_image_name(name)]
    endings = Counter(_ending(name) for name in names)
    seen = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(_SHOWN))
    tops = sorted({name.partition("/")[0] for name in names if "/" in name})
    if tops:
        more = ", …" if len(tops) > _SHOWN else ""
        seen += f"; folders {', '.join(tops[:_SHOWN])}{more}"
    hint = next((_CONTAINERS[end] for end in endings if end in _CONTAINERS), "")
    if not hint and images and len(tops) <= 1:
        hint = "it resembles images without annotations"
    elif not hint and images:
        hint = "it resembles images in folders that are no classes"
    example = images[0] if images else "a.jpg"
    return (
        f"{source.path} has no file of captions or tags at its top, nor images in a folder for "
        f"each class ({len(images):,} images are there). Seen: {seen or 'no files'}."
        f"{f' {hint[0].upper()}{hint[1:]}.' if hint else ''} The smallest file that makes it "
        f"readable is captions.csv or tags.csv beside the images, with the lines `file,caption` or "
        f"`file,tags` and, for each image, one such as `{example},…`"
    )


def _ending(name: str) -> str:
    base = name.rpartition("/")[2].lower()
    return f".{base.rpartition('.')[2]}" if "." in base else "without ending"
