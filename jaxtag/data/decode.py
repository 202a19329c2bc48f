"""Encoded images to uint8 RGB: JPEG by libjpeg-turbo, plain PNG by OpenCV, all else by Pillow."""

import abc
import functools
import io
import math
import re
import warnings
import zlib
from collections.abc import Callable
from typing import TypeVar

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from jaxtag.errors import UserError

_T = TypeVar("_T")

# The pixels that an image may claim in its header; more are refused before anything is decoded.
MAX_PIXELS = 80_000_000
# Plugins that run other programs (EPS starts Ghostscript) stay out. JPEG includes MPO.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")


class DecodeError(ValueError):
    """An image that cannot be used; its text is the reason, fit for a report to the user."""


class ImageReader(abc.ABC):
    """An image whose header was read and whose pixels were not.

    Attributes:
        height: In pixels, upright.
        width: In pixels, upright.
        orientation: By which EXIF orientation the stored pixels are turned, 1 to 8.
    """

    height: int
    width: int
    orientation: int = 1

    def factor(self, scale: float) -> float:
        """By how much `pixels(scale)` scales: at least `scale`, at most 1, whatever is cheapest."""
        del scale
        return 1.0

    @abc.abstractmethod
    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        """Decodes to uint8 [H, W, 3], upright RGB, scaled by `factor(scale)`, sizes rounded up.

        Rows of the image from `bottom` on may be missing.

        Raises:
            DecodeError: The data are damaged or cut short.
        """


def open_image(image: bytes | np.ndarray, *, max_pixels: int = MAX_PIXELS) -> ImageReader:
    """Reads the header of an encoded image (any format of `decode`), or wraps an array.

    Args:
        image: Encoded bytes, or uint8 [H, W, 3] RGB.
        max_pixels: An image that claims more is refused.

    Raises:
        DecodeError: It is no image, or one of more than `max_pixels`.
        UserError: It is an array of another shape or type.
    """
    if isinstance(image, np.ndarray):
        return _ArrayReader(image, max_pixels)
    if image[:2] == b"\xff\xd8":
        try:
            return _JpegReader(image, max_pixels)
        except DecodeError:
            raise
        except (ValueError, KeyError):  # KeyError: an unknown color space
            pass  # libjpeg-turbo does not know this kind of JPEG: Pillow decides.
    return (_PngReader if _is_plain_png(image) else _PillowReader)(image, max_pixels)


def decode(
    image: bytes | np.ndarray, *, min_size: int | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes JPEG, PNG, GIF, WebP, BMP, TIFF, PPM, JPEG 2000 or AVIF to uint8 [H, W, 3], RGB.

    Upright by its EXIF orientation; transparency over white; 16-bit gray scaled to 8 bits; CMYK
    converted without color profile; the first frame of an animation.

    Args:
        image: The encoded image; an array is returned as it is.
        min_size: The result may be smaller than the image, where that saves time, but its
            shorter side is at least this many pixels (or the image's own).
        max_pixels: An image that claims more is refused before decoding.

    Raises:
        DecodeError: It is no image, damaged, cut short, or too large.
    """
    reader = open_image(image, max_pixels=max_pixels)
    shorter = min(reader.height, reader.width)
    return reader.pixels(1.0 if min_size is None else min(1.0, min_size / shorter))


def exif_orientation(data: bytes) -> int:
    """The EXIF orientation by which `decode` turns an image, 1 to 8; 1 where it turns none.

    Raises:
        DecodeError: It is no image, or its EXIF cannot be read.
    """
    orientation = open_image(data).orientation
    return orientation if orientation in range(1, 9) else 1


def decode_into(image: bytes | np.ndarray, out: np.ndarray) -> bool:
    """Decodes straight into `out`, uint8 [H, W, 3], where the image is of the same size.

    It takes two thirds of the time of an image of 32 x 32 pixels.

    Returns:
        False for any other image, and for a damaged one: `open_image` then says why.
    """
    if isinstance(image, np.ndarray):
        if image.shape != out.shape or image.dtype != np.uint8:
            return False
        out[...] = image
        return True
    if image[:2] != b"\xff\xd8" or not _is_plain_jpeg(image):
        return False
    try:  # a larger one does not fit, and is refused by its header
        return simplejpeg.decode_jpeg(image, "RGB", buffer=out).shape == out.shape
    except (ValueError, KeyError):
        return False


class _ArrayReader(ImageReader):
    """An image that was decoded before."""

    def __init__(self, image: np.ndarray, max_pixels: int):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(
                f"an image is {image.dtype} {list(image.shape)}: give encoded bytes or a uint8 "
                "array [H, W, 3]"
            )
        self.height, self.width = image.shape[:2]
        _check_size(self.width, self.height, max_pixels)
        self._image = image

    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        del scale, bottom
        return self._image


# The reduced sizes (in eighths) that libjpeg-turbo decodes faster than the full image. It also
# offers 5 to 7 eighths, without vector instructions: slower than the full image (2.1 to 2.4 ms
# against 1.9 ms for 640x427).
_FAST_EIGHTHS = (1, 2, 3, 4, 8)
_EXTRANEOUS_AT_END = re.compile(r"^Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9$")
_END = b"\xff\xd9"
# Markers of the segment that holds an image's size and kind (SOF0 to SOF15).
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
ORIENTATION_TAG = 0x0112
_MARGIN = 16  # rows that smooth chroma upsampling and reduced decoding may look ahead


class _JpegReader(ImageReader):
    """A JPEG that libjpeg-turbo decodes, at a reduced DCT scale where that is enough."""

    def __init__(self, data: bytes, max_pixels: int):
        height, width, self._color_space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        _check_size(width, height, max_pixels)
        self._data = data
        self._stored_size = height, width
        self.orientation = _jpeg_orientation(data)
        transposed = self.orientation >= 5
        self.height, self.width = (width, height) if transposed else (height, width)

    def factor(self, scale: float) -> float:
        return next(k for k in _FAST_EIGHTHS if k >= 8 * min(scale, 1.0)) / 8

    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        factor = self.factor(scale)
        data: bytes | bytearray = self._data
        height, width = self._stored_size
        if bottom is not None and bottom + _MARGIN < height and self.orientation == 1:
            shorter = _cut_below(self._data, bottom + _MARGIN)
            if shorter is not None:
                data, height = shorter, bottom + _MARGIN
        is_cmyk = self._color_space in ("CMYK", "YCCK")
        min_size = {}
        if factor < 1:
            min_size = {"min_height": math.ceil(height * factor)}
            min_size["min_width"] = math.ceil(width * factor)
            height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False, **min_size)
        image = np.empty((height, width, 4 if is_cmyk else 3), np.uint8)
        image = self._decode(data, "CMYK" if is_cmyk else "RGB", image, min_size)
        return _upright(_cmyk_to_rgb(image) if is_cmyk else image, self.orientation)

    @staticmethod
    def _decode(
        data: bytes | bytearray, color_space: str, buffer: np.ndarray, min_size: dict[str, int]
    ) -> np.ndarray:
        # fastdct and fastupsample saved nothing (at most 2%) and cost up to 3 gray levels.
        try:
            return simplejpeg.decode_jpeg(data, color_space, buffer=buffer, **min_size)
        except ValueError as error:
            # Bytes before the end marker, as padding or below the rows that are decoded, are
            # harmless: the decoder meets them when all rows are in the buffer.
            if not _EXTRANEOUS_AT_END.match(str(error)):
                raise DecodeError(f"damaged JPEG: {error}") from error
        return buffer


def _cut_below(data: bytes, rows: int) -> bytearray | None:
    """A JPEG that ends after `rows` rows: the same data under a header that claims fewer.

    The entropy-coded data are read from the top and take most of the time, so what lies below a
    crop need not cost any.

    Returns:
        None where rows are not stored in that way (progressive, or a scan for each component), or
        where the end of the data is missing, which decoding all of it must then show.
    """
    if data.rfind(_END, len(data) - 64) < 0:
        return None
    frame = components = None
    for marker, start in _segments(data):
        if marker in (0xC0, 0xC1):  # baseline and extended sequential, Huffman-coded
            frame, components = start, data[start + 9]
        elif marker == 0xDA:  # the first scan: all components in one, or not
            if frame is None or data[start + 4] != components:
                return None
            shorter = bytearray(data)
            shorter[frame + 5 : frame + 7] = rows.to_bytes(2)
            return shorter
    return None


def _segments(data: bytes) -> list[tuple[int, int]]:
    """(marker, offset) of each segment of a JPEG's header, up to the first scan."""
    segments, offset, marker = [], 2, 0
    while marker != 0xDA and offset + 10 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        segments.append((marker, offset))
        offset += 2 + (data[offset + 2] << 8 | data[offset + 3])
    return segments


def _cmyk_to_rgb(image: np.ndarray) -> np.ndarray:
    """CMYK uint8 [H, W, 4] to RGB [H, W, 3].

    The values are taken as inverted, as Adobe's programs store them and as Pillow and the browsers
    read them, also where their marker is missing.
    """
    inverted = image.astype(np.uint16)
    return ((inverted[..., :3] * inverted[..., 3:] + 127) // 255).astype(np.uint8)


_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"IDAT", b"IEND", b"gAMA", b"pHYs", b"sRGB", b"tIME")


def _is_plain_png(data: bytes) -> bool:
    """Whether it is a complete PNG of 8-bit gray or RGB with nothing that changes what is seen.

    That is what libpng and Pillow read alike: no transparency, no EXIF or text (which may hold an
    orientation), no animation.
    """
    if not data.startswith(_PNG_START):
        return False
    offset, names = len(_PNG_START), []
    while offset + 12 <= len(data):
        name = data[offset + 4 : offset + 8]
        end = offset + 8 + int.from_bytes(data[offset : offset + 4])
        is_sound = name == b"IDAT" or data[end : end + 4] == _crc(data[offset + 4 : end])
        if name not in _PNG_CHUNKS or not is_sound:  # libpng lets some errors pass, Pillow others
            return False
        names.append(name)
        offset = end + 4
    is_complete = offset == len(data) and names[:1] == [b"IHDR"] and names[-1] == b"IEND"
    return is_complete and data[24] == 8 and data[25] in (0, 2)  # bit depth, and color type


def _crc(chunk: bytes) -> bytes:
    return zlib.crc32(chunk).to_bytes(4)


class _PngReader(ImageReader):
    """A plain PNG: OpenCV takes a third of Pillow's time for a small one."""

    def __init__(self, data: bytes, max_pixels: int):
        self.width, self.height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
        _check_size(self.width, self.height, max_pixels)
        self._data, self._max_pixels = data, max_pixels

    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(self._data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if image is None:  # damaged: Pillow says how, or is less strict
            return _PillowReader(self._data, self._max_pixels).pixels(scale, bottom)
        return image


class _PillowReader(ImageReader):
    """Any other image that Pillow reads."""

    def __init__(self, data: bytes, max_pixels: int):
        try:
            self._image = _open_by_pillow(data, _formats())
        except Exception as error:  # damaged headers raise anything from Pillow's plugins
            raise DecodeError(_reason(error, data)) from error
        _check_size(*self._image.size, max_pixels)
        self._data = data
        # Pillow turns TIFF itself.
        self.orientation = 1 if self._image.format == "TIFF" else self._call(_exif_orientation)
        width, height = self._image.size
        transposed = self.orientation in (5, 6, 7, 8)
        self.height, self.width = (width, height) if transposed else (height, width)

    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        del scale, bottom  # these formats have no cheaper part
        return _upright(self._call(_to_rgb), self.orientation)

    def _call(self, function: Callable[[Image.Image], _T]) -> _T:
        try:
            return function(self._image)
        except Exception as error:  # damaged data raise anything from Pillow's plugins
            raise DecodeError(_reason(error, self._data)) from error


def _open_by_pillow(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    """Reads a header."""
    _ignore_size_warnings()
    return Image.open(io.BytesIO(data), formats=formats)


@functools.cache  # once a process, at its first image and not at import
def _ignore_size_warnings() -> None:
    """Silences Pillow's warning of large images: `max_pixels` refuses or allows them."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that this Pillow has; it may lack AVIF."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _exif_orientation(image: Image.Image) -> int:
    return image.getexif().get(ORIENTATION_TAG, 1)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] of any Pillow mode."""
    image.load()
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
        gray = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise DecodeError("32-bit gray values have no defined white: save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns and mirrors `image` as its EXIF orientation asks (1 and unknown values: as is)."""
    if orientation == 1:
        return image
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _jpeg_orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG, 1 where there is none or it cannot be read."""
    if not _has_exif(data, _segments(data)):
        return 1
    try:
        with _open_by_pillow(data, ("JPEG", "MPO")) as image:
            orientation = _exif_orientation(image)
    except Exception:  # Damaged EXIF of a sound image: Pillow raises many kinds.
        return 1
    return orientation if orientation in range(1, 9) else 1


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether a JPEG is upright, as far as its header says, and gray or RGB, not CMYK."""
    segments = _segments(data)
    frames = [offset for marker, offset in segments if marker in _FRAMES]
    return bool(frames) and data[frames[0] + 9] in (1, 3) and not _has_exif(data, segments)


def _has_exif(data: bytes, segments: list[tuple[int, int]]) -> bool:
    """Whether a JPEG may have an orientation, by its header: most have no EXIF.

    A search of all data for EXIF's mark takes as long as decoding a tenth of the image.
    """
    return any(
        marker == 0xE1 and data.startswith(b"Exif\0\0", offset + 4) for marker, offset in segments
    )


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise DecodeError(f"the image is empty ({width}x{height})")
    if width * height > max_pixels:
        raise DecodeError(
            f"{width}x{height} is more than the {max_pixels:,} pixels allowed: scale it down"
        )


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, DecodeError):
        return str(error)
    if not data:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        if data[:2] == b"\xff\xd8":
            return "damaged JPEG: its header cannot be read"
        return f"no image format is known that starts with {data[:8]!r}"
    return f"damaged image: {error}" if str(error) else f"damaged image ({type(error).__name__})"
