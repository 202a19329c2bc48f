"""Image-text models (CLIP, SigLIP) by the files beside their weights."""

from pathlib import Path

from jaxtag.errors import UserError
from jaxtag.models.image_text import ImageText
from jaxtag.weights import hf_image_text, open_clip_config, safetensors_io


def is_image_text(folder: Path) -> bool:
    """Whether a folder describes an image-text model."""
    values = safetensors_io.read_json(folder / "config.json")
    return (
        values.get("model_type") in hf_image_text.MODEL_TYPES
        or (folder / open_clip_config.FILE).is_file()
    )


def read_model(folder: Path) -> ImageText:
    """The model that a folder's config.json (transformers) or open_clip_config.json describes.

    Raises:
        UserError: names the file, and what has no counterpart here.
    """
    file = folder / "config.json"
    values, parse = safetensors_io.read_json(file), hf_image_text.parse_config
    if values.get("model_type") not in hf_image_text.MODEL_TYPES:
        file = folder / open_clip_config.FILE
        values, parse = safetensors_io.read_json(file), open_clip_config.parse_config
    try:
        return parse(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{file} cannot be used: {reason}") from error


def compare(folder: Path, model: ImageText) -> list[str]:
    """What of `model` differs from the folder's description and no tensor's shape shows."""
    if not is_image_text(folder):
        return []
    described = read_model(folder)
    problems = []
    for part in ("image_encoder", "text_encoder"):
        ours, theirs = getattr(model, part), getattr(described, part)
        for field in ("heads", "activation", "norm_eps", "eos_id", "causal", "pool"):
            values = [getattr(encoder, field, None) for encoder in (theirs, ours)]
            if values[0] != values[1]:
                problems.append(
                    f"the files say {part}.{field} = {values[0]!r}, the model has {values[1]!r}"
                )
    return problems
