"""What an exported folder says of its model: jaxtag.json, preprocessing.json, tokens.json."""

from collections.abc import Sequence
from typing import Any

import jaxtag
from jaxtag.data.transforms import CenterCrop, ImageTransform, PillowResize, Resize
from jaxtag.errors import UsageError
from jaxtag.export.programs import Program
from jaxtag.inference.predictor import Predictor
from jaxtag.tasks.base import Task
from jaxtag.tasks.caption.task import CaptionTask
from jaxtag.tasks.tag.calibration import TagCalibration
from jaxtag.tasks.tag.task import TagTask


def preprocessing(task: Task) -> dict[str, Any]:
    """From an image file to the model's uint8 [S, S, 3], which the model normalizes itself.

    `fit` is what becomes of an image that is not square: "crop" (the shorter side is resized to
    `image_size` / `crop`, and the center is taken), "squash" (both sides are resized to it) or
    "pad" (the image is padded to a white square before that).
    """
    transform, data = task.image_transform(train=False), task.config.data
    fit, crop, interpolation = _fit(transform)
    return {
        "image_size": transform.size,
        "fit": fit,
        "crop": crop,
        "interpolation": interpolation,
        "mean": list(data.mean),
        "std": list(data.std),
        "grayscale": data.grayscale,
    }


def _fit(transform: ImageTransform) -> tuple[str, float, str]:
    """The transform's fit, crop and interpolation."""
    if isinstance(transform, PillowResize):
        return transform.fit, transform.crop_pct, transform.interpolation
    if isinstance(transform, CenterCrop):
        return "crop", transform.crop_pct, "bilinear"
    if isinstance(transform, Resize):
        return "squash", 1.0, "bilinear"
    raise UsageError(f"{type(transform).__name__} of the images cannot be described")


def describe(
    model: Predictor, form: str, programs: Sequence[Program], suffix: str
) -> dict[str, Any]:
    """What jaxtag.json holds."""
    task = model.task
    description = {
        "format": form,
        "task": task.config.task.TASK,
        "architecture": task.config.model.backbone,
        "source": model.reference,
        "step": model.step,
        "jaxtag": jaxtag.__version__,
        "files": {f"{program.name}{suffix}": _inputs(program) for program in programs},
        "preprocessing": preprocessing(task),
    }
    if any(program.dynamic_size for program in programs):
        description["patch_size"] = vars(task.backbone[0])["patch_size"]
    if isinstance(task, CaptionTask):
        tokenizer, settings = task.vocabulary, task.settings
        description["bos_id"], description["eos_id"] = tokenizer.bos_id, tokenizer.eos_id
        prompt = settings.decoding.prompt
        description["prompt"] = task.encode_prompts([prompt])[0].tolist() if prompt else []
        return description | {"max_length": settings.max_length}
    if task.label_names is not None and task.config.task.TASK != "embed":
        description["labels"] = list(task.label_names.names)
    if isinstance(task, TagTask):
        calibration = task.calibration or TagCalibration.identity(task.num_tags)
        description["thresholds"] = list(calibration.thresholds)
    return description


def _inputs(program: Program) -> dict[str, Any]:
    return {
        name: {
            "shape": [size if isinstance(size, int) else str(size) for size in spec.shape],
            "dtype": str(spec.dtype),
        }
        for name, spec in program.inputs.items()
    }
