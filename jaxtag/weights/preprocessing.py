"""Preprocessing of images, from the files that accompany weights."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxtag.errors import UserError
from jaxtag.models import registry
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.storage import json_files
from jaxtag.weights import open_clip_config, safetensors_io
from jaxtag.weights.reference import Reference, resolve
from jaxtag.weights.tensors import Tensors

_INTERPOLATIONS = {2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic"}


def load_preprocessing(path: Reference) -> Preprocessing | None:
    """The preprocessing that the weights `path` (any REF) need; None if not given.

    Reads `preprocessor_config.json` of transformers, `config.json` of timm (`pretrained_cfg`),
    `open_clip_config.json`, or the notes of a file of jaxtag's.

    Raises:
        UserError: it is damaged, or is not supported.
    """
    path, _, model = resolve(path)
    if model is not None:
        return registry.get_preprocessing(model)
    folder = safetensors_io.folder_of(path)
    file = folder / "preprocessor_config.json"
    if values := safetensors_io.read_json(file):
        return _parse(file, _from_transformers, values)
    file = folder / "config.json"
    values = safetensors_io.read_json(file)
    if "pretrained_cfg" in values:
        return _parse(file, _from_timm, values["pretrained_cfg"])
    file = folder / open_clip_config.FILE
    if values := safetensors_io.read_json(file):
        return _parse(file, open_clip_config.parse_preprocessing, values)
    noted = read_notes(Tensors(path)).get("preprocessing")
    return _parse(path, from_json, noted) if noted else None


def read_notes(tensors: Tensors) -> dict[str, Any]:
    """The notes in a file of jaxtag's; empty for other files."""
    notes = json_files.parse(tensors.metadata.get("jaxtag", "{}"), f"{tensors.path}: its note")
    return notes if isinstance(notes, dict) else {}


def from_json(values: Mapping[str, Any]) -> Preprocessing:
    """The inverse of `dataclasses.asdict`, after JSON."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(Preprocessing):
        value = values.get(field.name, field.default)  # an older file lacks the newer ones
        fields[field.name] = tuple(value) if isinstance(value, list) else value
    return Preprocessing(**fields)


def _from_transformers(values: Mapping[str, Any]) -> Preprocessing:
    size, crop, squash = values["size"], 1.0, False
    if isinstance(size, dict) and "shortest_edge" in size:
        image_size = resized = size["shortest_edge"]
        if "crop_pct" in values:  # of ConvNext's preprocessor, which ResNet uses
            crop, squash = (values["crop_pct"], False) if image_size < 384 else (1.0, True)
        elif values.get("do_center_crop"):
            image_size = _side(values["crop_size"])
            crop = image_size / resized
    else:
        image_size = resized = _side(size)
        squash = True
        if values.get("do_center_crop"):
            image_size = _side(values["crop_size"])
            crop = image_size / resized
    mean, std = [0.0], [1.0]
    if values.get("do_normalize", True):
        mean, std = values["image_mean"], values["image_std"]
        if values.get("include_top"):  # EfficientNet's preprocessor divides twice
            std = [s * s for s in std]
    return Preprocessing(
        image_size=image_size,
        mean=tuple(mean),
        std=tuple(std),
        interpolation=_INTERPOLATIONS[values.get("resample", 2)],
        crop=crop,
        squash=squash,
    )


def to_transformers(preprocessing: Preprocessing) -> dict[str, Any]:
    """The `preprocessor_config.json` of transformers that prepares images this way."""
    size = preprocessing.image_size
    resized = round(size / preprocessing.crop)
    whole = preprocessing.squash or preprocessing.pad
    warn_of_padding(preprocessing, "transformers")
    processor: dict[str, Any] = {"image_processor_type": "CLIPImageProcessor", "do_resize": True}
    processor["size"] = {"shortest_edge": resized}
    if whole:
        processor["image_processor_type"] = "DeiTImageProcessor"
        processor["size"] = {"height": resized, "width": resized}
    if whole and preprocessing.crop == 1:
        processor["image_processor_type"] = "ViTImageProcessor"
    else:
        processor["do_center_crop"] = True
        processor["crop_size"] = {"height": size, "width": size}
    return {
        **processor,
        "resample": {"bilinear": 2, "bicubic": 3}[preprocessing.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }


def warn_of_padding(preprocessing: Preprocessing, library: str) -> None:
    """Says on stderr that the library cannot prepare images as the model wants them."""
    if preprocessing.pad:
        print(
            f"warning: {library} pads no image to a white square, which this model wants: do so "
            "before it prepares the image",
            file=sys.stderr,
        )


def _from_timm(values: Mapping[str, Any]) -> Preprocessing:
    return Preprocessing(
        image_size=values["input_size"][-1],
        mean=tuple(values["mean"]),
        std=tuple(values["std"]),
        interpolation=_INTERPOLATIONS[values["interpolation"]],
        crop=values["crop_pct"],
        squash=values.get("crop_mode") == "squash",
    )


def _side(size: Any) -> int:
    """The side of a square in pixels, from any of transformers' notations."""
    if isinstance(size, int):
        return size
    height, width = size["height"], size["width"]
    if height != width:
        raise ValueError(f"images of {height}x{width} are not square")
    return height


def _parse(
    file: Path, parse: Callable[[Mapping[str, Any]], Preprocessing], values: Mapping[str, Any]
) -> Preprocessing:
    try:
        return parse(values)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        reason = f"{error} is missing or unknown" if isinstance(error, KeyError) else error
        raise UserError(f"{file}: the preprocessing there cannot be used: {reason}") from error
