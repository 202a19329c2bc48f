"""Scenes of colored shapes: samples one, paints it, and describes it in words."""

import io
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

from jaxtag.datasets.shapes_grammar import (
    BACKGROUNDS,
    COLORS,
    NUMBERS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Item,
    Scene,
    relations,
)

SIDE = 64  # pixels
CAPTIONS = 5  # of each scene
MAX_WORDS = 20  # of a caption
# Each color and each shape is seen in training, these pairs are not: they make the test split.
HELD_OUT_PAIRS = (("red", "triangle"), ("blue", "cross"), ("yellow", "circle"), ("green", "square"))

_PAIRS = tuple((c, s) for c in COLORS for s in SHAPES if (c, s) not in HELD_OUT_PAIRS)
_COUNT_WEIGHTS = {1: 30, 2: 40, 3: 20, 4: 10}
_RADIUS = {"small": 0.095, "large": 0.15}  # of the side; a large one just fits into its cell
_JITTER = {"small": 0.05, "large": 0.008}
_TWINS = 0.15  # fraction of scenes of which two objects share color and shape
_SUPERSAMPLING = 4  # painted this many times larger, then averaged: smooth edges
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


def sample(rng: random.Random, held_out: bool) -> Scene:
    """Draws a scene; with `held_out` at least one object is of a held-out pair, else none is."""
    (count,) = rng.choices(list(_COUNT_WEIGHTS), list(_COUNT_WEIGHTS.values()))
    pairs = [rng.choice(_PAIRS) for _ in range(count)]
    if held_out:
        pairs[0] = rng.choice(HELD_OUT_PAIRS)
    if count > 1 and rng.random() < _TWINS:
        pairs[1] = pairs[0]
    rng.shuffle(pairs)
    # Reading order, so that the list holds nothing that the image does not show.
    cells = sorted(rng.sample(sorted(POSITIONS), count))
    objects = []
    for (color, shape), (row, column) in zip(pairs, cells, strict=True):
        size = rng.choice(list(SIZES))
        jitter = _JITTER[size]
        objects.append(
            {
                "shape": shape,
                "colour": color,
                "size": size,
                "row": row,
                "column": column,
                "x": round((column + 0.5) / 3 + rng.uniform(-jitter, jitter), 4),
                "y": round((row + 0.5) / 3 + rng.uniform(-jitter, jitter), 4),
                "radius": round(_RADIUS[size] * rng.uniform(0.94, 1.04), 4),
            }
        )
    return {
        "background": rng.choice(BACKGROUNDS),
        "objects": objects,
        "relations": [list(relation) for relation in relations(objects)],
    }


def paint(scene: Scene) -> bytes:
    """Paints the scene as a PNG, RGB, SIDE x SIDE pixels, with smooth edges."""
    side = SIDE * _SUPERSAMPLING
    image = Image.new("RGB", (side, side), _RGB[scene["background"]])
    draw = ImageDraw.Draw(image)
    for item in scene["objects"]:
        x, y, radius = (item[key] * side for key in ("x", "y", "radius"))
        _paint_shape(draw, item["shape"], x, y, radius, _RGB[item["colour"]])
    buffer = io.BytesIO()
    image.reduce(_SUPERSAMPLING).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _paint_shape(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, rgb: tuple[int, int, int]
) -> None:
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


def describe(scene: Scene, rng: random.Random) -> list[str]:
    """Writes CAPTIONS true captions, each naming every object, as different as there are forms."""
    forms = (_list, _relation, _list_on_background, _counted, _relation, _list)
    captions: list[str] = []
    for number in range(CAPTIONS):
        for _ in range(8):  # a small scene has few ways to say it: after a while, twice the same
            form = forms[number] if number < 4 else rng.choice(forms)
            caption = form(scene, rng)
            if caption not in captions and len(caption.split()) <= MAX_WORDS:
                break
        else:
            caption = _sentence(_join([_phrase(t, rng, False) for t in scene["objects"]]))
        captions.append(caption)
    rng.shuffle(captions)
    return captions


def _list(scene: Scene, rng: random.Random) -> str:
    """A small red circle and a blue square."""
    openers = ("", "", "there is ", "a picture of ", "here we see ")
    objects = _ordered(scene["objects"], rng)
    return _sentence(rng.choice(openers) + _join(_phrases(objects, rng)))


def _list_on_background(scene: Scene, rng: random.Random) -> str:
    """A red circle and a blue square on a black background."""
    phrases = _phrases(_ordered(scene["objects"], rng), rng)
    where = rng.choice(("on", "on", "against"))
    return _sentence(f"{_join(phrases)} {where} a {scene['background']} background")


def _relation(scene: Scene, rng: random.Random) -> str:
    """A red circle above a blue square, with a green cross; of a single object its position."""
    objects = scene["objects"]
    if len(objects) == 1:
        item = objects[0]
        position = _often_first(POSITIONS[item["row"], item["column"]], rng)
        return _sentence(f"{_phrase(item, rng, rng.random() < 0.5)} {position}")
    distinct = [
        (i, relation, j)
        for i, relation, j in scene["relations"]
        if _appearance(objects[i]) != _appearance(objects[j])
    ]
    if not distinct:
        return _list(scene, rng)
    i, relation, j = rng.choice(distinct)
    with_size = len(objects) < 4 and rng.random() < 0.5
    first, second = (_phrase(objects[k], rng, with_size) for k in (i, j))
    text = f"{first} {_often_first(RELATIONS[relation], rng)} {second}"
    others = [item for k, item in enumerate(objects) if k not in (i, j)]
    if others:
        text += f", with {_join(_phrases(others, rng, with_size))}"
    return _sentence(text)


def _counted(scene: Scene, rng: random.Random) -> str:
    """Two shapes: a red circle and a blue square."""
    count = len(scene["objects"])
    noun = rng.choice(("shape", "shape", "object")) + ("s" if count > 1 else "")
    phrases = _phrases(_ordered(scene["objects"], rng), rng)
    return _sentence(f"{NUMBERS[count]} {noun}: {_join(phrases)}")


def _appearance(item: Item) -> tuple[str, str]:
    return item["colour"], item["shape"]


def _ordered(objects: Sequence[Item], rng: random.Random) -> list[Item]:
    """Mostly in reading order, now and then in any order."""
    ordered = list(objects)
    if rng.random() < 0.3:
        rng.shuffle(ordered)
    return ordered


def _phrases(
    objects: Sequence[Item], rng: random.Random, with_size: bool | None = None
) -> list[str]:
    """A noun phrase for each object; those that look the same share one with a number."""
    if with_size is None:
        with_size = rng.random() < (0.7 if len(objects) < 4 else 0.3)
    groups: dict[tuple[tuple[str, str], str | bool], list[Item]] = {}
    for item in objects:
        groups.setdefault((_appearance(item), with_size and item["size"]), []).append(item)
    return [_phrase(group[0], rng, with_size, len(group)) for group in groups.values()]


def _phrase(item: Item, rng: random.Random, with_size: bool, count: int = 1) -> str:
    """A small red circle; two small red circles."""
    size = [_often_first(SIZES[item["size"]], rng)] if with_size else []
    noun = _often_first(SHAPES[item["shape"]], rng)
    words = [*size, item["colour"], noun]
    if count == 1:
        return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])
    plural = noun + ("es" if noun.endswith(("s", "x")) else "s")
    return " ".join([NUMBERS[count], *words[:-1], plural])


def _often_first(words: Sequence[str], rng: random.Random) -> str:
    return words[0] if rng.random() < 0.7 else rng.choice(words)


def _join(phrases: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
