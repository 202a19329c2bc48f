"""Image-text models as classifiers and taggers of names that they were not trained on.

A name becomes a vector: the mean of the vectors of several prompts that hold it (Radford et al.
2021, arXiv:2103.00020, section 3.1.4). What comes out is a `ClassifyTask` or `TagTask` like any
other, so that it is evaluated, calibrated and used as one.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxtag.config.schema import TaskConfig
from jaxtag.data.labels import LabelNames
from jaxtag.data.sources import Source
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UsageError, UserError
from jaxtag.inference.predictor import Predictor
from jaxtag.models.image_text import ImageText
from jaxtag.models.text_classifier import TextClassifier
from jaxtag.tasks.classify.config import ClassifyConfig
from jaxtag.tasks.tag.config import TagConfig
from jaxtag.training import run_data

# {} is the name; of several languages or styles, any that the texts of training resemble.
PROMPTS = ("{}", "a photo of {}", "a photo of a {}", "a photo of the {}", "a picture with {} in it")
Synonyms = Mapping[str, Sequence[str]]  # name -> other words for it, in any language
NO_SYNONYMS: Synonyms = MappingProxyType({})
_BATCH = 256  # texts embedded at a time


@runtime_checkable
class TextEmbedder(Protocol):
    """What a task of images and texts offers (see `tasks.match`)."""

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Texts as tokens int32 [T, L]."""

    def embed_texts(self, variables: Any, tokens: Any) -> jax.Array:
        """Tokens int32 [T, L] as vectors of length 1, float32 [T, D]."""


def classifier(
    model: Predictor, names: Sequence[str], prompts: Sequence[str], synonyms: Synonyms = NO_SYNONYMS
) -> Predictor:
    """`model` as a classifier of images into classes with these names."""
    return _with_names(model, names, prompts, synonyms, ClassifyConfig())


def tagger(
    model: Predictor, names: Sequence[str], prompts: Sequence[str], synonyms: Synonyms = NO_SYNONYMS
) -> Predictor:
    """`model` as a tagger with these tags, not calibrated yet."""
    return _with_names(model, names, prompts, synonyms, TagConfig())


def for_source(model: Predictor, source: Source, prompts: Sequence[str] = PROMPTS) -> Predictor:
    """`model` as a classifier or tagger of the names that a data set has.

    Raises:
        UserError: the data set has neither `label` nor `tags`, or the model embeds no texts.
    """
    for field, make in (("label", classifier), ("tags", tagger)):
        if field in source.features:
            return make(model, source.class_names(field), prompts)
    raise UserError(f"{source.name} has neither labels nor tags, whose names could be texts")


def embed_texts(model: Predictor, texts: Sequence[str]) -> Float[np.ndarray, "T D"]:
    """Vectors of length 1 of texts.

    Raises:
        UsageError: the model embeds no texts.
    """
    task = model.task
    if not isinstance(task, TextEmbedder):
        raise UsageError(
            f"{model.reference} embeds images alone: take a model of images and texts, such as a "
            "run of coco_match"
        )
    embed = jax.jit(task.embed_texts, out_shardings=meshes.replicated(model.mesh))
    tokens = task.tokenize(texts)
    size = min(_BATCH, max(1, len(tokens)))
    padded = np.pad(tokens, ((0, -len(tokens) % size), (0, 0)))  # so that it compiles once
    parts = [
        np.asarray(embed(model.variables, rows))
        for rows in padded.reshape(-1, size, tokens.shape[1])
    ]
    return np.concatenate(parts)[: len(tokens)]


def embed_names(
    model: Predictor, names: Sequence[str], prompts: Sequence[str], synonyms: Synonyms = NO_SYNONYMS
) -> Float[np.ndarray, "T D"]:
    """The vector of each name, of length 1: the mean of those of its prompts and synonyms.

    Raises:
        UsageError: there are no prompts, or one does not hold {}.
    """
    for prompt in prompts:
        if "{}" not in prompt:
            raise UsageError(f"the prompt {prompt!r} has no {{}} for the name")
    if not prompts:
        raise UsageError("there must be at least one prompt, such as {}")
    texts = [
        [
            prompt.replace("{}", word)
            for word in (name, *synonyms.get(name, ()))
            for prompt in prompts
        ]
        for name in names
    ]
    embedded = embed_texts(model, list(itertools.chain.from_iterable(texts)))
    ends = np.cumsum([len(group) for group in texts])
    vectors = np.stack([group.mean(0) for group in np.split(embedded, ends[:-1])])
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _with_names(
    model: Predictor,
    names: Sequence[str],
    prompts: Sequence[str],
    synonyms: Synonyms,
    settings: TaskConfig,
) -> Predictor:
    vectors = embed_names(model, names, prompts, synonyms)
    whole_model = dataclasses.replace(model.config.model, freeze=False, cached_views=0)
    config = dataclasses.replace(model.config, task=settings, model=whole_model)
    module = TextClassifier(cast(ImageText, model.task.model), len(names))
    task = run_data.task_class(config)(config, LabelNames(tuple(names)), module)
    whole = jax.device_put(jnp.asarray(vectors), meshes.replicated(model.mesh))
    variables = {name: {"image_text": tree} for name, tree in model.variables.items()}
    variables["params"] = {**variables["params"], "class_embeddings": whole}
    return dataclasses.replace(model, task=task, variables=variables)
