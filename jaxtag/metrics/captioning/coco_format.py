"""Captions in COCO's files: results, references, and the score of one against the other.

Results are a list of `{"image_id": …, "caption": …}`; references an object whose `annotations` are
such entries, several for a picture (what else the official files hold is not looked at). Ids are
whole numbers or texts; 7 and "7" are two pictures.
"""

import json
import sys
from pathlib import Path
from typing import Any

from jaxtag.errors import UserError
from jaxtag.metrics import captioning

Id = int | str


def load_results(path: str | Path) -> dict[Id, str]:
    """Reads a results file: picture → its one caption.

    Raises:
        UserError: the file cannot be read, an entry is malformed, or a picture occurs twice.
    """
    entries = _read(path)
    if not isinstance(entries, list):
        raise UserError(
            f'{path}: results must be a list of {{"image_id": …, "caption": …}}, '
            f"not {_kind(entries)}"
        )
    captions: dict[Id, str] = {}
    places: dict[Id, int] = {}
    for place, entry in enumerate(entries):
        key, caption = _entry(path, f"entry {place}", entry)
        if key in captions:
            raise UserError(
                f"{path}: picture {key!r} has two captions (entries {places[key]} and {place}); "
                "results hold one for each picture"
            )
        captions[key], places[key] = caption, place
    if not captions:
        raise UserError(f"{path}: no captions in it")
    return captions


def load_references(path: str | Path) -> dict[Id, list[str]]:
    """Reads COCO's captions JSON: picture → its captions.

    The pictures come in the order of `images`, which coco-caption goes by, or of `annotations`
    where `images` is absent. A picture without a caption is left out.

    Raises:
        UserError: the file cannot be read or an entry is malformed.
    """
    content = _read(path)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise UserError(
            f'{path}: references must be COCO\'s captions JSON, an object with a list "annotations"'
        )
    found: dict[Id, list[str]] = {}
    for place, entry in enumerate(annotations):
        key, caption = _entry(path, f"annotation {place}", entry)
        found.setdefault(key, []).append(caption)
    if not found:
        raise UserError(f"{path}: no captions in it")
    images = content.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise UserError(f'{path}: "images" must be a list of objects')
    order = [image["id"] for image in images if isinstance(image.get("id"), int | str)]
    return {key: found[key] for key in dict.fromkeys([*order, *found]) if key in found}


def score_files(results: str | Path, references: str | Path) -> dict[str, float]:
    """Scores the captions of one file against the references of another.

    As with coco-caption, every result must be for a picture that has references, and pictures
    without a result do not count. How many those are is said on stderr and in the answer, since
    leaving out hard pictures raises every score.

    Returns:
        The metrics of `captioning.score`, then `images` (scored) and `images_without_result`.

    Raises:
        UserError: as `load_results` and `load_references`, and for results of unknown pictures.
    """
    hypotheses, expected = load_results(results), load_references(references)
    unknown = [key for key in hypotheses if key not in expected]
    if unknown:
        raise UserError(
            f"{results}: {len(unknown)} of {len(hypotheses)} pictures have no references in "
            f"{references}, e.g. image_id {unknown[0]!r}{_hint(unknown[0], expected)}"
        )
    missing = len(expected) - len(hypotheses)
    if missing:
        print(
            f"{results}: no caption for {missing} of the {len(expected)} pictures of "
            f"{references}; they are not scored",
            file=sys.stderr,
        )
    scores = captioning.score(hypotheses, expected)
    return {**scores, "images": len(hypotheses), "images_without_result": missing}


def _hint(key: Id, expected: dict[Id, list[str]]) -> str:
    """What to say when only the type of the ids differs."""
    other = str(key) if isinstance(key, int) else int(key) if key.isdecimal() else None
    if other is None or other not in expected:
        return ""
    return f" (they are for {other!r}: write the ids in both files alike)"


def _read(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path}: not JSON of captions: nested too deeply") from error


def _entry(path: str | Path, where: str, entry: Any) -> tuple[Id, str]:
    if not isinstance(entry, dict):
        raise UserError(f"{path}: {where} must be an object, not {_kind(entry)}")
    key, caption = entry.get("image_id"), entry.get("caption")
    if not isinstance(key, int | str) or isinstance(key, bool):
        raise UserError(f'{path}: {where} needs an "image_id", a whole number or a text')
    if not isinstance(caption, str):
        raise UserError(f'{path}: {where} (image_id {key!r}) needs a "caption", a text')
    return key, caption


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "nothing" if value is None else "a number")
