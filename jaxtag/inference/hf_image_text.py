"""A published image-text model (CLIP, SigLIP), as if it had been trained here."""

import sys
from pathlib import Path

from tokenizers import normalizers

from jaxtag.config import schema
from jaxtag.config.schema import Config, DataConfig, ModelConfig
from jaxtag.data import transforms
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.errors import UserError
from jaxtag.inference.checkpoint import Checkpoint
from jaxtag.models.image_text import ImageText
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.tasks.base import Task
from jaxtag.tasks.match.config import MatchConfig
from jaxtag.tasks.match.task import MatchTask
from jaxtag.weights import image_text_files
from jaxtag.weights.loader import load
from jaxtag.weights.preprocessing import load_preprocessing
from jaxtag.weights.reference import ResolvedReference
from jaxtag.weights.safetensors_io import folder_of
from jaxtag.weights.tokenizer_files import read_backend, special_token_id

# Of tokens around a text, where tokenizer_config.json does not name them: CLIP's, SigLIP's and
# SigLIP 2's.
_STARTS = ("<|startoftext|>",)
_ENDS = ("</s>", "<eos>")


class PublishedMatchTask(MatchTask):
    """`MatchTask` with images prepared as the files of a published model say."""

    def image_transform(self, train: bool) -> transforms.ImageTransform:
        return Task.image_transform(self, train)


def open_image_text(reference: ResolvedReference) -> Checkpoint:
    """Loads a CLIP or SigLIP of transformers or open_clip.

    Args:
        reference: of a folder with weights, config.json or open_clip_config.json,
            preprocessor_config.json (of transformers) and the tokenizer; or of a file of weights
            among these.

    Raises:
        UserError: a file is missing or damaged, or the model has no counterpart here.
    """
    folder = folder_of(reference.path)
    model = image_text_files.read_model(folder)
    preprocessing = load_preprocessing(reference.path)
    if preprocessing is None:
        raise UserError(f"{folder} has no preprocessor_config.json: how images are prepared")
    if preprocessing.image_size != model.image_encoder.image_size:
        encoder = model.image_encoder.clone(image_size=preprocessing.image_size)
        model = model.clone(image_encoder=encoder)
    tokenizer = _read_tokenizer(folder, model)
    variables = load(reference.path, model, adapt=("image_size",))
    config = schema.check(_config(model, preprocessing))
    print(
        f"images: resized to {preprocessing.image_size} pixels ({preprocessing.interpolation}); "
        f"texts: {model.text_encoder.max_length} tokens at most",
        file=sys.stderr,
    )
    return Checkpoint(PublishedMatchTask(config, tokenizer, model), variables)


def _read_tokenizer(folder: Path, model: ImageText) -> Tokenizer:
    """The tokenizer, with the tokens that the model wants around a text."""
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


def _config(model: ImageText, preprocessing: Preprocessing) -> Config:
    text = model.text_encoder
    is_full = preprocessing.crop == 1 and preprocessing.fit != "crop"
    return Config(
        total_steps=0,
        task=MatchConfig(
            loss="clip" if text.causal else "siglip",
            embedding_dim=model.embed_dim,
            vocab_size=text.vocab_size,
            max_length=text.max_length,
            lowercase=False,
            text_width=text.width,
            text_depth=text.depth,
            text_heads=text.heads,
        ),
        data=DataConfig(
            image_size=preprocessing.image_size,
            eval_crop_pct=None if is_full else preprocessing.crop,
            eval_fit=preprocessing.fit,
            eval_interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
        ),
        model=ModelConfig(backbone="vit_base_patch16"),
    )
