"""Folders of exported models: the model's files, what describes them, and an example program."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtag.export import description, examples, readme
from jaxtag.export.programs import Program
from jaxtag.inference.predictor import Predictor
from jaxtag.tasks.caption.task import CaptionTask

DESCRIPTION = "jaxtag.json"


def write_description(
    folder: Path,
    model: Predictor,
    form: str,
    programs: Sequence[Program],
    suffix: str,
    notes: Sequence[str] = (),
) -> None:
    """Writes all but the model's own files.

    Args:
        form: "onnx" or "stablehlo".
        suffix: of the model's files.
        notes: more limits for README.md.
    """
    about = description.describe(model, form, programs, suffix)
    _write_json(folder / "preprocessing.json", about["preprocessing"])
    if isinstance(model.task, CaptionTask):
        tokens = [token.decode("latin-1") for token in model.task.vocabulary.token_bytes()]
        _write_json(folder / "tokens.json", tokens)
    example = examples.example(form, about["task"])
    if example is not None:
        (folder / "example.py").write_text(example, "utf-8")
    (folder / "README.md").write_text(readme.to_markdown(model, about, notes), "utf-8")
    _write_json(folder / DESCRIPTION, about)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
