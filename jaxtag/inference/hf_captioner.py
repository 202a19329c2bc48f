"""A captioner of transformers, as if it had been trained here."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxtag.config import checks
from jaxtag.config.schema import Config, DataConfig, ModelConfig
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.errors import UserError
from jaxtag.inference.checkpoint import Checkpoint
from jaxtag.tasks.caption.config import CaptionConfig, DecodingConfig
from jaxtag.tasks.caption.task import CaptionTask
from jaxtag.weights import hf_captioners, safetensors_io
from jaxtag.weights.hf_captioners import CaptionerConfig
from jaxtag.weights.loader import load
from jaxtag.weights.preprocessing import load_preprocessing
from jaxtag.weights.tensors import Tensors
from jaxtag.weights.tokenizer_files import read_backend

_MAX_LENGTH = 20  # of captions, where the files do not say: transformers' default
# Tensors that a file may hold beside the ones that they are tied to.
_TIED = {
    "decoder.lm_head.weight": "decoder.transformer.wte.weight",
    "text_decoder.cls.predictions.decoder.weight": (
        "text_decoder.bert.embeddings.word_embeddings.weight"
    ),
}


def open_captioner(folder: Path, max_length: int | None = None) -> Checkpoint:
    """Loads a captioner of transformers: ViT and GPT-2 (`VisionEncoderDecoderModel`), BLIP, GIT.

    Args:
        folder: as `save_pretrained` writes it: config.json, model.safetensors (or
            shards), the tokenizer (tokenizer.json, vocab.json and merges.txt, or vocab.txt),
            preprocessor_config.json and, if it is there, generation_config.json.
        max_length: tokens of a caption, with the start and end marks; by default what the files
            say, else 20, which is transformers' default. Positions beyond it are left out.

    Raises:
        UserError: a file is missing or damaged, or the model is of another kind.
    """
    values = safetensors_io.read_json(folder / "config.json")
    described = hf_captioners.parse_config(values, str(folder / "config.json"))
    settings = _Settings(folder, values, described)
    config = checks.check(_config(folder, described, settings, max_length))
    task = CaptionTask(config, _tokenizer(folder, settings))
    model = task.captioner
    whole = model.clone(decoder=model.decoder.clone(max_length=described.decoder["max_length"]))
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

    def __init__(self, folder: Path, values: dict[str, Any], described: CaptionerConfig):
        self._sources = [safetensors_io.read_json(folder / "generation_config.json"), values]
        self._sources.append(dict(described.text))
        start = self.get("decoder_start_token_id", self.get("bos_token_id", None))
        self.start = start if described.bos_id is None else described.bos_id
        self.end = described.eos_id or self.get("eos_token_id", None)
        if not isinstance(self.start, int) or not isinstance(self.end, int):
            raise UserError(
                f"{folder}: config.json must give one decoder_start_token_id and one eos_token_id"
            )

    def get(self, name: str, default: Any) -> Any:
        """The value of the first source that has one."""
        values = (source.get(name) for source in self._sources)
        return next((value for value in values if value is not None), default)


def _tokenizer(folder: Path, settings: _Settings) -> Tokenizer:
    """The tokenizer, with BLIP's start mark, which its files leave out, as the next id."""
    backend = read_backend(folder)
    if settings.start == backend.get_vocab_size():
        backend.add_special_tokens(["[DEC]"])
    return Tokenizer.from_pretrained(backend, settings.start, settings.end)


def _check_tied(folder: Path) -> None:
    tensors = Tensors(folder)
    for head, tokens in _TIED.items():
        if head in tensors and not np.array_equal(tensors[head], tensors[tokens]):
            raise UserError(f"{folder}: {head} differs from {tokens}; only tied ones can be used")


def _config(
    folder: Path, described: CaptionerConfig, settings: _Settings, max_length: int | None
) -> Config:
    preprocessing = load_preprocessing(folder)
    if preprocessing is None:
        raise UserError(f"{folder} has no preprocessor_config.json: how images are prepared")
    decoder = described.decoder
    beams = settings.get("num_beams", 1)
    length = min(max_length or settings.get("max_length", _MAX_LENGTH), decoder["max_length"])
    return Config(
        total_steps=0,
        data=DataConfig(**preprocessing.data_fields()),
        task=CaptionConfig(
            vocab_size=decoder["vocab_size"],
            max_length=length,
            lowercase=False,
            decoding=DecodingConfig(
                method="beam" if beams > 1 else "greedy",
                beam_size=beams,
                length_penalty=float(settings.get("length_penalty", 1.0)),
                early_stopping=settings.get("early_stopping", False),
                min_new_tokens=settings.get("min_new_tokens", 0),
                no_repeat_ngram_size=settings.get("no_repeat_ngram_size", 0),
                repetition_penalty=float(settings.get("repetition_penalty", 1.0)),
            ),
        ),
        model=ModelConfig(
            backbone="vit_base_patch16",
            kwargs=described.encoder,
            decoder_form=decoder["form"],
            decoder_width=decoder["width"],
            decoder_depth=decoder["depth"],
            decoder_heads=decoder["heads"],
            decoder_norm_eps=decoder["norm_eps"],
            decoder_vocab_size=decoder["vocab_size"],
        ),
    )
