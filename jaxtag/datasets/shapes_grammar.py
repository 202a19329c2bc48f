"""Scenes of colored shapes: their vocabulary, and whether what a caption asserts is true of one.

A scene is a dict, stored as JSON in the records of `shapes_captions`:
`{"background": "black", "objects": [{"shape": "circle", "colour": "red", "size": "small",
"row": 0, "column": 2, "x": 0.83, "y": 0.17, "radius": 0.08}, …],
"relations": [[0, "left of", 1], …]}`.
Rows and columns are those of a 3 x 3 grid, with at most one object to a cell; x, y and radius are
fractions of the image's side. A relation names objects by position in the list.
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# The first word is the common one; the others are used now and then.
SHAPES = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "cross": ("cross",),
}
SIZES = {"small": ("small", "tiny"), "large": ("large", "big")}
COLORS = ("red", "orange", "yellow", "green", "blue", "purple")
BACKGROUNDS = ("black", "gray", "white")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
RELATIONS = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
# (row, column) of the grid -> its names in captions.
POSITIONS = {
    (0, 0): ("in the top left corner", "at the top left"),
    (0, 1): ("at the top",),
    (0, 2): ("in the top right corner", "at the top right"),
    (1, 0): ("on the left side", "on the left"),
    (1, 1): ("in the center", "in the middle"),
    (1, 2): ("on the right side", "on the right"),
    (2, 0): ("in the bottom left corner", "at the bottom left"),
    (2, 1): ("at the bottom",),
    (2, 2): ("in the bottom right corner", "at the bottom right"),
}

Item = Mapping[str, Any]  # an object of a scene
Scene = Mapping[str, Any]
Description = tuple[str, str | None, str | None]  # shape, color, size; None where not named
Attribute = tuple[Any, ...]  # as `attributes` makes it


def relations(objects: Sequence[Item]) -> list[tuple[int, str, int]]:
    """All true (subject, relation, object): by columns for left and right, by rows for the rest."""
    triples = []
    for i, j in itertools.permutations(range(len(objects)), 2):
        a, b = objects[i], objects[j]
        if a["column"] != b["column"]:
            triples.append((i, "left of" if a["column"] < b["column"] else "right of", j))
        if a["row"] != b["row"]:
            triples.append((i, "above" if a["row"] < b["row"] else "below", j))
    return triples


def attributes(caption: str) -> frozenset[Attribute]:
    """What a caption asserts, in these forms; words outside the vocabulary are ignored.

    `("object", (shape, color, size), count)`, `("relation", description, relation, description)`,
    `("position", description, (row, column))`, `("background", color)`, `("total", count)`.
    """
    text = " ".join(re.findall(r"[a-z0-9]+", caption.lower()))
    counts: dict[Description, int] = {}
    asserted: set[Attribute] = set()
    last: Description | None = None
    pending: tuple[Description, str] | None = None
    for match in _GRAMMAR.finditer(text):
        if match["shape"]:
            last = (_SHAPE[match["shape"]], match["color"], _SIZE.get(match["size"]))
            counts[last] = counts.get(last, 0) + _number(match["count"])
            if pending:
                asserted.add(("relation", *pending, last))
            pending = None
        elif match["relation"]:
            pending = (last, _RELATION[match["relation"]]) if last else None
        elif match["position"] and last:
            asserted.add(("position", last, _POSITION[match["position"]]))
        elif match["background"]:
            asserted.add(("background", match["background"].replace("grey", "gray")))
        elif match["total"]:
            asserted.add(("total", _number(match["total"])))
    return frozenset(asserted | {("object", item, count) for item, count in counts.items()})


def is_true(attribute: Attribute, scene: Scene) -> bool:
    """Whether one attribute, as `attributes` gives it, holds in the scene."""
    objects = scene["objects"]
    kind, *rest = attribute
    if kind == "object":
        description, count = rest
        return sum(_fits(description, item) for item in objects) >= count
    if kind == "relation":
        first, relation, second = rest
        return any(
            true_relation == relation and _fits(first, objects[i]) and _fits(second, objects[j])
            for i, true_relation, j in relations(objects)
        )
    if kind == "position":
        description, cell = rest
        return any(
            _fits(description, item) and (item["row"], item["column"]) == cell for item in objects
        )
    if kind == "background":
        return rest == [scene["background"]]
    return rest == [len(objects)]


def is_exact(caption: str, scene: Scene) -> bool:
    """Whether all that is asserted is true, and each object is named once, by shape and color."""
    asserted = attributes(caption)
    named = [
        description
        for kind, description, *rest in asserted
        if kind == "object"
        for _ in range(rest[0])
    ]
    if len(named) != len(scene["objects"]) or not all(color for _, color, _ in named):
        return False
    return _count_matches(named, scene["objects"]) == len(named) and all(
        is_true(attribute, scene) for attribute in asserted
    )


def exact_attribute_accuracy(
    captions: Sequence[str], scenes: Sequence[Scene | str]
) -> dict[str, float]:
    """How much of what captions assert is true of their scenes, all fractions from 0 to 1.

    Args:
        captions: One for each scene.
        scenes: Dicts, or their JSON as stored.

    Returns:
        `exact`: captions that name each object once by shape and color and assert nothing false;
        `objects_found`: objects of the scenes that captions name (with their size, if named);
        `assertions`: assertions that are true; then the same for each kind that captions assert:
        `object`, `relation`, `position`, `background`, `total`.
    """
    if len(captions) != len(scenes):
        raise ValueError(f"{len(captions)} captions for {len(scenes)} scenes")
    if not captions:
        raise ValueError("no captions to check")
    num_exact = num_found = num_objects = 0
    num_true: dict[str, int] = {}
    num_asserted: dict[str, int] = {}
    for caption, stored in zip(captions, scenes, strict=True):
        scene = json.loads(stored) if isinstance(stored, str | bytes) else stored
        asserted = attributes(caption)
        num_exact += is_exact(caption, scene)
        num_objects += len(scene["objects"])
        named = [a[1] for a in asserted if a[0] == "object" for _ in range(min(a[2], 9)) if a[1][1]]
        num_found += _count_matches(named, scene["objects"])
        for attribute in asserted:
            for kind in (attribute[0], "assertions"):
                num_asserted[kind] = num_asserted.get(kind, 0) + 1
                num_true[kind] = num_true.get(kind, 0) + is_true(attribute, scene)
    kinds = ("assertions", "object", "relation", "position", "background", "total")
    return {
        "exact": num_exact / len(captions),
        "objects_found": num_found / max(num_objects, 1),
        **{kind: num_true[kind] / num_asserted[kind] for kind in kinds if kind in num_asserted},
    }


def _fits(description: Description, item: Item) -> bool:
    facts = (item["shape"], item["colour"], item["size"])
    return all(word in (None, fact) for word, fact in zip(description, facts, strict=True))


def _count_matches(named: Sequence[Description], objects: Sequence[Item]) -> int:
    """How many descriptions can each have an object of their own (maximum bipartite matching)."""
    owner: dict[int, int] = {}

    def assign(description: int, visited: set[int]) -> bool:
        for number, item in enumerate(objects):
            if number not in visited and _fits(named[description], item):
                visited.add(number)
                if number not in owner or assign(owner[number], visited):
                    owner[number] = description
                    return True
        return False

    return sum(assign(description, set()) for description in range(len(named)))


def _number(word: str | None) -> int:
    return NUMBERS.index(word) if word in NUMBERS else 1


def _any(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


def _plural(word: str) -> str:
    return word + ("es" if word.endswith(("s", "x")) else "s")


_SHAPE = {form: shape for shape, words in SHAPES.items() for w in words for form in (w, _plural(w))}
_SIZE = {word: size for size, words in SIZES.items() for word in words}
_RELATION = {word: relation for relation, words in RELATIONS.items() for word in words}
_POSITION = {word: cell for cell, words in POSITIONS.items() for word in words}
_GRAMMAR = re.compile(
    rf"\b(?:(?:(?P<count>{_any(NUMBERS)}) )?(?:(?P<size>{_any(_SIZE)}) )?"
    rf"(?:(?P<color>{_any(COLORS)}) )?(?P<shape>{_any(_SHAPE)})"
    rf"|(?P<total>{_any(NUMBERS)}) (?:shapes?|objects?)"
    rf"|(?P<relation>{_any(_RELATION)})"
    rf"|(?P<position>{_any(_POSITION)})"
    rf"|(?P<background>{_any((*BACKGROUNDS, 'grey'))}) background)\b"
)
