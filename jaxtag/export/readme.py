"""README.md beside an exported model: what the files are, and what they lack."""

from collections.abc import Sequence
from typing import Any

from jaxtag.inference.predictor import Predictor
from jaxtag.tasks.caption.config import CaptionConfig, DecodingConfig
from jaxtag.tasks.caption.task import CaptionTask

_PACKAGES = {"onnx": "numpy onnxruntime pillow", "stablehlo": "flatbuffers jax numpy pillow"}
_CONSTRAINTS = ("min_new_tokens", "no_repeat_ngram_size", "repetition_penalty")


def to_markdown(model: Predictor, about: dict[str, Any], notes: Sequence[str]) -> str:
    """The text of README.md.

    Args:
        about: what jaxtag.json holds.
        notes: limits of this export beside those of every one.
    """
    lines = [
        f"# {about['architecture']} ({about['task']}), exported by jaxtag {about['jaxtag']}",
        "",
        f"From {about['source']}, step {about['step']}. Use without jaxtag:",
        "",
        "```console",
        f"pip install {_PACKAGES[about['format']]}",
        "python example.py photo.jpg",
        "```",
        "",
        "| file | what |",
        "|---|---|",
        *[f"| `{name}` | {_inputs(inputs)} |" for name, inputs in about["files"].items()],
        "| `jaxtag.json` | inputs, preprocessing, labels and thresholds |",
        "| `preprocessing.json` | from an image file to the model's input |",
        "",
        "## Limits",
        "",
        *[f"- {limit}" for limit in [*_limits(model, about), *notes]],
    ]
    return "\n".join(lines) + "\n"


def _inputs(inputs: dict[str, Any]) -> str:
    named = [
        f"`{name}` {spec['dtype']} [{', '.join(map(str, spec['shape']))}]"
        for name, spec in inputs.items()
        if not name.startswith(("memory", "cache"))
    ]
    return "takes " + ", ".join(named)


def _limits(model: Predictor, about: dict[str, Any]) -> list[str]:
    prepare = about["preprocessing"]
    size = prepare["image_size"]
    sizes = f"all of them {size}x{size} pixels: pixels are normalized inside."
    if patch := about.get("patch_size"):
        sizes = (
            f"of any height and width from {patch} pixels on, which all of them share: pixels are "
            f"normalized inside, and those beyond a multiple of {patch} are cut off. The model is "
            f"set to {size}x{size}, to which `example.py` resizes."
        )
    limits = [f"A batch has any number of images, {sizes}"]
    if prepare["interpolation"] == "bilinear":
        limits.append(
            "`example.py` resizes with Pillow, which smooths where jaxtag interpolates: scores "
            "differ slightly from those of `jaxtag annotate`."
        )
    if isinstance(model.task, CaptionTask) and about["format"] == "onnx":
        limits.extend(_caption_limits(model.task.settings))
    return limits


def _caption_limits(settings: CaptionConfig) -> list[str]:
    """What the greedy loop of example.py leaves out of the model's own way to write captions."""
    limits, decoding, defaults = [], settings.decoding, DecodingConfig()
    if decoding.method != "greedy":
        limits.append(
            f"The model was set to captions by {decoding.method}; `example.py` takes the likeliest "
            "token each time (greedy)."
        )
    values = {name: getattr(decoding, name) for name in _CONSTRAINTS}
    left_out = [f"{k}={v}" for k, v in values.items() if v != getattr(defaults, k)]
    if left_out:
        limits.append(
            f"`example.py` does not apply {', '.join(left_out)}, which the model is set to."
        )
    if settings.tags_from is not None:
        limits.append(
            f"The model reads the tags that {settings.tags_from} gives an image before it writes; "
            "`example.py` gives it none."
        )
    return limits
