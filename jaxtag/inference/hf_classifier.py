"""A classifier or tagger of transformers or timm as a work directory, as if trained here."""

import sys
from pathlib import Path
from typing import Any

import jax

from jaxtag.config import schema
from jaxtag.config.schema import Config, DataConfig, ModelConfig, TaskConfig
from jaxtag.data.labels import LabelNames
from jaxtag.errors import UserError, printable
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.storage.atomic_file import write_text
from jaxtag.storage.paths import make_path
from jaxtag.tasks.classify.config import ClassifyConfig
from jaxtag.tasks.tag.config import TagConfig
from jaxtag.training import run_data
from jaxtag.training.checkpoint import Checkpoints
from jaxtag.weights import hf_config, safetensors_io, timm_config
from jaxtag.weights.loader import load
from jaxtag.weights.preprocessing import load_preprocessing

_PLACEHOLDER = "LABEL_0"  # transformers' name where nobody gave one


def import_classifier(source: str | Path, workdir: Path) -> Config:
    """Makes `workdir` from an image classifier of transformers or timm.

    Args:
        source: folder with config.json (of transformers with `id2label`, or of timm with
            `label_names`), model.safetensors (or shards) and, of transformers,
            preprocessor_config.json. `problem_type` "multi_label_classification" makes a tagger.

    Raises:
        UserError: a file is missing or damaged, the model or its labels are unknown, or `workdir`
            holds a run already.
    """
    folder = make_path(source)
    file = folder / "config.json"
    values = safetensors_io.read_json(file)
    if "architecture" in values:
        name, fields = timm_config.parse_config(values, str(file))
        labels = _timm_labels(values)
    else:
        name, fields = hf_config.parse_config(values, str(file))
        labels = _transformers_labels(values, file)
    if run_data.has_checkpoints(workdir):
        raise UserError(f"{workdir} holds a run already: name another --workdir")
    names = _check_labels(labels, file)
    preprocessing = load_preprocessing(folder)
    if preprocessing is None:
        raise UserError(
            f"{folder} says nowhere how images are prepared: it lacks a preprocessor_config.json, "
            "or a pretrained_cfg in timm's config.json"
        )
    multi_label = values.get("problem_type") == "multi_label_classification"
    config = schema.check(_config(name, fields, preprocessing, multi_label))
    task = run_data.task_class(config)(config, names)
    variables = load(
        folder, task.model, channels=task.channels, image_size=preprocessing.image_size
    )
    assert task.vocabulary_file is not None
    names.save(workdir / task.vocabulary_file)
    write_text(workdir / "config.json", schema.to_json(config))
    params = variables.pop("params")
    collections = {**_other_collections(task), **variables}
    with Checkpoints(workdir / "checkpoints", keep_last=1) as checkpoints:
        state = {"params": params, "collections": collections}
        checkpoints.save(0, state, config=schema.to_dict(config))
    _describe_preprocessing(preprocessing)
    return config


def _describe_preprocessing(preprocessing: Preprocessing) -> None:
    """Says on stderr how images are prepared, and where that differs from what the files ask."""
    size, crop = preprocessing.image_size, preprocessing.crop
    part = "the whole image" if preprocessing.squash else f"the middle {crop:.0%}"
    print(f"images: {part}, resized to {size}x{size} pixels", file=sys.stderr)
    if preprocessing.interpolation != "bilinear":
        print(
            f"note: the files ask for {preprocessing.interpolation} resizing and images are "
            "resized bilinearly here: scores differ slightly",
            file=sys.stderr,
        )


def _config(
    name: str, fields: dict[str, Any], preprocessing: Preprocessing, multi_label: bool
) -> Config:
    task: TaskConfig = TagConfig() if multi_label else ClassifyConfig()
    return Config(
        task=task,
        total_steps=0,
        data=DataConfig(
            image_size=preprocessing.image_size,
            eval_crop_pct=None if preprocessing.squash else preprocessing.crop,
            grayscale=len(preprocessing.mean) == 1,
            mean=preprocessing.mean,
            std=preprocessing.std,
        ),
        model=ModelConfig(backbone=name, kwargs=fields),
    )


def _other_collections(task: Any) -> dict[str, Any]:
    """Fresh collections that no file of weights holds."""
    shapes = dict(jax.eval_shape(task.init, jax.random.key(0)))
    names = [name for name in shapes if name not in ("params", "batch_stats")]
    variables = task.init(jax.random.key(0)) if names else {}
    return {name: variables[name] for name in names}


def _transformers_labels(values: dict[str, Any], file: Path) -> list[Any] | None:
    """`id2label` in the order of its numbers."""
    by_number = values.get("id2label")
    if not isinstance(by_number, dict):
        return None
    try:
        numbers = {int(number): label for number, label in by_number.items()}
    except ValueError as error:
        raise UserError(f"{file}: id2label must map numbers to names ({error})") from error
    if sorted(numbers) != list(range(len(numbers))):
        raise UserError(f"{file}: id2label must number the labels from 0 without gaps")
    return [numbers[number] for number in range(len(numbers))]


def _timm_labels(values: dict[str, Any]) -> list[Any] | None:
    pretrained = values.get("pretrained_cfg")
    inner = pretrained.get("label_names") if isinstance(pretrained, dict) else None
    labels = values.get("label_names") or inner
    return labels if isinstance(labels, list) else None


def _check_labels(labels: list[Any] | None, file: Path) -> LabelNames:
    if not labels or labels[0] == _PLACEHOLDER:
        raise UserError(
            f"{file} does not name the classes: add them as id2label (transformers) or "
            "label_names (timm)"
        )
    if not all(isinstance(label, str) and label for label in labels):
        raise UserError(f"{file}: a label is no name")
    repeated = {label for label in labels if labels.count(label) > 1}
    if not repeated:
        return LabelNames(tuple(labels))
    # ImageNet has two classes "crane" and two "maillot".
    numbered = [
        f"{label} ({number})" if label in repeated else label for number, label in enumerate(labels)
    ]
    print(
        "note: labels that occur more than once get their numbers: "
        + printable(", ".join(sorted(repeated)[:5])),
        file=sys.stderr,
    )
    return LabelNames(tuple(numbered))
