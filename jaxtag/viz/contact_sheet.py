"""A contact sheet: pictures with what was said of them and what should have been said.

The font is the one inside Pillow, so that sheets look alike everywhere. It holds little beyond
ASCII: accents are left off (é is drawn as e), and what has no plain form (日) shows as a box.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_PICTURE = 240  # pixels, the square that a picture fills
_GAP = 24
_PAD = 12
_LINE = 1.35  # line height in font sizes
_PAPER, _CARD, _EDGE = "#f3f4f6", "#ffffff", "#d9dce1"
_INK, _ACCENT, _GREY = "#111827", "#1d4ed8", "#6b7280"
_SIZES = {"title": 26, "caption": 16, "reference": 13, "gap": 4}
_PIXEL_ART = 64  # pictures up to this size are enlarged with their pixels shown


def contact_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    path: str | Path,
    *,
    columns: int = 4,
    title: str | None = None,
) -> None:
    """Writes a PNG of pictures, each over its caption (blue) and its references (grey).

    Args:
        images: uint8 [H, W, 3] each, of any sizes; at least one.
        captions: one for each picture.
        references: for each picture its references, possibly none.
        path: the PNG to write; its folder must exist.
        columns: pictures in a row.
        title: a headline.

    Raises:
        ValueError: the lists differ in length or are empty, or a picture is not uint8 [H, W, 3].
    """
    if not len(images) == len(captions) == len(references) or not len(images) or columns < 1:
        raise ValueError("as many captions and lists of references as pictures, and at least one")
    columns = min(columns, len(images))
    texts = [_layout(c, rs) for c, rs in zip(captions, references, strict=True)]
    rows = [range(i, min(i + columns, len(images))) for i in range(0, len(images), columns)]
    heights = [
        _PICTURE + 2 * _PAD + max(_height(texts[i]) for i in row) + _PAD // 2 for row in rows
    ]
    card = _PICTURE + 2 * _PAD
    width = columns * (card + _GAP) + _GAP
    heading = _wrap(title, "title", width - 2 * _GAP) if title else []
    top = _GAP + (int(len(heading) * _SIZES["title"] * _LINE) + _PAD if heading else 0)
    sheet = Image.new("RGB", (width, top + sum(heights) + _GAP * len(rows)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_GAP, _GAP), [(line, "title", _INK) for line in heading])
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left = _GAP + column * (card + _GAP)
            box = (left, top, left + card - 1, top + height - 1)
            draw.rounded_rectangle(box, radius=8, fill=_CARD, outline=_EDGE)
            picture = _fit(images[i])
            x = left + (card - picture.width) // 2
            y = top + _PAD + (_PICTURE - picture.height) // 2
            sheet.paste(picture, (x, y))
            _write(draw, (left + _PAD, top + _PICTURE + 2 * _PAD), texts[i])
        top += height + _GAP
    sheet.save(path, format="PNG")


def _fit(image: np.ndarray) -> Image.Image:
    """The picture scaled, in proportion, to fill the square that it gets."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"a picture must be uint8 [H, W, 3], not {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    scale = _PICTURE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = max(height, width) <= _PIXEL_ART
    method = Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC
    return Image.fromarray(image).resize(size, method)


@lru_cache
def _font(style: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=_SIZES[style])


def _layout(caption: str, references: Sequence[str]) -> list[tuple[str, str, str]]:
    """Lines of one picture: (text, style, colour)."""
    lines = [(line, "caption", _ACCENT) for line in _wrap(caption, "caption", _PICTURE)]
    lines.append(("", "gap", _GREY))
    for reference in references:
        for place, line in enumerate(_wrap(reference, "reference", _PICTURE - 12)):
            lines.append((("- " if place == 0 else "  ") + line, "reference", _GREY))
    return lines


def _wrap(text: str, style: str, width: int) -> list[str]:
    """Breaks a text into lines of at most `width` pixels, long words within themselves."""
    font = _font(style)
    lines, line = [], ""
    for word in _plain(text).split() or ["(no caption)"]:
        joined = f"{line} {word}" if line else word
        if font.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width:
            fits = next(n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= width)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line]


def _plain(text: str) -> str:
    """The text with characters that the font lacks in their plain form, where they have one."""
    return "".join(char if char.isspace() or _drawn(char) else _folded(char) for char in text)


@lru_cache(maxsize=4096)
def _drawn(char: str) -> bool:
    font = _font("caption")
    return bytes(font.getmask(char)) != bytes(font.getmask("\U0010ffff"))


def _folded(char: str) -> str:
    base = unicodedata.normalize("NFKD", char)
    plain = "".join(c for c in base if not unicodedata.combining(c)) or char
    plain = plain if plain != "ß" else "ss"
    return {"–": "-", "—": "-", "’": "'", "‘": "'", "“": '"', "”": '"'}.get(plain, plain)


def _height(lines: Sequence[tuple[str, str, str]]) -> int:
    return sum(int(_SIZES[style] * _LINE) for _, style, _ in lines)


def _write(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: Sequence[tuple[str, str, str]]
) -> None:
    x, y = corner
    for text, style, colour in lines:
        bold = 0.4 if style in ("title", "caption") else 0  # the built-in font has no bold face
        draw.text((x, y), text, colour, _font(style), stroke_width=bold, stroke_fill=colour)
        y += int(_SIZES[style] * _LINE)
