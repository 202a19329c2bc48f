"""Makes scenes of coloured shapes: draws lots for one, paints it, and describes it in words."""

import io
import random
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from jaxtag.datasets.shapes_grammar import (
    BACKGROUNDS,
    COLOURS,
    NUMBERS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    relations,
)

SIDE = 64  # pixels
CAPTIONS = 5  # of each scene
MAX_WORDS = 20  # of a caption
# Each colour and each shape is seen in training, these pairs are not: they make the test split.
HELD_OUT = (("red", "triangle"), ("blue", "cross"), ("yellow", "circle"), ("green", "square"))

_PAIRS = tuple((c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT)
_COUNT_WEIGHTS = {1: 30, 2: 40, 3: 20, 4: 10}
_RADIUS = {"small": 0.095, "large": 0.15}  # of the side; a large one just fits into its cell
_JITTER = {"small": 0.05, "large": 0.008}
_TWINS = 0.15  # scenes of which two objects share colour and shape
_FINE = 4  # painted this many times larger, then averaged: smooth edges
_RGB = {
    "red": (220, 40, 45),
    "orange": (245, 145, 30),
    "yellow": (250, 225, 60),
    "green": (40, 165, 75),
    "blue": (50, 95, 225),
    "purple": (155, 60, 185),
    "black": (12, 12, 14),
    "gray": (128, 128, 128),
    "white": (243, 243, 243),
}


def sample(lots: random.Random, unseen: bool) -> dict:
    """A scene; with `unseen` at least one object is of a held-out pair, otherwise none is."""
    (count,) = lots.choices(list(_COUNT_WEIGHTS), list(_COUNT_WEIGHTS.values()))
    pairs = [lots.choice(_PAIRS) for _ in range(count)]
    if unseen:
        pairs[0] = lots.choice(HELD_OUT)
    if count > 1 and lots.random() < _TWINS:
        pairs[1] = pairs[0]
    lots.shuffle(pairs)
    # Reading order, so that the list says nothing that the picture does not.
    cells = sorted(lots.sample(sorted(POSITIONS), count))
    objects = []
    for (colour, shape), (row, column) in zip(pairs, cells, strict=True):
        size = lots.choice(list(SIZES))
        jitter = _JITTER[size]
        objects.append(
            {
                "shape": shape,
                "colour": colour,
                "size": size,
                "row": row,
                "column": column,
                "x": round((column + 0.5) / 3 + lots.uniform(-jitter, jitter), 4),
                "y": round((row + 0.5) / 3 + lots.uniform(-jitter, jitter), 4),
                "radius": round(_RADIUS[size] * lots.uniform(0.94, 1.04), 4),
            }
        )
    return {
        "background": lots.choice(BACKGROUNDS),
        "objects": objects,
        "relations": [list(relation) for relation in relations(objects)],
    }


def paint(scene: Mapping) -> bytes:
    """The scene as a PNG, RGB, SIDE x SIDE pixels, with smooth edges."""
    side = SIDE * _FINE
    image = Image.new("RGB", (side, side), _RGB[scene["background"]])
    draw = ImageDraw.Draw(image)
    for thing in scene["objects"]:
        x, y, radius = (thing[key] * side for key in ("x", "y", "radius"))
        _paint_shape(draw, thing["shape"], x, y, radius, _RGB[thing["colour"]])
    buffer = io.BytesIO()
    image.reduce(_FINE).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _paint_shape(draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, rgb) -> None:
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=rgb)
    elif shape == "square":
        half = 0.9 * r
        draw.rectangle((x - half, y - half, x + half, y + half), fill=rgb)
    elif shape == "triangle":
        draw.polygon([(x, y - r), (x + r, y + 0.85 * r), (x - r, y + 0.85 * r)], fill=rgb)
    else:
        arm = 0.34 * r
        draw.rectangle((x - r, y - arm, x + r, y + arm), fill=rgb)
        draw.rectangle((x - arm, y - r, x + arm, y + r), fill=rgb)


def describe(scene: Mapping, lots: random.Random) -> list[str]:
    """CAPTIONS true captions, each naming every object, in different words as far as they go."""
    forms = (_list, _relation, _list_on_background, _counted, _relation, _list)
    captions: list[str] = []
    for number in range(CAPTIONS):
        for _ in range(8):  # a small scene has few ways to say it: after a while, twice the same
            form = forms[number] if number < 4 else lots.choice(forms)
            caption = form(scene, lots)
            if caption not in captions and len(caption.split()) <= MAX_WORDS:
                break
        else:
            caption = _sentence(_join([_phrase(t, lots, False) for t in scene["objects"]]))
        captions.append(caption)
    lots.shuffle(captions)
    return captions


def _list(scene: Mapping, lots: random.Random) -> str:
    """A small red circle and a blue square."""
    openers = ("", "", "there is ", "a picture of ", "here we see ")
    objects = _ordered(scene["objects"], lots)
    return _sentence(lots.choice(openers) + _join(_phrases(objects, lots)))


def _list_on_background(scene: Mapping, lots: random.Random) -> str:
    """A red circle and a blue square on a black background."""
    phrases = _phrases(_ordered(scene["objects"], lots), lots)
    where = lots.choice(("on", "on", "against"))
    return _sentence(f"{_join(phrases)} {where} a {scene['background']} background")


def _relation(scene: Mapping, lots: random.Random) -> str:
    """A red circle above a blue square, with a green cross; of a single object its position."""
    objects = scene["objects"]
    if len(objects) == 1:
        thing = objects[0]
        place = _often_first(POSITIONS[thing["row"], thing["column"]], lots)
        return _sentence(f"{_phrase(thing, lots, lots.random() < 0.5)} {place}")
    distinct = [
        (i, relation, j)
        for i, relation, j in scene["relations"]
        if _looks(objects[i]) != _looks(objects[j])
    ]
    if not distinct:
        return _list(scene, lots)
    i, relation, j = lots.choice(distinct)
    with_size = len(objects) < 4 and lots.random() < 0.5
    first, second = (_phrase(objects[k], lots, with_size) for k in (i, j))
    text = f"{first} {_often_first(RELATIONS[relation], lots)} {second}"
    others = [thing for k, thing in enumerate(objects) if k not in (i, j)]
    if others:
        text += f", with {_join(_phrases(others, lots, with_size))}"
    return _sentence(text)


def _counted(scene: Mapping, lots: random.Random) -> str:
    """Two shapes: a red circle and a blue square."""
    count = len(scene["objects"])
    noun = lots.choice(("shape", "shape", "object")) + ("s" if count > 1 else "")
    phrases = _phrases(_ordered(scene["objects"], lots), lots)
    return _sentence(f"{NUMBERS[count]} {noun}: {_join(phrases)}")


def _looks(thing: Mapping) -> tuple[str, str]:
    return thing["colour"], thing["shape"]


def _ordered(objects: Sequence[Mapping], lots: random.Random) -> list[Mapping]:
    """Mostly as one reads, now and then in any order."""
    objects = list(objects)
    if lots.random() < 0.3:
        lots.shuffle(objects)
    return objects


def _phrases(
    objects: Sequence[Mapping], lots: random.Random, with_size: bool | None = None
) -> list[str]:
    """A noun phrase for each object; those that look the same share one with a number."""
    if with_size is None:
        with_size = lots.random() < (0.7 if len(objects) < 4 else 0.3)
    groups: dict[tuple, list[Mapping]] = {}
    for thing in objects:
        groups.setdefault((_looks(thing), with_size and thing["size"]), []).append(thing)
    return [_phrase(group[0], lots, with_size, len(group)) for group in groups.values()]


def _phrase(thing: Mapping, lots: random.Random, with_size: bool, count: int = 1) -> str:
    """A small red circle; two small red circles."""
    size = [_often_first(SIZES[thing["size"]], lots)] if with_size else []
    noun = _often_first(SHAPES[thing["shape"]], lots)
    words = [*size, thing["colour"], noun]
    if count == 1:
        return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])
    plural = noun + ("es" if noun.endswith(("s", "x")) else "s")
    return " ".join([NUMBERS[count], *words[:-1], plural])


def _often_first(words: Sequence[str], lots: random.Random) -> str:
    return words[0] if lots.random() < 0.7 else lots.choice(words)


def _join(phrases: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
