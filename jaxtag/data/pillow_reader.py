"""Images that Pillow reads: GIF, WebP, TIFF, JPEG 2000, AVIF, BMP, PPM, odd PNGs and JPEGs."""

import contextlib
import functools
import io
import math
import re
import warnings
from collections.abc import Callable
from typing import TypeVar

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from jaxtag.data.exif import ORIENTATION_TAG, png_orientation, webp_orientation
from jaxtag.data.image_reader import (
    LARGE_PIXELS,
    MAX_PIXELS,
    DecodeError,
    ImageReader,
    check_size,
    hold_memory,
    strips,
    upright,
)
from jaxtag.data.jpeg import is_harmless, read_header
from jaxtag.data.tiff import count_pages

_T = TypeVar("_T")
# Decoders of these take many times the memory or time of others for a pixel.
_SLOW_PIXELS = {"JPEG2000": 16_000_000, "AVIF": 50_000_000, "HEIF": 50_000_000, "WEBP": 40_000_000}
# Pillow parses numbers in Python: 1.6 s for a million pixels.
_SLOW_PIXELS["PPM as text"] = 2_000_000
_PLAIN_PPM = (b"P1", b"P2", b"P3")
# Its header is read byte by byte in Python, a comment of any length with it.
_PPM_HEADER = re.compile(rb"P\S{1,6}+(?:(?:\s|#[^\r\n]*+[\r\n])++\d{1,10}+){2}")
_MAX_PPM_HEADER = 1 << 16
# Plugins that run other programs (EPS starts Ghostscript) stay out. JPEG includes MPO.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "HEIF")


class PillowReader(ImageReader):
    """Any other image that Pillow reads.

    Args:
        data: The file.
        max_pixels: An image that claims more is refused.
        orientation: Of a JPEG; of other formats it is read here.
    """

    def __init__(self, data: bytes, max_pixels: int, orientation: int | None = None):
        if data[:1] == b"P" and not _PPM_HEADER.match(data, 0, _MAX_PPM_HEADER):
            raise DecodeError(_reason(Image.UnidentifiedImageError(), data))
        try:
            self._image = _open_by_pillow(data, _formats())
        except Exception as error:  # damaged headers raise anything from Pillow's plugins
            raise DecodeError(_reason(error, data)) from error
        check_size(*self._image.size, max_pixels)
        self._data = data
        self._is_large_webp = False
        self._reduction = 0
        width, height = self._image.size
        self._check_cost()
        self.orientation = _orientation(self._image, data) if orientation is None else orientation
        pages = count_pages(data) if self._image.format == "TIFF" else 1
        if pages > 1:
            self.notes = (f"{pages - 1} further pages, which are left out",)
        transposed = self.orientation in (5, 6, 7, 8)
        self.height, self.width = (width, height) if transposed else (height, width)

    def _check_cost(self) -> None:
        """Refuses what would take very long or very much memory, by what its header says."""
        kind = self._image.format or ""
        if kind == "PPM" and self._data[:2] in _PLAIN_PPM:
            kind = "PPM as text"
        width, height = self._image.size
        is_large = width * height > _SLOW_PIXELS.get(kind, MAX_PIXELS)
        if kind == "WEBP" and width * height > LARGE_PIXELS:
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
        with hold_memory(self.height * self.width):
            if self._image.format == "TIFF":
                _check_jpegs_in_tiff(self._image, self._data)
            image = _decode_large_webp(self._data) if self._is_large_webp else None
            if image is None:
                image = self._call(_to_rgb)
            return upright(image, self.orientation)

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
    for rows in strips(*image.shape[:2]):
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
                if not is_harmless(error, header):
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
    """Those of `_FORMATS` that this Pillow has; AVIF may be missing, and HEIC is pillow-heif's."""
    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] of any Pillow mode."""
    image.load()
    if image.mode in ("I", "F"):
        raise DecodeError("32-bit gray values have no defined white: save it with 8 or 16 bits")
    width, height = image.size
    rgb = np.empty((height, width, 3), np.uint8)
    for rows in strips(height, width):
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
        return "HEIC needs pillow-heif (pip install 'jaxtag[heif]'): install it, or export a JPEG"
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL is not read: export it as JPEG or PNG"
    if data.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the image: run git lfs pull"
    return ""
