"""A captioner of transformers, as if it had been trained here."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxtag.config import schema
from jaxtag.config.schema import Config, DataConfig, ModelConfig
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.errors import UserError
from jaxtag.inference.checkpoint import Checkpoint
from jaxtag.tasks.caption.config import CaptionConfig, DecodingConfig
from jaxtag.tasks.caption.task import CaptionTask
from jaxtag.weights import safetensors_io
from jaxtag.weights.loader import load
from jaxtag.weights.preprocessing import load_preprocessing
from jaxtag.weights.tensors import Tensors
from jaxtag.weights.tokenizer_files import read_backend

_MAX_LENGTH = 20  # of captions, where the files do not say: transformers' default
# Settings of `config.json` that the captioner supports: part -> key -> (the value, default).
_ONLY: dict[str, dict[str, tuple[Any, Any]]] = {
    "encoder": {
        "model_type": ("vit", None),
        "hidden_act": ("gelu", "gelu"),
        "qkv_bias": (True, True),
    },
    "decoder": {
        "model_type": ("gpt2", None),
        "add_cross_attention": (True, False),
        "activation_function": ("gelu_new", "gelu_new"),
        "layer_norm_epsilon": (1e-5, 1e-5),
        "scale_attn_weights": (True, True),
        "scale_attn_by_inverse_layer_idx": (False, False),
    },
}


def open_captioner(folder: Path, max_length: int | None = None) -> Checkpoint:
    """Loads a `transformers.VisionEncoderDecoderModel` of a ViT and a GPT-2.

    Args:
        folder: as `save_pretrained` writes it: config.json, model.safetensors (or
            shards), the tokenizer (tokenizer.json, or vocab.json and merges.txt),
            preprocessor_config.json and, if it is there, generation_config.json.
        max_length: tokens of a caption, with the start and end marks; by default what the files
            say, else 20, which is transformers' default. Positions beyond it are left out.

    Raises:
        UserError: a file is missing or damaged, or the model is of another kind.
    """
    hf_config = safetensors_io.read_json(folder / "config.json")
    _check_kind(folder, hf_config)
    settings = _Settings(folder, hf_config)
    config = schema.check(_config(folder, hf_config, settings, max_length))
    tokenizer = Tokenizer.from_pretrained(read_backend(folder), settings.start, settings.end)
    task = CaptionTask(config, tokenizer)
    model = task.captioner
    whole = model.clone(decoder=model.decoder.clone(max_length=_positions(hf_config)))
    variables = load(folder, whole)
    _check_tied(folder)
    decoder = variables["params"]["decoder"]
    decoder["pos_embed"] = decoder["pos_embed"][: task.settings.max_length]
    return Checkpoint(task, variables)


class _Settings:
    """How captions are made, from generation_config.json or, as older files have it, config.json.

    Attributes:
        start, end: ids of the tokens that start and end a caption.
    """

    def __init__(self, folder: Path, hf_config: dict[str, Any]):
        self._sources = [safetensors_io.read_json(folder / "generation_config.json"), hf_config]
        self._sources.append(hf_config["decoder"])
        self.start = self.get("decoder_start_token_id", self.get("bos_token_id", None))
        self.end = self.get("eos_token_id", None)
        if not isinstance(self.start, int) or not isinstance(self.end, int):
            raise UserError(
                f"{folder}: config.json must give one decoder_start_token_id and one eos_token_id"
            )

    def get(self, name: str, default: Any) -> Any:
        """The value of the first source that has one."""
        values = (source.get(name) for source in self._sources)
        return next((value for value in values if value is not None), default)


def _check_kind(folder: Path, hf_config: dict[str, Any]) -> None:
    if hf_config.get("model_type") != "vision-encoder-decoder":
        raise UserError(
            f"{folder / 'config.json'} is of no VisionEncoderDecoderModel (model_type "
            f"{hf_config.get('model_type')!r}), nor of a classifier that is known here"
        )
    for part in _ONLY:
        if not isinstance(hf_config.get(part), dict):
            raise UserError(f"{folder / 'config.json'} is damaged: {part} must be an object")
    for part, only in _ONLY.items():
        for key, (value, default) in only.items():
            setting = hf_config[part].get(key, default)
            if setting != value:
                raise UserError(f"{folder}: {part}.{key} = {setting!r}: only {value!r} can be used")
    decoder = hf_config["decoder"]
    if decoder.get("n_inner") not in (None, 4 * decoder.get("n_embd", 768)):
        raise UserError(f"{folder}: decoder.n_inner must be 4 n_embd, not {decoder['n_inner']}")


def _check_tied(folder: Path) -> None:
    tensors = Tensors(folder)
    head, tokens = "decoder.lm_head.weight", "decoder.transformer.wte.weight"
    if head in tensors and not np.array_equal(tensors[head], tensors[tokens]):
        raise UserError(f"{folder}: {head} differs from {tokens}; only tied ones can be used")


def _config(
    folder: Path, hf_config: dict[str, Any], settings: _Settings, max_length: int | None
) -> Config:
    preprocessing = load_preprocessing(folder)
    if preprocessing is None:
        raise UserError(f"{folder} has no preprocessor_config.json: how images are prepared")
    if preprocessing.crop != 1.0:
        raise UserError(f"{folder}: captioners take full images here, and this one a crop")
    encoder, decoder = hf_config["encoder"], hf_config["decoder"]
    fields = {
        "patch_size": encoder.get("patch_size", 16),
        "width": encoder.get("hidden_size", 768),
        "depth": encoder.get("num_hidden_layers", 12),
        "heads": encoder.get("num_attention_heads", 12),
        "mlp_dim": encoder.get("intermediate_size", 3072),
        "norm_eps": encoder.get("layer_norm_eps", 1e-12),
    }
    beams = settings.get("num_beams", 1)
    positions = _positions(hf_config)
    return Config(
        total_steps=0,
        data=DataConfig(
            image_size=preprocessing.image_size,
            mean=preprocessing.mean,
            std=preprocessing.std,
        ),
        task=CaptionConfig(
            vocab_size=decoder.get("vocab_size", 50257),
            max_length=min(max_length or settings.get("max_length", _MAX_LENGTH), positions),
            lowercase=False,
            decoding=DecodingConfig(
                method="beam" if beams > 1 else "greedy",
                beam_size=beams,
                length_penalty=float(settings.get("length_penalty", 1.0)),
                early_stopping=settings.get("early_stopping", False),
            ),
        ),
        model=ModelConfig(
            backbone="vit_base_patch16",
            kwargs=fields,
            decoder_width=decoder.get("n_embd", 768),
            decoder_depth=decoder.get("n_layer", 12),
            decoder_heads=decoder.get("n_head", 12),
            decoder_vocab_size=decoder.get("vocab_size", 50257),
        ),
    )


def _positions(hf_config: dict[str, Any]) -> int:
    return hf_config["decoder"].get("n_positions", 1024)
