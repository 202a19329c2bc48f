"""Image-text models (CLIP, SigLIP) by the files beside their weights."""

from pathlib import Path

from tokenizers import normalizers

from jaxtag.data.tokenizer import Tokenizer
from jaxtag.errors import UserError
from jaxtag.models.image_text import ImageText
from jaxtag.weights import hf_image_text, open_clip_config, safetensors_io
from jaxtag.weights.tokenizer_files import read_backend, special_token_id

# Of tokens around a text, where tokenizer_config.json does not name them: CLIP's, SigLIP's and
# SigLIP 2's.
_STARTS = ("<|startoftext|>",)
_ENDS = ("</s>", "<eos>")


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


def read_tokenizer(folder: Path, model: ImageText) -> Tokenizer:
    """The tokenizer of a folder, with the tokens that its model wants around a text.

    Raises:
        UserError: it is absent, damaged, or another model's.
    """
    backend, text = read_backend(folder), model.text_encoder
    largest = max(backend.get_vocab().values(), default=0)
    if largest >= text.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has ids up to {largest} and the model embeds "
            f"{text.vocab_size}: it is another model's"
        )
    if text.eos_id is not None:  # CLIP
        start = special_token_id(folder, backend, "bos_token", _STARTS)
        return Tokenizer.from_pretrained(backend, start, text.eos_id)
    # SigLIP and SigLIP 2 were trained with texts in lower case; the latter's file does not say so.
    lowercase = normalizers.Lowercase()
    before = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([lowercase, *before])
    end = special_token_id(folder, backend, "eos_token", _ENDS)
    if end is None:
        raise UserError(f"{folder}: tokenizer_config.json must name the eos_token")
    padding = special_token_id(folder, backend, "pad_token", ("<pad>",))
    return Tokenizer.from_pretrained(backend, None, end, end if padding is None else padding)


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
