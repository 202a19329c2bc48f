"""How pictures are prepared, from the files that come with weights."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtag.errors import UserError
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.weights import safetensors_io

_INTERPOLATIONS = {2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic"}


def preprocessing(path: str | Path) -> Preprocessing | None:
    """What the weights at `path` (a file or folder) want, or None where nothing says it.

    Reads `preprocessor_config.json` of transformers, `config.json` of timm (`pretrained_cfg`), and
    what a file of jaxtag's holds.

    Raises:
      UserError: it is damaged, or asks for what is not here.
    """
    folder = safetensors_io.folder_of(path)
    file = folder / "preprocessor_config.json"
    if values := safetensors_io.read_json(file):
        return _told(file, _transformers, values)
    file = folder / "config.json"
    values = safetensors_io.read_json(file)
    if "pretrained_cfg" in values:
        return _told(file, _timm, values["pretrained_cfg"])
    held = own_notes(safetensors_io.Tensors(path)).get("preprocessing")
    return _told(Path(path), from_json, held) if held else None


def own_notes(tensors: safetensors_io.Tensors) -> dict[str, Any]:
    """What a file of jaxtag's says of itself; empty for other files."""
    try:
        notes = json.loads(tensors.metadata.get("jaxtag", "{}"))
    except ValueError as error:
        raise UserError(f"{tensors.path}: its notes are damaged: {error}") from error
    return notes if isinstance(notes, dict) else {}


def from_json(values: Mapping[str, Any]) -> Preprocessing:
    """The reverse of `dataclasses.asdict`, after JSON."""
    fields = {field.name: values[field.name] for field in dataclasses.fields(Preprocessing)}
    return Preprocessing(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def _transformers(values: Mapping[str, Any]) -> Preprocessing:
    size, crop = values["size"], 1.0
    if isinstance(size, dict) and "shortest_edge" in size:
        image_size = resized = size["shortest_edge"]
        if "crop_pct" in values:  # ConvNext's, which ResNet takes: of what is given to the model
            crop = values["crop_pct"] if image_size < 384 else 1.0
        elif values.get("do_center_crop"):
            image_size = _side(values["crop_size"])
            crop = image_size / resized
    else:
        image_size = resized = _side(size)
        if values.get("do_center_crop"):
            image_size = _side(values["crop_size"])
            crop = image_size / resized
    mean, std = [0.0], [1.0]
    if values.get("do_normalize", True):
        mean, std = values["image_mean"], values["image_std"]
        if values.get("include_top"):  # EfficientNet's divides twice
            std = [s * s for s in std]
    return Preprocessing(
        image_size=image_size,
        mean=tuple(mean),
        std=tuple(std),
        interpolation=_INTERPOLATIONS[values.get("resample", 2)],
        crop=crop,
    )


def _timm(values: Mapping[str, Any]) -> Preprocessing:
    return Preprocessing(
        image_size=values["input_size"][-1],
        mean=tuple(values["mean"]),
        std=tuple(values["std"]),
        interpolation=_INTERPOLATIONS[values["interpolation"]],
        crop=values["crop_pct"],
    )


def _side(size: Any) -> int:
    """Pixels of a square, in any of transformers' spellings."""
    if isinstance(size, int):
        return size
    height, width = size["height"], size["width"]
    if height != width:
        raise ValueError(f"pictures of {height}x{width} are not square")
    return height


def _told(file: Path, make: Any, values: Mapping[str, Any]) -> Preprocessing:
    try:
        return make(values)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        what = f"{error} is missing or unknown" if isinstance(error, KeyError) else error
        raise UserError(f"{file}: the preprocessing there cannot be used: {what}") from error
