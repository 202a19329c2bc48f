"""The layout in which Immich's machine learning service reads models of its smart search."""

import json
from pathlib import Path
from typing import Any

from jaxtag.export import description, onnx_files, programs
from jaxtag.inference.predictor import Predictor


def write(folder: Path, model: Predictor) -> str:
    """Writes visual/model.onnx, visual/preprocess_cfg.json and config.json.

    Returns:
        what came of the comparison with jaxtag, for people.

    Raises:
        UserError: the model has no embeddings, or no form in ONNX.
    """
    program = programs.embedding_program(model)
    visual = folder / "visual"
    visual.mkdir()
    outcome = onnx_files.write(visual, [program])
    prepared = description.preprocessing(model.task)
    _write_json(visual / "preprocess_cfg.json", _preprocess_cfg(prepared))
    size = prepared["image_size"]
    embed_dim = model.task.settings.embedding_dim
    _write_json(
        folder / "config.json", {"embed_dim": embed_dim, "vision_cfg": {"image_size": size}}
    )
    return outcome


def _preprocess_cfg(prepared: dict[str, Any]) -> dict[str, Any]:
    """As open_clip names it. Of a crop Immich resizes the shorter side to the image's size."""
    size = prepared["image_size"]
    return {
        "size": [size, size],
        "mode": "RGB",
        "mean": prepared["mean"],
        "std": prepared["std"],
        "interpolation": prepared["interpolation"],
        "resize_mode": "squash" if prepared["crop"] is None else "shortest",
        "fill_color": 0,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
