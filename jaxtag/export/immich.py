"""The layout in which Immich's machine learning service reads models of its smart search."""

import json
from pathlib import Path
from typing import Any

import tokenizers

from jaxtag.data.tokenizer import Tokenizer
from jaxtag.export import description, onnx_files, programs
from jaxtag.inference.predictor import Predictor
from jaxtag.tasks.match.task import MatchTask

_RESIZE_MODES = {"crop": "shortest", "squash": "squash", "pad": "longest"}


def write(folder: Path, model: Predictor) -> str:
    """Writes config.json, visual/ and, of a text-image model, textual/.

    Returns:
        what came of the comparison with jaxtag, for people.

    Raises:
        UserError: the model has no embeddings, or no form in ONNX.
    """
    task, visual = model.task, folder / "visual"
    visual.mkdir()
    outcome = onnx_files.write(visual, [programs.image_embedding_program(model)])
    prepared = description.preprocessing(task)
    _write_json(visual / "preprocess_cfg.json", _preprocess_cfg(prepared))
    config: dict[str, Any] = {
        "embed_dim": task.settings.embedding_dim,
        "vision_cfg": {"image_size": prepared["image_size"]},
    }
    if isinstance(task, MatchTask):
        config["text_cfg"] = {"context_length": task.settings.max_length}
        outcome = f"images: {outcome}; texts: {_write_texts(folder / 'textual', model, task)}"
    _write_json(folder / "config.json", config)
    return outcome


def _write_texts(folder: Path, model: Predictor, task: MatchTask) -> str:
    """Writes the text encoder and its tokenizer, which Immich fills with a token."""
    folder.mkdir()
    tokenizer = task.vocabulary
    fill_id = tokenizer.pad_id if tokenizer.pad_id >= 0 else 0  # a tokenizer of ours has <pad> as 0
    # One that was trained here adds no marks of start and end by itself.
    backend = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    marked = Tokenizer.from_pretrained(backend, tokenizer.bos_id, tokenizer.eos_id, fill_id)
    (folder / "tokenizer.json").write_text(marked.to_json(), "utf-8")
    _write_json(folder / "tokenizer_config.json", {"pad_token": tokenizer.token(fill_id)})
    return onnx_files.write(folder, [programs.text_embedding_program(model, task, fill_id)])


def _preprocess_cfg(prepared: dict[str, Any]) -> dict[str, Any]:
    """As open_clip names it. Of a crop Immich resizes the shorter side to the image's size."""
    size = prepared["image_size"]
    return {
        "size": [size, size],
        "mode": "RGB",
        "mean": prepared["mean"],
        "std": prepared["std"],
        "interpolation": prepared["interpolation"],
        "resize_mode": _RESIZE_MODES[prepared["fit"]],
        "fill_color": 255 if prepared["fit"] == "pad" else 0,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
