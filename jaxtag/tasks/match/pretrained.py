"""A run of matching that starts from a whole CLIP or SigLIP: what the model's files decide."""

import dataclasses
import sys
from pathlib import Path
from typing import Any, cast

from jaxtag.config import dotted
from jaxtag.config.schema import Config
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.errors import UsageError, UserError
from jaxtag.models.image_text import ImageText
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.models.vit import ViT
from jaxtag.tasks.match.config import MatchConfig
from jaxtag.weights import image_text_files, image_towers
from jaxtag.weights.preprocessing import load_preprocessing
from jaxtag.weights.reference import Reference, resolve
from jaxtag.weights.safetensors_io import folder_of

_TEXT_KWARGS = ("vocab_size", "mlp_dim", "activation", "norm_eps", "causal", "eos_id")
_IMAGE_TEXT_KWARGS = ("image_projection", "projection_bias", "init_logit_scale", "init_logit_bias")
# Of `config.task`, `config.model` and `config.data`; what a dictionary holds comes from the files
# by the names that are in it.
_FORM = {
    "task.loss": (),
    "task.embedding_dim": (),
    "task.vocab_size": (),
    "task.max_length": (),
    "task.lowercase": (),
    "task.text_width": (),
    "task.text_depth": (),
    "task.text_heads": (),
    "task.text_pool": (),
    "task.text_kwargs": _TEXT_KWARGS,
    "task.image_text_kwargs": _IMAGE_TEXT_KWARGS,
    "model.backbone": (),
    "model.kwargs": image_towers.FIELDS,
    **{f"data.{name}": () for name in Preprocessing().data_fields()},
}


def read_config(config: Config, old: Config | None = None) -> Config:
    """`config` with the model that `config.task.pretrained` names: its form and preprocessing.

    Args:
        old: of the run so far; where it started from the same weights, no file is read again.

    Raises:
        UserError: the files are missing or damaged, or the model has no counterpart here.
        UsageError: a setting of `config` contradicts them.
    """
    assert isinstance(config.task, MatchConfig)
    reference = config.task.pretrained
    if reference is None:
        return config
    if getattr(getattr(old, "task", None), "pretrained", None) == reference:
        return with_described(config, {name: _own(old, name) for name in _FORM})
    path = resolve(reference).path
    model, preprocessing = read_model(path)
    print(
        f"{reference}: images of {preprocessing.image_size} pixels, texts of "
        f"{model.text_encoder.max_length} tokens at most",
        file=sys.stderr,
    )
    return with_described(config, describe(model, preprocessing))


def read_model(path: Path) -> tuple[ImageText, Preprocessing]:
    """The model that the files beside weights describe, and how it takes its images.

    Raises:
        UserError: they describe another model, or one is missing or damaged.
    """
    folder = folder_of(path)
    if not image_text_files.is_image_text(folder):
        raise UserError(
            f"{folder} holds no CLIP or SigLIP of transformers or open_clip "
            "(config.task.pretrained names a whole one; config.model.pretrained an image encoder)"
        )
    model, preprocessing = image_text_files.read_model(folder), load_preprocessing(path)
    if preprocessing is None:
        raise UserError(f"{folder} has no preprocessor_config.json: how images are prepared")
    return model, preprocessing


def read_tokenizer(reference: Reference) -> Tokenizer:
    """The tokenizer of a published model. Raises UserError where it is absent or damaged."""
    folder = folder_of(resolve(reference).path)
    return image_text_files.read_tokenizer(folder, image_text_files.read_model(folder))


def describe(model: ImageText, preprocessing: Preprocessing) -> dict[str, Any]:
    """The fields of a configuration that make a model: dotted name -> value."""
    text = model.text_encoder
    backbone, kwargs = image_towers.named(cast(ViT, model.image_encoder))
    return {
        "task.loss": "clip" if model.init_logit_bias is None else "siglip",
        "task.embedding_dim": model.embed_dim,
        "task.vocab_size": text.vocab_size,
        "task.max_length": text.max_length,
        "task.lowercase": True,
        "task.text_width": text.width,
        "task.text_depth": text.depth,
        "task.text_heads": text.heads,
        "task.text_pool": text.pool,
        "task.text_kwargs": {name: getattr(text, name) for name in _TEXT_KWARGS},
        "task.image_text_kwargs": {name: getattr(model, name) for name in _IMAGE_TEXT_KWARGS},
        "model.backbone": backbone,
        "model.kwargs": kwargs,
        **{f"data.{name}": value for name, value in preprocessing.data_fields().items()},
    }


def with_described(config: Config, described: dict[str, Any]) -> Config:
    """`config` with what `describe` returned, where it is as a new `Config` has it.

    Raises:
        UsageError: a setting says otherwise.
    """
    usual = Config(task=MatchConfig())
    sections: dict[str, dict[str, Any]] = {"task": {}, "model": {}, "data": {}}
    for name, value in described.items():
        section, field = name.split(".")
        given = dotted.get(config, name)
        is_usual = given == dotted.get(usual, name)
        if isinstance(value, dict):
            for key in sorted(value.keys() & given.keys()):
                _check(config, f"{name}.{key}", given[key], value[key])
            value = {**value, **given}
        elif not is_usual and (section == "data" or name == "task.loss"):
            value = given  # images of another size are interpolated, losses are interchangeable
        elif not is_usual:
            _check(config, name, given, value)
        sections[section][field] = value
    filled = {name: dataclasses.replace(getattr(config, name), **f) for name, f in sections.items()}
    _check_loss(filled["task"])
    return dataclasses.replace(config, **filled)


def _own(config: Any, name: str) -> Any:
    """A field of a run's configuration, as `describe` returns it."""
    value = dotted.get(config, name)
    return {key: value[key] for key in _FORM[name] if key in value} if _FORM[name] else value


def _check(config: Config, name: str, given: Any, described: Any) -> None:
    if given == described:
        return
    assert isinstance(config.task, MatchConfig)
    raise UsageError(
        f"config.{name} = {given!r}: {config.task.pretrained}, which config.task.pretrained names, "
        f"has {described!r}; leave the setting out (--config=coco_match:pretrained=REF does)"
    )


def _check_loss(settings: MatchConfig) -> None:
    if settings.loss == "siglip" and settings.image_text_kwargs["init_logit_bias"] is None:
        raise UsageError(
            f"config.task.loss = 'siglip': {settings.pretrained}, which config.task.pretrained "
            "names, is a CLIP, whose logits have no bias; leave the setting out"
        )
