"""Encoded pictures to uint8 RGB: JPEG by libjpeg-turbo, plain PNG by OpenCV, all else by Pillow."""

import abc
import functools
import io
import math
import re
import warnings
import zlib

import cv2
import numpy as np
import simplejpeg
from PIL import Image

# What a picture may hold at most, read from its header before anything is decoded.
MAX_PIXELS = 80_000_000

# Plugins that run other programs (EPS starts Ghostscript) stay out. JPEG includes MPO.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
Image.init()
_FORMATS = tuple(name for name in _FORMATS if name in Image.OPEN)  # Pillow may lack AVIF


class DecodeError(ValueError):
    """A picture that cannot be used; its text is the reason, fit for a report to the user."""


class EncodedImage(abc.ABC):
    """An encoded picture whose header was read: `height` and `width` upright, in pixels."""

    height: int
    width: int

    def factor(self, scale: float) -> float:
        """By how much `pixels(scale)` scales: at least `scale`, at most 1, whatever is cheapest."""
        del scale
        return 1.0

    @abc.abstractmethod
    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        """uint8 [H, W, 3], upright RGB, scaled by `factor(scale)`, sizes rounded up.

        Rows of the picture from `bottom` on may be missing.

        Raises:
            DecodeError: the data are damaged or cut short.
        """


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> EncodedImage:
    """Reads the header of `data` (any format of `decode`).

    Raises:
        DecodeError: no picture, or one of more than `max_pixels`.
    """
    if data[:2] == b"\xff\xd8":
        try:
            return _Jpeg(data, max_pixels)
        except DecodeError:
            raise
        except (ValueError, KeyError):  # KeyError: an unknown colour space
            pass  # libjpeg-turbo does not know this kind of JPEG: Pillow decides.
    return (_Png if _is_plain_png(data) else _General)(data, max_pixels)


def decode(data: bytes, *, min_size: int | None = None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes JPEG, PNG, GIF, WebP, BMP, TIFF, PPM, JPEG 2000 or AVIF to uint8 [H, W, 3], RGB.

    Upright by its EXIF orientation; transparency over white; 16-bit grey scaled to 8 bits; CMYK
    converted without colour profile; the first frame of an animation.

    Args:
        data: the encoded picture.
        min_size: the result may be smaller than the picture, where that saves time, but its
            shorter side is at least this many pixels (or the picture's own).
        max_pixels: a picture that claims more is refused before decoding.

    Raises:
        DecodeError: no picture, damaged, cut short, or too large.
    """
    picture = open_image(data, max_pixels=max_pixels)
    shorter = min(picture.height, picture.width)
    return picture.pixels(1.0 if min_size is None else min(1.0, min_size / shorter))


def decode_into(data: bytes, out: np.ndarray) -> bool:
    """Decodes straight into `out`, uint8 [H, W, 3], where the picture is just as large.

    False for whatever else it may be or be wrong with it: `open_picture` then tells. It takes two
    thirds of the time of a picture of 32 x 32 pixels.
    """
    if data[:2] != b"\xff\xd8" or not _is_plain_jpeg(data):
        return False
    try:  # a larger one does not fit, and is refused by its header
        return simplejpeg.decode_jpeg(data, "RGB", buffer=out).shape == out.shape
    except (ValueError, KeyError):
        return False


# The reduced sizes (in eighths) that libjpeg-turbo decodes faster than the whole picture. It also
# offers 5 to 7 eighths, without vector instructions: slower than the whole (2.1 to 2.4 ms
# against 1.9 ms for 640x427).
_FAST_EIGHTHS = (1, 2, 3, 4, 8)
_EXTRANEOUS_AT_END = re.compile(r"^Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9$")


_END = b"\xff\xd9"
_FRAMES = frozenset(
    {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
)  # markers of a picture's size and kind
_MARGIN = 16  # rows that smooth chroma upsampling and reduced decoding may look ahead


class _Jpeg(EncodedImage):
    """A JPEG that libjpeg-turbo decodes, at a reduced DCT scale where that is enough."""

    def __init__(self, data: bytes, max_pixels: int):
        stored_height, stored_width, self._colour, _ = simplejpeg.decode_jpeg_header(
            data, strict=False
        )
        _check_size(stored_width, stored_height, max_pixels)
        self._data = data
        self._stored = stored_height, stored_width
        self._orientation = _jpeg_orientation(data)
        turned = self._orientation >= 5
        self.height, self.width = self._stored[::-1] if turned else self._stored

    def factor(self, scale: float) -> float:
        return next(k for k in _FAST_EIGHTHS if k >= 8 * min(scale, 1.0)) / 8

    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        factor = self.factor(scale)
        data, (height, width) = self._data, self._stored
        if bottom is not None and bottom + _MARGIN < height and self._orientation == 1:
            shorter = _cut_below(data, bottom + _MARGIN)
            data, height = (data, height) if shorter is None else (shorter, bottom + _MARGIN)
        inks = self._colour in ("CMYK", "YCCK")
        reduced = {}
        if factor < 1:
            reduced = {"min_height": math.ceil(height * factor)}
            reduced["min_width"] = math.ceil(width * factor)
            height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False, **reduced)
        image = np.empty((height, width, 4 if inks else 3), np.uint8)
        image = self._decode(data, "CMYK" if inks else "RGB", image, reduced)
        return _upright(_cmyk_to_rgb(image) if inks else image, self._orientation)

    @staticmethod
    def _decode(
        data: bytes | bytearray, colour: str, buffer: np.ndarray, size: dict[str, int]
    ) -> np.ndarray:
        # fastdct and fastupsample saved nothing (at most 2%) and cost up to 3 grey levels.
        try:
            return simplejpeg.decode_jpeg(data, colour, buffer=buffer, **size)
        except ValueError as error:
            # Bytes before the end marker, as padding or below the rows that are wanted, are
            # harmless: they are met when all rows are in the buffer.
            if not _EXTRANEOUS_AT_END.match(str(error)):
                raise DecodeError(f"damaged JPEG: {error}") from error
        return buffer


def _cut_below(data: bytes, rows: int) -> bytearray | None:
    """A JPEG that ends after `rows` rows: the same data under a header that claims fewer.

    The entropy-coded data are read from the top and take most of the time, so what lies below a
    crop need not cost any. None where rows are not stored in that way (progressive, or a scan
    for each colour), or where the end of the data is missing, which the whole must then show.
    """
    if data.rfind(_END, len(data) - 64) < 0:
        return None
    frame = components = None
    for marker, place in _segments(data):
        if marker in (0xC0, 0xC1):  # baseline and extended sequential, Huffman-coded
            frame, components = place, data[place + 9]
        elif marker == 0xDA:  # the first scan: all colours in one, or not
            if frame is None or data[place + 4] != components:
                return None
            shorter = bytearray(data)
            shorter[frame + 5 : frame + 7] = rows.to_bytes(2)
            return shorter
    return None


def _segments(data: bytes) -> list[tuple[int, int]]:
    """(marker, place) of each part of a JPEG's header, up to the first scan."""
    found, place, marker = [], 2, 0
    while marker != 0xDA and place + 10 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        found.append((marker, place))
        place += 2 + (data[place + 2] << 8 | data[place + 3])
    return found


def _cmyk_to_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 4] inks to [H, W, 3].

    Stored inverted, as Adobe's programs do it: like Pillow and the browsers, we take it so also
    where their marker is missing.
    """
    paper = image.astype(np.uint16)
    return ((paper[..., :3] * paper[..., 3:] + 127) // 255).astype(np.uint8)


_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"IDAT", b"IEND", b"gAMA", b"pHYs", b"sRGB", b"tIME")


def _is_plain_png(data: bytes) -> bool:
    """Whether it is a whole PNG of 8-bit grey or RGB with nothing that changes what is seen.

    That is what libpng and Pillow read alike: no transparency, no EXIF or text (which may say how
    the picture is turned), no animation.
    """
    if not data.startswith(_PNG_START):
        return False
    place, names = len(_PNG_START), []
    while place + 12 <= len(data):
        name = data[place + 4 : place + 8]
        end = place + 8 + int.from_bytes(data[place : place + 4])
        sound = name == b"IDAT" or data[end : end + 4] == _crc(data[place + 4 : end])
        if name not in _PNG_CHUNKS or not sound:  # libpng lets some errors pass, Pillow others
            return False
        names.append(name)
        place = end + 4
    whole = place == len(data) and names[:1] == [b"IHDR"] and names[-1] == b"IEND"
    return whole and data[24] == 8 and data[25] in (0, 2)  # bits, and kind of colour


def _crc(chunk: bytes) -> bytes:
    return zlib.crc32(chunk).to_bytes(4)


class _Png(EncodedImage):
    """A plain PNG: OpenCV takes a third of Pillow's time for a small one."""

    def __init__(self, data: bytes, max_pixels: int):
        self.width, self.height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
        _check_size(self.width, self.height, max_pixels)
        self._data, self._max_pixels = data, max_pixels

    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(self._data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if image is None:  # damaged: Pillow says how, or is less strict
            return _General(self._data, self._max_pixels).pixels(scale, bottom)
        return image


class _General(EncodedImage):
    """Whatever else Pillow reads."""

    def __init__(self, data: bytes, max_pixels: int):
        _ignore_size_warnings()
        try:
            self._image = Image.open(io.BytesIO(data), formats=_FORMATS)
        except Exception as error:  # damaged headers raise anything from Pillow's plugins
            raise DecodeError(_reason(error, data)) from error
        _check_size(*self._image.size, max_pixels)
        self._data = data
        # Pillow turns TIFF itself.
        turns = self._image.format != "TIFF"
        self._orientation = self._call(lambda x: x.getexif().get(0x0112, 1)) if turns else 1
        turned = self._orientation in (5, 6, 7, 8)
        self.width, self.height = self._image.size[::-1] if turned else self._image.size

    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        del scale, bottom  # these formats have no cheaper part
        return _upright(self._call(_to_rgb), self._orientation)

    def _call(self, function):
        try:
            return function(self._image)
        except Exception as error:  # damaged data raise anything from Pillow's plugins
            raise DecodeError(_reason(error, self._data)) from error


@functools.cache  # once a process, at its first image and not at import
def _ignore_size_warnings() -> None:
    """Silences Pillow's warning of large images: `max_pixels` refuses or allows them."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] of any Pillow mode."""
    image.load()
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise DecodeError("32-bit grey values have no defined white: save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """`image` turned and mirrored as the EXIF tag 0x0112 asks (1 and unknown values: as is)."""
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
    _ignore_size_warnings()
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "MPO")) as image:
            orientation = image.getexif().get(0x0112, 1)
    except Exception:  # Damaged EXIF of a sound picture: Pillow raises many kinds.
        return 1
    return orientation if orientation in range(1, 9) else 1


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether a JPEG is upright, as far as it says, and of grey or three colours, not of inks."""
    segments = _segments(data)
    frames = [place for marker, place in segments if marker in _FRAMES]
    return bool(frames) and data[frames[0] + 9] in (1, 3) and not _has_exif(data, segments)


def _has_exif(data: bytes, segments: list[tuple[int, int]]) -> bool:
    """Whether a JPEG may be turned: most have no EXIF, and a walk along its header tells.

    (A search of the data for EXIF's mark took as long as decoding a tenth of the picture.)
    """
    return any(
        marker == 0xE1 and data.startswith(b"Exif\0\0", place + 4) for marker, place in segments
    )


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise DecodeError(f"the picture is empty ({width}x{height})")
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
        return f"no picture format is known that starts with {data[:8]!r}"
    return (
        f"damaged picture: {error}" if str(error) else f"damaged picture ({type(error).__name__})"
    )
