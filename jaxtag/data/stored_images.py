"""Images that are no files of their own: members of tars, records of prepared data sets."""

import dataclasses
import functools
import os
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from jaxtag.data.sources import Source
from jaxtag.errors import UserError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


class ImageStore(Protocol):
    """What holds images; picklable, for worker processes."""

    def read(self, key: Any, /) -> Any:
        """Encoded bytes, or pixels uint8 [H, W, 3]. Raises OSError or ValueError."""


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """An image inside of a store, read when it is needed.

    Attributes:
        file: its name in results.
        store: what it is in.
        key: where it is there.
    """

    file: str
    store: ImageStore
    key: Any

    def read(self) -> Any:
        """Encoded bytes, or pixels uint8 [H, W, 3]. Raises OSError or ValueError."""
        return self.store.read(self.key)


@dataclasses.dataclass(frozen=True)
class TarFile:
    """A tar that is not compressed; the key of a member is (offset, size)."""

    path: str

    def read(self, key: tuple[int, int], /) -> bytes:
        offset, size = key
        data = os.pread(_open(self.path), size, offset)
        if len(data) < size:
            raise ValueError("the archive is cut off")
        return data


@dataclasses.dataclass(frozen=True)
class RecordImages:
    """The images of a source; the key is the index of a record."""

    source: Source

    def read(self, key: int, /) -> Any:
        return self.source[key]["image"]


def list_tar(path: str) -> Iterator[StoredImage]:
    """The images of a tar in its order, called `PATH/MEMBER`.

    Raises:
        UserError: It is damaged, or compressed, which has no random access.
    """
    store = TarFile(path)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isreg() and member.name.lower().endswith(_IMAGE_SUFFIXES):
                    yield StoredImage(
                        f"{path}/{member.name}", store, (member.offset_data, member.size)
                    )
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{path} cannot be read as a tar without compression: {error}") from error


def list_records(source: Source, prefix: str) -> list[StoredImage]:
    """The images of a source, called `PREFIX/FILE`, or by number where they have no file."""
    store = RecordImages(source)
    if "file" in source.features:
        files: Sequence[str] = [record["file"] for record in source.iter_fields(["file"])]
    else:
        files = [str(index) for index in range(len(source))]
    return [StoredImage(f"{prefix}/{file}", store, index) for index, file in enumerate(files)]


@functools.lru_cache(maxsize=256)
def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
