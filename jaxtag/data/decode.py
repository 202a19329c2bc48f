"""Encoded images to uint8 RGB: JPEG by libjpeg-turbo, plain PNG by OpenCV, all else by Pillow."""

import math
import zlib

import cv2
import numpy as np
import simplejpeg

from jaxtag.data import tiff
from jaxtag.data.exif import jpeg_orientation
from jaxtag.data.image_reader import (
    MAX_PIXELS,
    DecodeError,
    ImageReader,
    check_size,
    hold_memory,
    strips,
    upright,
)
from jaxtag.data.jpeg import END, JpegHeader, count_scans, is_harmless, read_header
from jaxtag.data.pillow_reader import PillowReader
from jaxtag.errors import UserError

# A JPEG of up to so many times `max_pixels` is decoded at a reduced size, as those of phones with
# 108 and 200 megapixels.
_MAX_REDUCED = 5
# A progressive JPEG goes over all pixels in each of its scans (encoders write 10), and its
# coefficients are kept in memory: about 1 s in each 1.2e9 pixels.
_MAX_SCANNED = 3_000_000_000
_MIN_SCAN_LIMIT = 16
_MAX_COEFFICIENT_BYTES = 720 << 20


def open_image(
    image: bytes | np.ndarray, *, max_pixels: int = MAX_PIXELS, whole: bool = False
) -> ImageReader:
    """Reads the header of an encoded image (any format of `decode`), or wraps an array.

    Args:
        image: Encoded bytes, or uint8 [H, W, 3] RGB.
        max_pixels: An image that claims more is refused.
        whole: Rows that are not asked for are decoded too, so that damage in them is found.

    Raises:
        DecodeError: It is no image, or one of more than `max_pixels`.
        UserError: It is an array of another shape or type.
    """
    if isinstance(image, np.ndarray):
        return _ArrayReader(image, max_pixels)
    if image[:2] == b"\xff\xd8":
        header = read_header(image)
        try:
            return _JpegReader(header, max_pixels, whole)
        except DecodeError:
            raise
        except (ValueError, KeyError):  # KeyError: an unknown color space
            pass  # libjpeg-turbo does not know this kind of JPEG: Pillow decides.
        return PillowReader(header.data, max_pixels, jpeg_orientation(header))
    if image[:4] in tiff.MAGIC:
        preview = tiff.raw_preview(image)
        if preview is not None:
            return _RawReader(preview, max_pixels, whole)
    if _is_plain_png(image):
        return _PngReader(image, max_pixels)
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        # libwebp reads on behind the end of damaged data, into what may lie there.
        image = image[: 8 + int.from_bytes(image[4:8], "little")]
    return PillowReader(image, max_pixels)


def decode(
    image: bytes | np.ndarray, *, min_size: int | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes JPEG, PNG, GIF, WebP, BMP, TIFF, PPM, JPEG 2000 or AVIF to uint8 [H, W, 3], RGB.

    So it does HEIC, where pillow-heif is installed, and the embedded preview of camera raw that is
    laid out as TIFF (CR2, NEF, ARW, DNG). Upright by its EXIF orientation; transparency over white;
    16-bit gray scaled to 8 bits; CMYK converted without color profile; the first frame of an
    animation, the first page of a TIFF. A JPEG of more than `max_pixels` is decoded at a reduced
    size.

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
        check_size(self.width, self.height, max_pixels)
        self._image = image

    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        del scale, bottom
        return self._image


# The reduced sizes (in eighths) that libjpeg-turbo decodes faster than the full image. It also
# offers 5 to 7 eighths, without vector instructions: slower than the full image (2.1 to 2.4 ms
# against 1.9 ms for 640x427).
_FAST_EIGHTHS = (1, 2, 3, 4, 8)
_MARGIN = 16  # rows that smooth chroma upsampling and reduced decoding may look ahead


class _JpegReader(ImageReader):
    """A JPEG that libjpeg-turbo decodes, at a reduced DCT scale where that is enough."""

    def __init__(self, header: JpegHeader, max_pixels: int, whole: bool):
        height, width, self._color_space, _ = simplejpeg.decode_jpeg_header(
            header.data, strict=False
        )
        check_size(width, height, _MAX_REDUCED * max_pixels)
        allowed = [k for k in _FAST_EIGHTHS if width * height * k * k <= 64 * max_pixels]
        if not allowed:
            check_size(width, height, max_pixels)
        self._max_eighths = allowed[-1]
        if not header.has_single_scan:
            _check_scans(header, width * height)
        self._header = header
        self._whole = whole
        self._stored_size = height, width
        self.orientation = jpeg_orientation(header)
        self.notes = tuple(header.notes)
        transposed = self.orientation >= 5
        self.height, self.width = (width, height) if transposed else (height, width)

    def factor(self, scale: float) -> float:
        eighths = 8 if scale >= 1 else next(k for k in _FAST_EIGHTHS if k >= 8 * scale)
        return min(eighths, self._max_eighths) / 8

    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        factor = self.factor(scale)
        data: bytes | bytearray = self._header.data
        height, width = self._stored_size
        if self._whole or self.orientation != 1:
            bottom = None
        if bottom is not None and bottom + _MARGIN < height:
            shorter = _cut_below(self._header, bottom + _MARGIN)
            if shorter is not None:
                data, height = shorter, bottom + _MARGIN
        is_cmyk = self._color_space in ("CMYK", "YCCK")
        min_size = {}
        if factor < 1:
            min_size = {"min_height": math.ceil(height * factor)}
            min_size["min_width"] = math.ceil(width * factor)
            height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False, **min_size)
        with hold_memory(height * width):
            image = np.empty((height, width, 4 if is_cmyk else 3), np.uint8)
            image = self._decode(data, "CMYK" if is_cmyk else "RGB", image, min_size)
            return upright(_cmyk_to_rgb(image) if is_cmyk else image, self.orientation)

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
            if not is_harmless(error, self._header, is_cut=is_cut):
                raise DecodeError(f"damaged JPEG: {error}") from error
        return buffer


class _RawReader(_JpegReader):
    """The preview of camera raw."""

    def __init__(self, preview: tiff.RawPreview, max_pixels: int, whole: bool):
        header = read_header(preview.jpeg)
        try:
            super().__init__(header, max_pixels, whole)
        except (ValueError, KeyError) as error:
            raise DecodeError(f"camera raw with a damaged preview: {error}") from error
        if self.orientation == 1 and preview.orientation != 1:
            self.orientation = preview.orientation
            if self.orientation >= 5:
                self.height, self.width = self.width, self.height
        size = f"{header.width}x{header.height}"
        self.notes = (f"being camera raw, of which the preview ({size}) is used", *self.notes)


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
    for rows in strips(*image.shape[:2]):
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
        check_size(self.width, self.height, max_pixels)
        self._data, self._max_pixels = data, max_pixels

    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        with hold_memory(self.height * self.width):
            try:
                image = cv2.imdecode(np.frombuffer(self._data, np.uint8), cv2.IMREAD_COLOR_RGB)
            except cv2.error:
                image = None
        if image is None:  # damaged: Pillow says how, or is less strict
            return PillowReader(self._data, self._max_pixels).pixels(scale, bottom)
        return image
