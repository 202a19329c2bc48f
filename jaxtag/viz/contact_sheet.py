"""Contact sheets: images with their predictions and references.

The font is the one inside Pillow, so that sheets look the same everywhere. It holds little beyond
ASCII: accents are dropped (é is drawn as e), and characters without a plain form (日) become boxes.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxtag.storage.atomic_file import replacing

_IMAGE_SIZE = 240  # pixels, the square that an image fills
_GAP = 24
_PADDING = 12
_LINE_HEIGHT = 1.35  # in font sizes
_BACKGROUND, _CARD, _BORDER = "#f3f4f6", "#ffffff", "#d9dce1"
_INK, _ACCENT, _GRAY = "#111827", "#1d4ed8", "#6b7280"
_FONT_SIZES = {"title": 26, "caption": 16, "reference": 13, "gap": 4}
_MAX_CHARACTERS = 400  # of a text; more would not be read on a sheet
_MAX_PIXEL_ART = 64  # images up to this size are enlarged without interpolation

Line = tuple[str, str, str]  # (text, style, color)


def contact_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    path: str | Path,
    *,
    columns: int = 4,
    title: str | None = None,
) -> None:
    """Writes a PNG of images, each above its caption (blue) and its references (gray).

    Args:
        images: uint8 [H, W, 3] each, of any sizes; at least one.
        captions: one per image.
        references: any number per image.
        path: the PNG to write; its folder must exist.
        columns: images per row.
        title: a headline.

    Raises:
        UserError: the file cannot be written.
        ValueError: the lists differ in length or are empty, or an image is not uint8 [H, W, 3].
    """
    if not len(images) == len(captions) == len(references) or not len(images) or columns < 1:
        raise ValueError("as many captions and lists of references as images, and at least one")
    columns = min(columns, len(images))
    texts = [_layout(c, rs) for c, rs in zip(captions, references, strict=True)]
    rows = [range(i, min(i + columns, len(images))) for i in range(0, len(images), columns)]
    heights = [
        _IMAGE_SIZE + 2 * _PADDING + max(_height(texts[i]) for i in row) + _PADDING // 2
        for row in rows
    ]
    card = _IMAGE_SIZE + 2 * _PADDING
    width = columns * (card + _GAP) + _GAP
    heading = _wrap(title, "title", width - 2 * _GAP) if title else []
    heading_height = int(len(heading) * _FONT_SIZES["title"] * _LINE_HEIGHT)
    top = _GAP + (heading_height + _PADDING if heading else 0)
    sheet = Image.new("RGB", (width, top + sum(heights) + _GAP * len(rows)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_GAP, _GAP), [(line, "title", _INK) for line in heading])
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left = _GAP + column * (card + _GAP)
            box = (left, top, left + card - 1, top + height - 1)
            draw.rounded_rectangle(box, radius=8, fill=_CARD, outline=_BORDER)
            image = _fit(images[i])
            x = left + (card - image.width) // 2
            y = top + _PADDING + (_IMAGE_SIZE - image.height) // 2
            sheet.paste(image, (x, y))
            _write(draw, (left + _PADDING, top + _IMAGE_SIZE + 2 * _PADDING), texts[i])
        top += height + _GAP
    with replacing(path) as partial:
        sheet.save(partial, format="PNG")


def _fit(image: np.ndarray) -> Image.Image:
    """Scales an image, in proportion, to fill its square."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image must be uint8 [H, W, 3], not {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    scale = _IMAGE_SIZE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    is_small = max(height, width) <= _MAX_PIXEL_ART
    method = Image.Resampling.NEAREST if is_small else Image.Resampling.BICUBIC
    return Image.fromarray(image).resize(size, method)


@lru_cache
def _font(style: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=_FONT_SIZES[style])


def _layout(caption: str, references: Sequence[str]) -> list[Line]:
    """The lines under one image."""
    lines = [(line, "caption", _ACCENT) for line in _wrap(caption, "caption", _IMAGE_SIZE)]
    lines.append(("", "gap", _GRAY))
    for reference in references:
        for number, line in enumerate(_wrap(reference, "reference", _IMAGE_SIZE - 12)):
            lines.append((("- " if number == 0 else "  ") + line, "reference", _GRAY))
    return lines


def _wrap(text: str, style: str, width: int) -> list[str]:
    """Breaks a text into lines of at most `width` pixels; longer words are split.

    A text of more than _MAX_CHARACTERS is cut.
    """
    font = _font(style)
    if len(text) > _MAX_CHARACTERS:
        text = f"{text[:_MAX_CHARACTERS]}..."
    lines: list[str] = []
    line = ""
    for word in _plain(text).split() or ["(no caption)"]:
        joined = f"{line} {word}" if line else word
        if font.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width:
            length = next(n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= width)
            lines.append(word[:length])
            word = word[length:]
        line = word
    return [*lines, line]


def _plain(text: str) -> str:
    """Replaces characters that the font lacks by their plain form, where they have one."""
    return "".join(char if char.isspace() or _has_glyph(char) else _fold(char) for char in text)


@lru_cache(maxsize=4096)
def _has_glyph(char: str) -> bool:
    font = _font("caption")
    return bytes(font.getmask(char)) != bytes(font.getmask("\U0010ffff"))


def _fold(char: str) -> str:
    base = unicodedata.normalize("NFKD", char)
    plain = "".join(c for c in base if not unicodedata.combining(c)) or char
    plain = plain if plain != "ß" else "ss"
    return {"–": "-", "—": "-", "’": "'", "‘": "'", "“": '"', "”": '"'}.get(plain, plain)


def _height(lines: Sequence[Line]) -> int:
    return sum(int(_FONT_SIZES[style] * _LINE_HEIGHT) for _, style, _ in lines)


def _write(draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: Sequence[Line]) -> None:
    x, y = corner
    for text, style, color in lines:
        bold = 0.4 if style in ("title", "caption") else 0  # the built-in font has no bold face
        draw.text((x, y), text, color, _font(style), stroke_width=bold, stroke_fill=color)
        y += int(_FONT_SIZES[style] * _LINE_HEIGHT)
