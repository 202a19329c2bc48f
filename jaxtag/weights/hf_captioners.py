"""`config.json` of transformers for captioners, both ways: ViT and GPT-2, BLIP, GIT."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from jaxtag.data.tokenizer import Tokenizer
from jaxtag.errors import UserError
from jaxtag.models.decoder import Captioner, Decoder
from jaxtag.models.vit import ViT
from jaxtag.weights import hf_vit


@dataclasses.dataclass(frozen=True)
class CaptionerConfig:
    """What a config.json says of a captioner.

    Attributes:
        encoder: fields of its `ViT`.
        decoder: fields of its `Decoder`.
        bos_id, eos_id: tokens that start and end a caption; None where other files say it.
        text: the part of the file that is of the decoder.
    """

    encoder: dict[str, Any]
    decoder: dict[str, Any]
    bos_id: int | None
    eos_id: int | None
    text: Mapping[str, Any]


def parse_config(values: Mapping[str, Any], where: str) -> CaptionerConfig:
    """The captioner of a config.json.

    Raises:
        UserError: names `where`, and what has no counterpart.
    """
    try:
        described = _PARSERS[values["model_type"]](values)
        for name in ("vocab_size", "max_length", "width", "depth", "heads"):
            size = described.decoder[name]
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"the decoder's {name} is {size!r}")
        return described
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{where} cannot be used: {reason}") from error


@dataclasses.dataclass(frozen=True)
class CaptionSettings:
    """How a captioner writes, for the files beside its weights.

    Attributes:
        tokenizer: of its captions.
        max_length: of a caption, in tokens.
        beam_size: as of `GenerationConfig`; 1 for greedy. So are the others.
    """

    tokenizer: Tokenizer
    max_length: int
    beam_size: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False


def make_files(model: Captioner, settings: CaptionSettings) -> dict[str, dict[str, Any]]:
    """The files beside the weights by name, as `from_pretrained` reads them.

    Raises:
        ValueError: transformers has no such captioner.
    """
    if not isinstance(model.encoder, ViT):
        raise ValueError("its captioners have a ViT as encoder")
    tokenizer = settings.tokenizer
    bos_id, eos_id = tokenizer.bos_id, tokenizer.eos_id
    assert bos_id is not None
    ids = {"bos_token_id": bos_id, "eos_token_id": eos_id, "pad_token_id": eos_id}
    marks = {"bos_token": tokenizer.token(bos_id), "eos_token": tokenizer.token(eos_id)}
    return {
        "config.json": {
            "dtype": "float32",
            **_CONFIGS[model.decoder.form](model, bos_id, eos_id),
        },
        "generation_config.json": {
            **ids,
            "decoder_start_token_id": bos_id,
            "max_length": settings.max_length,
            "num_beams": settings.beam_size,
            "length_penalty": settings.length_penalty,
            "early_stopping": settings.early_stopping,
        },
        "tokenizer.json": json.loads(tokenizer.to_json()),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **marks,
            "pad_token": marks["eos_token"],
        },
    }


def _parse_gpt2(values: Mapping[str, Any]) -> CaptionerConfig:
    encoder, decoder = _part(values, "encoder"), _part(values, "decoder")
    _require(encoder, "encoder.", model_type=("vit", None), hidden_act=("gelu", "gelu"))
    _require(
        decoder,
        "decoder.",
        model_type=("gpt2", None),
        add_cross_attention=(True, False),
        activation_function=("gelu_new", "gelu_new"),
        scale_attn_weights=(True, True),
        scale_attn_by_inverse_layer_idx=(False, False),
        n_inner=(None, None) if decoder.get("n_inner") is None else (_mlp(decoder), None),
    )
    fields = {
        "vocab_size": decoder.get("vocab_size", 50257),
        "max_length": decoder.get("n_positions", 1024),
        "width": decoder.get("n_embd", 768),
        "depth": decoder.get("n_layer", 12),
        "heads": decoder.get("n_head", 12),
        "norm_eps": decoder.get("layer_norm_epsilon", 1e-5),
        "form": "pre_norm",
    }
    return CaptionerConfig(hf_vit.parse_config(encoder)[1], fields, None, None, decoder)


def _mlp(decoder: Mapping[str, Any]) -> int:
    return 4 * decoder.get("n_embd", 768)


def _parse_blip(values: Mapping[str, Any]) -> CaptionerConfig:
    text, vision = _part(values, "text_config"), _part(values, "vision_config")
    _require(vision, "vision_config.", hidden_act=("gelu", "gelu"))
    bos_id, eos_id = text.get("bos_token_id", 30522), text.get("sep_token_id", 102)
    fields = _bert_fields(text, "text_config.", vocab_size=30524, heads=8, positions=512, depth=12)
    encoder = _tower_fields(vision, image_size=384)
    return CaptionerConfig(encoder, {**fields, "form": "post_norm"}, bos_id, eos_id, text)


def _parse_git(values: Mapping[str, Any]) -> CaptionerConfig:
    vision = _part(values, "vision_config")
    _require(values, "", num_image_with_embedding=(None, None), tie_word_embeddings=(False, False))
    _require(vision, "vision_config.", hidden_act=("quick_gelu", "quick_gelu"))
    fields = _bert_fields(values, "", vocab_size=30522, heads=12, positions=1024, depth=6)
    encoder = _tower_fields(vision, image_size=224)
    encoder |= {"activation": "quick_gelu", "pre_norm": True, "patch_bias": False}
    bos_id, eos_id = values.get("bos_token_id", 101), values.get("eos_token_id", 102)
    return CaptionerConfig(encoder, {**fields, "form": "prefix"}, bos_id, eos_id, values)


def _bert_fields(
    text: Mapping[str, Any], path: str, *, vocab_size: int, heads: int, positions: int, depth: int
) -> dict[str, Any]:
    width = text.get("hidden_size", 768)
    _require(text, path, hidden_act=("gelu", "gelu"), intermediate_size=(4 * width, 3072))
    return {
        "vocab_size": text.get("vocab_size", vocab_size),
        "max_length": text.get("max_position_embeddings", positions),
        "width": width,
        "depth": text.get("num_hidden_layers", depth),
        "heads": text.get("num_attention_heads", heads),
        "norm_eps": text.get("layer_norm_eps", 1e-12),
    }


def _tower_fields(vision: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    return {
        "image_size": vision.get("image_size", image_size),
        "patch_size": vision.get("patch_size", 16),
        "width": vision.get("hidden_size", 768),
        "depth": vision.get("num_hidden_layers", 12),
        "heads": vision.get("num_attention_heads", 12),
        "mlp_dim": vision.get("intermediate_size", 3072),
        "norm_eps": vision.get("layer_norm_eps", 1e-5),
    }


def _part(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = values[name]
    if not isinstance(part, dict):
        raise ValueError(f"{name} must be an object")
    return part


def _require(values: Mapping[str, Any], path: str, **settings: tuple[Any, Any]) -> None:
    """Raises ValueError where a setting has another value than the one that can be used.

    Args:
        settings: (the value, transformers' default) by name.
    """
    for name, (value, default) in settings.items():
        if values.get(name, default) != value:
            raise ValueError(f"{path}{name} = {values.get(name)!r}: only {value!r} can be used")


def _make_gpt2(model: Captioner, bos_id: int, eos_id: int) -> dict[str, Any]:
    encoder, decoder = _encoder(model), model.decoder
    text = {
        "model_type": "gpt2",
        "vocab_size": decoder.vocab_size,
        "n_positions": decoder.max_length,
        "n_embd": decoder.width,
        "n_layer": decoder.depth,
        "n_head": decoder.heads,
        "layer_norm_epsilon": decoder.norm_eps,
        "activation_function": "gelu_new",
        "add_cross_attention": True,
        "is_decoder": True,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
    }
    return {
        "model_type": "vision-encoder-decoder",
        "architectures": ["VisionEncoderDecoderModel"],
        "encoder": hf_vit.make_config(encoder, None),
        "decoder": text,
        "decoder_start_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": eos_id,
        "tie_word_embeddings": True,
    }


def _make_blip(model: Captioner, bos_id: int, eos_id: int) -> dict[str, Any]:
    ids = {"bos_token_id": bos_id, "sep_token_id": eos_id, "eos_token_id": eos_id}
    return {
        "model_type": "blip",
        "architectures": ["BlipForConditionalGeneration"],
        "text_config": {
            "model_type": "blip_text_model",
            "encoder_hidden_size": _encoder(model).width,
            "is_decoder": True,
            **_bert_config(model.decoder),
            **ids,
        },
        "vision_config": {"model_type": "blip_vision_model", **_tower_config(_encoder(model))},
        "tie_word_embeddings": True,
    }


def _make_git(model: Captioner, bos_id: int, eos_id: int) -> dict[str, Any]:
    vision = {"model_type": "git_vision_model", **_tower_config(_encoder(model))}
    return {
        "model_type": "git",
        "architectures": ["GitForCausalLM"],
        **_bert_config(model.decoder),
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "tie_word_embeddings": False,
        "vision_config": vision,
    }


def _encoder(model: Captioner) -> ViT:
    encoder = model.encoder
    assert isinstance(encoder, ViT)
    return encoder


def _bert_config(decoder: Decoder) -> dict[str, Any]:
    return {
        "vocab_size": decoder.vocab_size,
        "max_position_embeddings": decoder.max_length,
        "hidden_size": decoder.width,
        "num_hidden_layers": decoder.depth,
        "num_attention_heads": decoder.heads,
        "intermediate_size": decoder.mlp_dim,
        "layer_norm_eps": decoder.norm_eps,
        "hidden_act": "gelu",
    }


def _tower_config(encoder: ViT) -> dict[str, Any]:
    return {
        "image_size": encoder.image_size,
        "patch_size": encoder.patch_size,
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.mlp_dim,
        "layer_norm_eps": encoder.norm_eps,
        "hidden_act": encoder.activation,
    }


_PARSERS: dict[str, Callable[[Mapping[str, Any]], CaptionerConfig]] = {
    "vision-encoder-decoder": _parse_gpt2,
    "blip": _parse_blip,
    "git": _parse_git,
}
MODEL_TYPES = tuple(_PARSERS)
_CONFIGS: dict[str, Callable[[Captioner, int, int], dict[str, Any]]] = {
    "pre_norm": _make_gpt2,
    "post_norm": _make_blip,
    "prefix": _make_git,
}
