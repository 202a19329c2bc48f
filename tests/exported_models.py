"""Small models of each task, with random weights, as the commands load them."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtag.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig
from jaxtag.data.labels import LabelNames
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.distributed import mesh
from jaxtag.inference.predictor import Predictor
from jaxtag.tasks.base import Task
from jaxtag.tasks.caption.config import CaptionConfig, DecodingConfig
from jaxtag.tasks.caption.task import CaptionTask
from jaxtag.tasks.classify.config import ClassifyConfig
from jaxtag.tasks.classify.task import ClassifyTask
from jaxtag.tasks.embed.config import EmbedConfig
from jaxtag.tasks.embed.task import EmbedTask
from jaxtag.tasks.match.config import MatchConfig
from jaxtag.tasks.match.task import MatchTask
from jaxtag.tasks.tag.calibration import TagCalibration
from jaxtag.tasks.tag.config import TagConfig
from jaxtag.tasks.tag.task import TagTask

NAMES = LabelNames(("cat", "dog", "sea", "ship"))
SMALL = ModelConfig(backbone="small_classifier:SmallClassifier")
_VIT = {"depth": 1, "width": 16, "heads": 2, "mlp_dim": 32}


def random_variables(shapes: Any, seed: int = 1, gain: float = 2.0) -> Any:
    """Weights of about the scale of trained ones.

    Scales and variances are near 1; the others have the variance `gain` / fan_in.
    """
    random = np.random.default_rng(seed)

    def draw(path: Any, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        is_scale = any(name in jax.tree_util.keystr(path) for name in ("scale", "var"))
        fan_in = np.prod(shape.shape[:-1]) if len(shape.shape) > 1 else 100
        noise = random.normal(size=shape.shape) * np.sqrt((1 if is_scale else gain) / fan_in)
        return (noise + is_scale).astype(shape.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def predictor(task: Task) -> Predictor:
    """A task's model with random weights."""
    variables = random_variables(jax.eval_shape(task.init, jax.random.key(0)))
    return Predictor(task, mesh.make_mesh(), variables, 7, Path("runs/x"), "runs/x")


def _config(task: Any, model: ModelConfig, **data: Any) -> Config:
    evaluation = EvaluationConfig(batch_size=8)
    return Config(task=task, model=model, data=DataConfig(**data), evaluation=evaluation)


def classifier(**data: Any) -> Predictor:
    settings = {"image_size": 16, "eval_crop_pct": 0.875, **data}
    return predictor(ClassifyTask(_config(ClassifyConfig(), SMALL, **settings), NAMES))


def tagger(head: str = "linear") -> Predictor:
    model = SMALL
    if head == "query":
        fields = {"decoder_width": 16, "decoder_heads": 2}
        model = ModelConfig(backbone="vit_tiny_patch16", kwargs=_VIT, scan=False, **fields)
    task = TagTask(_config(TagConfig(head=head), model, image_size=16), NAMES)
    task.calibration = TagCalibration(2.0, 0.25, (0.4, 0.5, 0.6, 0.999))
    return predictor(task)


def embedder(**kwargs: Any) -> Predictor:
    model = ModelConfig(backbone="vit_tiny_patch16", kwargs=_VIT | kwargs, scan=False)
    config = _config(EmbedConfig(embedding_dim=6), model, image_size=16)
    return predictor(EmbedTask(config, NAMES))


CAPTIONS = ["a red circle", "a green square über a box", "two dogs 🐶 by the sea"]


def matcher() -> Predictor:
    model = ModelConfig(backbone="vit_tiny_patch16", kwargs=_VIT, scan=False)
    fields = {"text_width": 16, "text_depth": 1, "text_heads": 2, "embedding_dim": 6}
    config = _config(MatchConfig(max_length=12, **fields), model, image_size=16)
    return predictor(MatchTask(config, Tokenizer.train(CAPTIONS, 300)))


def captioner() -> Predictor:
    tokenizer = Tokenizer.train(CAPTIONS, 300)
    settings = ModelConfig(
        backbone="vit_tiny_patch16",
        kwargs=_VIT,
        decoder_width=16,
        decoder_depth=1,
        decoder_heads=2,
        scan=False,
    )
    config = _config(
        CaptionConfig(max_length=9, decoding=DecodingConfig("greedy")), settings, image_size=32
    )
    model = predictor(CaptionTask(config, tokenizer))
    for name in ("token_embed", "pos_embed"):  # large, so that each token changes the next
        model.variables["params"]["decoder"][name] *= 8
    return model
