"""Encoded images to uint8 RGB: JPEG by libjpeg-turbo, plain PNG by OpenCV, all else by Pillow."""

import abc
import contextlib
import functools
import io
import math
import os
import re
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from jaxtag.data.exif import ORIENTATION_TAG, jpeg_orientation, png_orientation, webp_orientation
from jaxtag.data.jpeg import END, JpegHeader, count_scans, is_complete, read_header
from jaxtag.errors import UserError

_T = TypeVar("_T")

# The pixels that an image may claim in its header; more are refused before anything is decoded. A
# JPEG of up to _MAX_REDUCED times as many is decoded at a reduced size, as those of phones with 108
# and 200 megapixels.
MAX_PIXELS = 80_000_000
_MAX_REDUCED = 5
# No side is longer: an image of one column takes many times its pixels (pointers to rows).
_MAX_SIDE = 1 << 18
# A progressive JPEG goes over all pixels in each of its scans (encoders write 10), and its
# coefficients are kept in memory: about 1 s in each 1.2e9 pixels.
_MAX_SCANNED = 3_000_000_000
_MIN_SCAN_LIMIT = 16
_MAX_COEFFICIENT_BYTES = 720 << 20
# Decoders of these take many times the memory or time of others for a pixel.
_SLOW_PIXELS = {"JPEG2000": 16_000_000, "AVIF": 50_000_000, "WEBP": 40_000_000}
# Images of more pixels wait for each other where they would take more than _MEMORY_BUDGET bytes
# together, at _BYTES_PER_PIXEL.
_LARGE = 8_000_000
_BYTES_PER_PIXEL = 12
_MEMORY_BUDGET = 2 << 30
_STRIP_PIXELS = 4 << 20  # converted at once
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
        notes: What is odd about the file and harmless.
    """

    height: int
    width: int
    orientation: int = 1
    notes: tuple[str, ...] = ()

    def factor(self, scale: float) -> float:
        """By how much `pixels(scale)` scales: at least `scale`, at most 1, whatever is cheapest.

        An image of more than MAX_PIXELS is scaled by less than `scale` asks for.
        """
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
        header = read_header(image)
        try:
            return _JpegReader(header, max_pixels)
        except DecodeError:
            raise
        except (ValueError, KeyError):  # KeyError: an unknown color space
            pass  # libjpeg-turbo does not know this kind of JPEG: Pillow decides.
        return _PillowReader(header.data, max_pixels, jpeg_orientation(header))
    if _is_plain_png(image):
        return _PngReader(image, max_pixels)
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        # libwebp reads on behind the end of damaged data, into what may lie there.
        image = image[: 8 + int.from_bytes(image[4:8], "little")]
    return _PillowReader(image, max_pixels)


def decode(
    image: bytes | np.ndarray, *, min_size: int | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes JPEG, PNG, GIF, WebP, BMP, TIFF, PPM, JPEG 2000 or AVIF to uint8 [H, W, 3], RGB.

    Upright by its EXIF orientation; transparency over white; 16-bit gray scaled to 8 bits; CMYK
    converted without color profile; the first frame of an animation. A JPEG of more than
    `max_pixels` is decoded at a reduced size.

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
        DecodeError: It is no image.
    """
    return open_image(data).orientation


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
    if image[:2] != b"\xff\xd8":
        return False
    header = read_header(image)
    # simplejpeg keeps 4 kB for ever where the buffer is too small.
    if (header.height, header.width, 3) != out.shape or header.num_components not in (1, 3):
        return False
    if jpeg_orientation(header) != 1:
        return False
    try:
        return simplejpeg.decode_jpeg(header.data, "RGB", buffer=out).shape == out.shape
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
_MARGIN = 16  # rows that smooth chroma upsampling and reduced decoding may look ahead


class _JpegReader(ImageReader):
    """A JPEG that libjpeg-turbo decodes, at a reduced DCT scale where that is enough."""

    def __init__(self, header: JpegHeader, max_pixels: int):
        height, width, self._color_space, _ = simplejpeg.decode_jpeg_header(
            header.data, strict=False
        )
        _check_size(width, height, _MAX_REDUCED * max_pixels)
        allowed = [k for k in _FAST_EIGHTHS if width * height * k * k <= 64 * max_pixels]
        if not allowed:
            _check_size(width, height, max_pixels)
        self._max_eighths = allowed[-1]
        if not header.has_single_scan:
            _check_scans(header, width * height)
        self._header = header
        self._stored_size = height, width
        self.orientation = jpeg_orientation(header)
        self.notes = tuple(header.notes)
        transposed = self.orientation >= 5
        self.height, self.width = (width, height) if transposed else (height, width)

    def factor(self, scale: float) -> float:
        eighths = next(k for k in _FAST_EIGHTHS if k >= 8 * min(scale, 1.0))
        return min(eighths, self._max_eighths) / 8

    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        factor = self.factor(scale)
        data: bytes | bytearray = self._header.data
        height, width = self._stored_size
        if bottom is not None and bottom + _MARGIN < height and self.orientation == 1:
            shorter = _cut_below(self._header, bottom + _MARGIN)
            if shorter is not None:
                data, height = shorter, bottom + _MARGIN
        is_cmyk = self._color_space in ("CMYK", "YCCK")
        min_size = {}
        if factor < 1:
            min_size = {"min_height": math.ceil(height * factor)}
            min_size["min_width"] = math.ceil(width * factor)
            height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False, **min_size)
        with _hold_memory(height * width):
            image = np.empty((height, width, 4 if is_cmyk else 3), np.uint8)
            image = self._decode(data, "CMYK" if is_cmyk else "RGB", image, min_size)
            return _upright(_cmyk_to_rgb(image) if is_cmyk else image, self.orientation)

    def _decode(
        self,
        data: bytes | bytearray,
        color_space: str,
        buffer: np.ndarray,
        min_size: dict[str, int],
    ) -> np.ndarray:
        # fastdct and fastupsample saved nothing (at most 2%) and cost up to 3 gray levels.
        try:
            return simplejpeg.decode_jpeg(data, color_space, buffer=buffer, **min_size)
        except ValueError as error:
            # Bytes before the end marker, as padding or below the rows that are decoded, are
            # harmless where all rows are there: the decoder meets them after the last.
            is_cut = data is not self._header.data
            is_harmless = _EXTRANEOUS_AT_END.match(str(error)) and (
                is_cut or is_complete(self._header)
            )
            if not is_harmless:
                raise DecodeError(f"damaged JPEG: {error}") from error
        return buffer


def _check_scans(header: JpegHeader, num_pixels: int) -> None:
    """Refuses a JPEG whose scans take very long, or whose coefficients take very much memory."""
    limit = max(_MIN_SCAN_LIMIT, _MAX_SCANNED // num_pixels)
    if count_scans(header, limit) > limit:
        raise DecodeError(
            f"it goes over its {header.width}x{header.height} pixels in more than {limit:,} scans: "
            "save it anew"
        )
    if 2 * header.num_components * num_pixels > _MAX_COEFFICIENT_BYTES:
        raise DecodeError(
            f"{header.width}x{header.height} is too large for a progressive JPEG of "
            f"{header.num_components} components: save it as baseline, or scale it down"
        )


def _cut_below(header: JpegHeader, rows: int) -> bytearray | None:
    """A JPEG that ends after `rows` rows: the same data under a header that claims fewer.

    The entropy-coded data are read from the top and take most of the time, so what lies below a
    crop need not cost any.

    Returns:
        None where rows are not stored in that way (progressive, or a scan for each component),
        where restart markers would be found below, or where the end of the data is missing, which
        decoding all of it must then show.
    """
    data = header.data
    if not header.has_single_scan or header.restart_interval or header.lacks_end:
        return None
    if data.rfind(END, len(data) - 64) < 0:
        return None
    shorter = bytearray(data)
    shorter[header.frame + 5 : header.frame + 7] = rows.to_bytes(2)
    return shorter


def _cmyk_to_rgb(image: np.ndarray) -> np.ndarray:
    """CMYK uint8 [H, W, 4] to RGB [H, W, 3].

    The values are taken as inverted, as Adobe's programs store them and as Pillow and the browsers
    read them, also where their marker is missing.
    """
    rgb = np.empty((*image.shape[:2], 3), np.uint8)
    for rows in _strips(*image.shape[:2]):
        inverted = image[rows].astype(np.uint16)
        rgb[rows] = (inverted[..., :3] * inverted[..., 3:] + 127) // 255
    return rgb


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
        with _hold_memory(self.height * self.width):
            try:
                image = cv2.imdecode(np.frombuffer(self._data, np.uint8), cv2.IMREAD_COLOR_RGB)
            except cv2.error:
                image = None
        if image is None:  # damaged: Pillow says how, or is less strict
            return _PillowReader(self._data, self._max_pixels).pixels(scale, bottom)
        return image


class _PillowReader(ImageReader):
    """Any other image that Pillow reads.

    Args:
        data: The file.
        max_pixels: An image that claims more is refused.
        orientation: Of a JPEG; of other formats it is read here.
    """

    def __init__(self, data: bytes, max_pixels: int, orientation: int | None = None):
        try:
            self._image = _open_by_pillow(data, _formats())
        except Exception as error:  # damaged headers raise anything from Pillow's plugins
            raise DecodeError(_reason(error, data)) from error
        _check_size(*self._image.size, max_pixels)
        self._data = data
        self._is_large_webp = False
        self._reduction = 0
        width, height = self._image.size
        self._check_cost()
        self.orientation = _orientation(self._image, data) if orientation is None else orientation
        transposed = self.orientation in (5, 6, 7, 8)
        self.height, self.width = (width, height) if transposed else (height, width)

    def _check_cost(self) -> None:
        """Refuses what would take very long or very much memory, by what its header says."""
        kind = self._image.format or ""
        width, height = self._image.size
        is_large = width * height > _SLOW_PIXELS.get(kind, MAX_PIXELS)
        if kind == "WEBP" and width * height > _LARGE:
            self._is_large_webp = b"ANIM" not in self._data[:64]
            is_large = is_large and not self._is_large_webp
        if kind == "JPEG2000":
            levels, is_slow = _jpeg2000_cost(self._data)
            if is_slow:
                raise DecodeError("it has very many tiles or layers of quality: save it anew")
            excess = width * height / _SLOW_PIXELS[kind]
            self._reduction = max(0, math.ceil(math.log(excess, 4)))
            setattr(self._image, "reduce", self._reduction)  # noqa: B010  # a field of its plugin
            is_large = self._reduction > levels
        if is_large:
            raise DecodeError(
                f"{width}x{height} is more than the {_SLOW_PIXELS[kind]:,} pixels allowed in "
                f"{kind}: scale it down, or save it as JPEG or PNG"
            )

    def factor(self, scale: float) -> float:
        del scale
        return 0.5**self._reduction

    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        del scale, bottom  # these formats have no cheaper part
        with _hold_memory(self.height * self.width):
            if self._image.format == "TIFF":
                _check_jpegs_in_tiff(self._image, self._data)
            image = _decode_large_webp(self._data) if self._is_large_webp else None
            if image is None:
                image = self._call(_to_rgb)
            return _upright(image, self.orientation)

    def _call(self, function: Callable[[Image.Image], _T]) -> _T:
        try:
            return function(self._image)
        except Exception as error:  # damaged data raise anything from Pillow's plugins
            raise DecodeError(_reason(error, self._data)) from error


def _orientation(image: Image.Image, data: bytes) -> int:
    """The orientation that is still to be undone, 1 to 8."""
    if image.format == "TIFF":  # Pillow turns it
        return 1
    if image.format == "PNG":
        return png_orientation(data)
    if image.format == "WEBP":
        return webp_orientation(data)
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF of a sound image: Pillow raises many kinds
        return 1
    return orientation if orientation in range(1, 9) else 1


def _decode_large_webp(data: bytes) -> np.ndarray | None:
    """A still WebP by OpenCV, which takes half of Pillow's memory; None where it cannot."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if image is None or image.ndim != 3:
        return None
    rgb = np.empty((*image.shape[:2], 3), np.uint8)
    for rows in _strips(*image.shape[:2]):
        strip = image[rows]
        if image.shape[2] == 4:
            rgba = Image.fromarray(np.ascontiguousarray(strip[..., [2, 1, 0, 3]]))
            rgb[rows] = np.asarray(_over_white(rgba))
        else:
            rgb[rows] = strip[..., ::-1]
    return rgb


# The offset of SIZ and the first bytes of COD in a codestream (ITU-T T.800, annex A).
_SIZ, _COD = b"\xff\x4f\xff\x51", b"\xff\x52"
_MAX_TILES, _MAX_LAYERS = 10_000, 100


def _jpeg2000_cost(data: bytes) -> tuple[int, bool]:
    """How often the size of a JPEG 2000 can be halved, and whether it takes long for its size."""
    start = data.find(_SIZ)
    if start < 0:
        return 0, False
    size = [int.from_bytes(data[start + 8 + 4 * n : start + 12 + 4 * n]) for n in range(8)]
    width, height, _, _, tile_width, tile_height, *_ = size
    tiles = math.ceil(width / max(tile_width, 1)) * math.ceil(height / max(tile_height, 1))
    cod = data.find(_COD, start)
    if cod < 0:
        return 0, tiles > _MAX_TILES
    layers, levels = int.from_bytes(data[cod + 6 : cod + 8]), data[cod + 9 : cod + 10]
    return int.from_bytes(levels), tiles > _MAX_TILES or layers > _MAX_LAYERS


# Tags of a TIFF (TIFF 6.0, and Technical Note 2 on JPEG).
_COMPRESSION, _JPEG_TABLES, _JPEG_IN_TIFF = 259, 347, 7
_PARTS = ((273, 279), (324, 325))  # offsets and sizes of strips, and of tiles


def _check_jpegs_in_tiff(image: Image.Image, data: bytes) -> None:
    """Raises DecodeError where a JPEG in a TIFF is damaged: libtiff fills it with gray."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(_COMPRESSION) != _JPEG_IN_TIFF:
        return
    tables = tags.get(_JPEG_TABLES, b"")
    for offsets, sizes in _PARTS:
        for offset, size in zip(tags.get(offsets, ()), tags.get(sizes, ()), strict=False):
            part = data[offset : offset + size]
            if len(part) < size:
                raise DecodeError("damaged TIFF: it ends inside of a JPEG")
            # The quantization and Huffman tables are stored once for all parts.
            header = read_header(tables[:-2] + part[2:] if tables else part)
            try:
                *_, color_space, _ = simplejpeg.decode_jpeg_header(header.data, strict=False)
                is_cmyk = color_space in ("CMYK", "YCCK")
                simplejpeg.decode_jpeg(header.data, "CMYK" if is_cmyk else "GRAY")
            except KeyError:
                continue
            except ValueError as error:
                if "Unsupported" in str(error):
                    continue
                if not (_EXTRANEOUS_AT_END.match(str(error)) and is_complete(header)):
                    raise DecodeError(f"damaged JPEG in a TIFF: {error}") from error


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


def _to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] of any Pillow mode."""
    image.load()
    if image.mode in ("I", "F"):
        raise DecodeError("32-bit gray values have no defined white: save it with 8 or 16 bits")
    width, height = image.size
    rgb = np.empty((height, width, 3), np.uint8)
    for rows in _strips(height, width):
        is_whole = rows == slice(0, height)
        strip = image if is_whole else image.crop((0, rows.start, width, rows.stop))
        if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
            rgb[rows] = (np.asarray(strip).astype(np.uint16) >> 8)[..., None]
        else:
            rgb[rows] = np.asarray(_over_white(strip))
    return rgb


def _over_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _strips(height: int, width: int) -> Iterator[slice]:
    """Slices of rows that are converted at once, so that copies of all pixels are few."""
    rows = max(1, _STRIP_PIXELS // max(width, 1))
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


class _MemoryBudget:
    """Bytes that the threads of a process share: large images wait for each other."""

    def __init__(self, total: int):
        self._free = self._total = total
        self._condition = threading.Condition()

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        size = min(size, self._total)
        with self._condition:
            self._condition.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._condition:
                self._free += size
                self._condition.notify_all()


@functools.cache
def _budget(process: int) -> _MemoryBudget:
    """That of a process: one that was forked must not wait for threads of its parent."""
    del process
    return _MemoryBudget(_MEMORY_BUDGET)


def _hold_memory(num_pixels: int) -> contextlib.AbstractContextManager[None]:
    """Waits until an image of that size may be decoded; a small one need not."""
    if num_pixels <= _LARGE:
        return contextlib.nullcontext()
    return _budget(os.getpid()).hold(num_pixels * _BYTES_PER_PIXEL)


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


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise DecodeError(f"the image is empty ({width}x{height})")
    if max(width, height) > _MAX_SIDE:
        raise DecodeError(f"{width}x{height}: no side may have more than {_MAX_SIDE:,} pixels")
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
        if kind := _known_kind(data):
            return kind
        if data[:2] == b"\xff\xd8":
            return "damaged JPEG: its header cannot be read"
        return f"no image format is known that starts with {data[:8]!r}"
    return f"damaged image: {error}" if str(error) else f"damaged image ({type(error).__name__})"


def _known_kind(data: bytes) -> str:
    """What a file is that is no image, for the formats that people meet; "" for others."""
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return "HEIC is not read: export it as JPEG"
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL is not read: export it as JPEG or PNG"
    if data.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the image: run git lfs pull"
    return ""
