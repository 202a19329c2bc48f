"""A published image-text model (CLIP, SigLIP), as if it had been trained here."""

import sys

from jaxtag.config import checks
from jaxtag.config.schema import Config
from jaxtag.inference.checkpoint import Checkpoint
from jaxtag.tasks.match import pretrained
from jaxtag.tasks.match.config import MatchConfig
from jaxtag.tasks.match.task import MatchTask
from jaxtag.weights import image_text_files
from jaxtag.weights.loader import load
from jaxtag.weights.reference import ResolvedReference
from jaxtag.weights.safetensors_io import folder_of


def open_image_text(reference: ResolvedReference) -> Checkpoint:
    """Loads a CLIP or SigLIP of transformers or open_clip.

    Args:
        reference: of a folder with weights, config.json or open_clip_config.json,
            preprocessor_config.json (of transformers) and the tokenizer; or of a file of weights
            among these.

    Raises:
        UserError: a file is missing or damaged, or the model has no counterpart here.
    """
    model, preprocessing = pretrained.read_model(reference.path)
    tokenizer = image_text_files.read_tokenizer(folder_of(reference.path), model)
    if preprocessing.image_size != model.image_encoder.image_size:
        encoder = model.image_encoder.clone(image_size=preprocessing.image_size)
        model = model.clone(image_encoder=encoder)
    variables = load(reference.path, model, adapt=("image_size",))
    config = Config(total_steps=0, task=MatchConfig(pretrained=reference.pinned))
    config = pretrained.with_described(config, pretrained.describe(model, preprocessing))
    print(
        f"images: resized to {preprocessing.image_size} pixels ({preprocessing.interpolation}); "
        f"texts: {model.text_encoder.max_length} tokens at most",
        file=sys.stderr,
    )
    return Checkpoint(MatchTask(checks.check(config), tokenizer, model), variables)
