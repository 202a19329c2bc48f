"""What annotate takes besides files: lists of them, tars, prepared data sets."""

from collections.abc import Iterable
from pathlib import Path

from jaxtag.data import stored_images
from jaxtag.data.stored_images import StoredImage
from jaxtag.datasets import prepared
from jaxtag.errors import UserError


def list_records(dataset: str, split: str, data_dir: str | None) -> dict[str, StoredImage]:
    """The images of a prepared split by name, `DATASET/SPLIT/FILE`."""
    source = prepared.open_split(dataset, split, data_dir)
    records = stored_images.list_records(source, f"{dataset}/{split}")
    return {record.file: record for record in records}


def read_list(path: str) -> dict[str, str]:
    """The images of a file with a path a line, each once, by their paths."""
    try:
        lines = Path(path).read_text("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"--files_from={path}: {error.strerror}") from error
    return {line: line for line in lines if line}


def expand_tars(names: Iterable[str]) -> dict[str, str | StoredImage]:
    """Files by their paths, and instead of a tar its images, `TAR/MEMBER`."""
    images: dict[str, str | StoredImage] = {}
    for name in names:
        if name.endswith(".tar"):
            images |= {image.file: image for image in stored_images.list_tar(name)}
        else:
            images[name] = name
    return images
