"""What file and folder names say: which files are images, and which split is meant."""

import re

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".avif", ".jp2", ".j2k", ".jpx"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
    *(".heic", ".heif", ".hif", ".cr2", ".nef", ".nrw", ".arw", ".dng", ".pef"),
)
# Of these a program of the camera or phone often leaves a JPEG beside the original.
TWIN_SUFFIXES = (".heic", ".heif", ".hif", ".cr2", ".nef", ".nrw", ".arw", ".dng", ".pef")
# Images of cameras and phones that are not read: they are named where they lie among others.
UNREAD_SUFFIXES = (
    *(".jxl", ".jxr", ".svg", ".psd", ".ico", ".tga", ".exr", ".dcm"),
    *(".cr3", ".orf", ".raf", ".rw2", ".eps", ".pdf"),
)
# Names that people give to splits -> ours.
SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "restval"), "train"),
    **dict.fromkeys(
        ("validation", "valid", "val", "dev", "development", "eval", "evaluation", "validate"),
        "validation",
    ),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
# Words beside that of the split in the name of its folder: train_images, Training Set.
_GENERIC = frozenset(
    [
        *("set", "sets", "image", "images", "img", "imgs", "picture", "pictures", "photos", "data"),
        *("dataset", "split", "folder", "files", "part", "the", "jpg", "jpeg", "png", "new"),
    ]
)
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|BM.{4}\0\0\0\0|II\*\0|MM\0\*|II\+\0|MM\0\+|RIFF.{4}WEBP"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|.{4}ftyp(avif|avis|heic|heix|hevc|mif1|msf1)|P[1-6][\s#]",
    re.DOTALL,
)
MAGIC_BYTES = 16


def is_image_name(name: str) -> bool:
    """Whether a file is an image that is read, by the ending of its name."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def starts_like_image(data: bytes) -> bool:
    """Whether the first MAGIC_BYTES bytes of a file are those of an image that is read."""
    return bool(_MAGIC.match(data))


def split_and_rest(name: str) -> tuple[str | None, str]:
    """The split that a name mentions, None without one or with two, and the words beside it."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word.lower() for word in re.findall(r"[^\W\d_]+", spaced)]
    words = [part for word in words for part in _parted(word)]
    splits = {SPLITS[word] for word in words if word in SPLITS}
    rest = " ".join(word for word in words if word not in SPLITS and word not in _GENERIC)
    return (splits.pop() if len(splits) == 1 else None), rest


def split_in_name(name: str) -> str | None:
    """The split that a file or folder name mentions: captions_train2017.json, val.csv."""
    return split_and_rest(name.rpartition("/")[2].partition(".")[0])[0]


def _parted(word: str) -> list[str]:
    """`trainset` as `train`, `set`; other words as they are."""
    for end in ("set", "images", "imgs", "data"):
        if word.removesuffix(end) in SPLITS:
            return [word.removesuffix(end), end]
    return [word]
