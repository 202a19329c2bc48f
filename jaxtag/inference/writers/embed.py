"""Keywords and captions written into the images themselves, in their XMP."""

import errno
import io
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image, ImageSequence

from jaxtag.data import xmp_packet
from jaxtag.data.embedded_metadata import read_embedded
from jaxtag.data.files import MAX_BYTES
from jaxtag.data.image_reader import MAX_PIXELS
from jaxtag.data.xmp_packet import XmpPacket
from jaxtag.errors import StorageError, UserError, printable, write_error
from jaxtag.inference.writers import xmp, xmp_containers
from jaxtag.inference.writers.base import Row
from jaxtag.inference.writers.sidecar_programs import KeywordField
from jaxtag.storage import atomic_file

BACKUP_SUFFIX = "_original"  # as exiftool's
_PARTIAL = re.compile(r".+\.(jpe?g|png|webp)\.[0-9a-f]{16}\.partial", re.IGNORECASE)


class EmbedWriter:
    """Writes keywords and the caption into each image; what it held stays, as in a sidecar.

    The new file is written beside the image and read back: its pixels, and all its bytes but the
    XMP packet, must be those of the image, and its keywords the new ones. Only then the image gets
    the name `IMAGE_original`, unless there is one, and the new file that of the image. So a killed
    run leaves the old image or the new one, and never none.

    Args:
        min_score: score that a tag needs to become a keyword.
        fields: lists that hold the keywords too, of a photo program.

    Attributes:
        num_skipped: number of images of other formats.
        num_failed: number of images that could not be written.
    """

    def __init__(self, min_score: float, fields: Sequence[KeywordField] = ()):
        self._min_score, self._fields = min_score, fields
        self._folders: set[Path] = set()
        self.num_skipped = self.num_failed = 0

    def write(self, row: Row) -> None:
        """Writes into one image; the first error is logged, all are counted."""
        if "error" in row or not ("tags" in row or "caption" in row):
            return
        file = row["file"]
        try:
            path = Path(os.path.realpath(file))
            self._remove_partials(path.parent)
            embed(path, xmp.keywords(row, self._min_score), row.get("caption"), self._fields)
        except OSError as error:
            self._count_failure(str(write_error(file, error)))
        except StorageError:
            raise
        except xmp_containers.UnsupportedFormatError as error:
            if not self.num_skipped:
                logging.warning("%s: %s", printable(file), error)
            self.num_skipped += 1
        except (UserError, ValueError) as error:
            message = str(error) if isinstance(error, UserError) else f"{file}: {error}"
            self._count_failure(message)

    def close(self) -> None:
        """Logs the numbers of images that were not written."""
        if self.num_skipped:
            logging.warning("%d image(s) are of formats that take no keywords", self.num_skipped)
        if self.num_failed:
            logging.warning("keywords could not be written into %d image(s)", self.num_failed)

    def abort(self) -> None:
        """Does nothing: each image is whole."""

    def _remove_partials(self, folder: Path) -> None:
        """Removes what killed runs left in a folder, once."""
        if folder not in self._folders:
            self._folders.add(folder)
            for name in os.listdir(folder):
                if _PARTIAL.fullmatch(name):
                    (folder / name).unlink(missing_ok=True)

    def _count_failure(self, message: str) -> None:
        if not self.num_failed:
            logging.warning("%s", printable(message))
        self.num_failed += 1


def embed(
    path: Path,
    tags: list[str] | None,
    caption: str | None,
    fields: Sequence[KeywordField] = (),
) -> bool:
    """Writes keywords and a caption into an image; returns False where it has them already.

    Args:
        path: JPEG, PNG or WebP.
        tags: None leaves the keywords as they are.
        caption: None leaves the caption as it is.
        fields: lists that hold the keywords too.

    Raises:
        ValueError: they cannot be written into this file, or what was written is not the same
            image. The image is as it was.
        UserError: the file cannot be written.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError("too large a file")
    old = path.read_bytes()
    present = xmp_containers.read_packet(old).strip(b"\0 \n\r\t")
    packet = XmpPacket(present or xmp_packet.EMPTY)
    if not present or not xmp.is_ours(packet):
        xmp.add_embedded(packet, read_embedded(os.fspath(path)))
    before = packet.data
    xmp.update(packet, tags, caption, fields)
    if packet.data == before:
        return False
    new = xmp_containers.replace_packet(old, packet.data)
    with atomic_file.replacing(path, sync=True) as partial:
        partial.write_bytes(new)
        _verify(partial.read_bytes(), old, packet)
        shutil.copymode(path, partial)
        _keep_owner(path, partial)
        if path.read_bytes() != old:
            raise ValueError("it was changed meanwhile")
        _back_up(path)
    return True


def _verify(new: bytes, old: bytes, packet: XmpPacket) -> None:
    """Raises ValueError where a file is not the old one with this packet."""
    if xmp_containers.read_packet(new) != packet.data:
        raise ValueError("its keywords do not read back")
    if xmp_containers.other_content(new) != xmp_containers.other_content(old):
        raise ValueError("other bytes than those of its keywords would change")
    if not _same_pixels(new, old):
        raise ValueError("its pixels would change")


def _same_pixels(new: bytes, old: bytes) -> bool:
    """Whether two files hold the same pixels, in all frames."""
    try:
        return all(np.array_equal(a, b) for a, b in _frame_pairs(new, old))
    except Exception as error:  # damaged data raise anything from Pillow's plugins
        raise ValueError(f"it cannot be decoded to compare its pixels: {error}") from error


def _frame_pairs(new: bytes, old: bytes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with Image.open(io.BytesIO(new)) as one, Image.open(io.BytesIO(old)) as other:
        if one.size[0] * one.size[1] > MAX_PIXELS:
            raise ValueError(f"{one.size[0]}x{one.size[1]} pixels are too many")
        frames = zip(ImageSequence.Iterator(one), ImageSequence.Iterator(other), strict=True)
        for frame, other_frame in frames:
            yield np.asarray(frame), np.asarray(other_frame)


def _back_up(path: Path) -> None:
    """Gives an image a second name, under which it stays when the first is replaced."""
    backup = path.with_name(path.name + BACKUP_SUFFIX)
    try:
        os.link(path, backup)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        with atomic_file.replacing(backup, sync=True) as copy:  # a disk that knows no links
            shutil.copy2(path, copy)


def _keep_owner(path: Path, partial: Path) -> None:
    status = path.stat()
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        try:
            os.chown(partial, status.st_uid, status.st_gid)
        except PermissionError:
            raise ValueError("it belongs to somebody else") from None
