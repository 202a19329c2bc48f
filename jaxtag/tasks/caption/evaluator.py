"""Evaluation of a captioner: likelihood of the references, and scores of its own captions."""

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxtag import models
from jaxtag.config.schema import Config
from jaxtag.data import sources
from jaxtag.data.sources import Source
from jaxtag.data.tokenizer import PAD, Tokenizer
from jaxtag.datasets import shapes_grammar
from jaxtag.decoding import generate as generation
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UsageError
from jaxtag.metrics import captioning
from jaxtag.tasks import eval_batches
from jaxtag.tasks.caption import task as caption

_CANDIDATES = 20  # constant captions that are tried
_CHOOSING = 100  # pictures on which one of them is chosen


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
      metrics: name → value; cross entropy in nats a token, scores as coco-caption gives them.
      captions: position in the split → caption.
      references: position in the split → reference captions.
      pictures: position in the split → uint8 [S, S, 3], a few of them.
    """

    metrics: dict[str, float]
    captions: dict[int, str]
    references: dict[int, list[str]]
    pictures: dict[int, np.ndarray]

    def part(self, source: Source) -> dict[str, float]:
        """Scores on the pictures of `source`, the first ones of the split."""
        kept = {i: text for i, text in self.captions.items() if i < len(source)}
        return score(kept, self.references, source)

    def shown(self) -> list[tuple[int, np.ndarray, str, list[str]]]:
        """(position, picture, caption, references) of a few."""
        return [
            (index, picture, self.captions[index], self.references[index])
            for index, picture in sorted(self.pictures.items())
        ]

    def compared(self, config: Config) -> dict[str, dict[str, float]]:
        """The model beside captioners that do not look at the picture (see `baselines`)."""
        data = config.data
        held_out = sources.open_split(data.dataset, data.evaluation_split, data.data_dir)
        training = sources.open_split(data.dataset, data.train_split, data.data_dir)
        hidden = ("examples", "cross_entropy")
        model = {name: value for name, value in self.metrics.items() if name not in hidden}
        return {"model": model, **baselines(self, _candidates(training, config.seed), held_out)}


class CaptionEvaluator:
    """Evaluates variables on splits of one data set; compiles once."""

    def __init__(
        self,
        task: caption.CaptionTask,
        mesh: jax.sharding.Mesh,
        config: Config,
        tokenizer: Tokenizer,
    ):
        meshes.check_batch(mesh, config.evaluation.batch_size, "config.evaluation.batch_size")
        self._mesh, self._config, self._tokenizer = mesh, config, tokenizer
        self._loss = jax.jit(
            meshes.with_mesh(mesh, lambda variables, batch: task.loss(variables, batch, None)[2]),
            out_shardings=meshes.replicated(mesh),
        )
        self._generate = meshes.with_mesh(mesh, caption_generator(task, config, tokenizer))

    def __call__(self, variables: Any, source: Source) -> Evaluation:
        """Evaluates every example of `source` once, on any number of processes."""
        sums: dict[str, np.ndarray] = {}
        captions: dict[int, str] = {}
        pictures: dict[int, np.ndarray] = {}
        key = jax.random.key(self._config.seed)
        example = caption.example(self._config, self._tokenizer, train=False)
        for number, batch in enumerate(eval_batches.of(source, self._config, example, self._mesh)):
            arrays = meshes.make_global_batch(batch, self._mesh)
            metrics = self._loss(variables, arrays)
            tokens = self._generate(variables, arrays, jax.random.fold_in(key, number))["tokens"]
            for name, pair in jax.device_get(metrics).items():
                sums[name] = sums.get(name, 0) + np.asarray(pair, np.float64)
            tokens, index, mask = multihost_utils.process_allgather(
                (tokens, arrays["index"], arrays["mask"]), tiled=True
            )
            real = mask > 0
            texts = self._tokenizer.decode_batch(np.asarray(tokens)[real])
            captions.update(zip(np.asarray(index)[real].tolist(), texts, strict=True))
            for place in np.flatnonzero(batch["mask"] > 0):
                if len(pictures) < self._config.evaluation.num_samples_shown:
                    pictures[int(batch["index"][place])] = batch["image"][place]
        references = {
            index: texts
            for index, texts in enumerate(sources.iter_captions(source))
            if index in captions
        }
        values = {name: float(total / max(count, 1e-9)) for name, (total, count) in sums.items()}
        values["perplexity"] = math.exp(min(values["cross_entropy"], 700.0))
        del values["loss"]
        values |= score(captions, references, source)
        values["examples"] = len(captions)
        return Evaluation(values, captions, references, pictures)


def score(
    captions: dict[int, str], references: dict[int, Sequence[str]], source: Source
) -> dict[str, float]:
    """Scores of captions; on scenes that are known exactly, of what they assert too."""
    scored = {index: captions[index] for index in captions if references.get(index)}
    values = captioning.score(scored, {index: references[index] for index in scored})
    if scored and "scene" in source.features:
        indices = sorted(scored)
        scenes = [json.loads(record["scene"]) for record in source.__getitems__(indices)]
        texts = [scored[index] for index in indices]
        values |= shapes_grammar.exact_attribute_accuracy(texts, scenes)
    return values


def baselines(
    evaluation: Evaluation, candidates: Sequence[str], source: Source
) -> dict[str, dict[str, float]]:
    """Scores of two captioners that do not look at the picture.

    `shuffled`: the model's captions, each given to the next picture. `constant`: of the
    `candidates` the one whose repetition gives the highest CIDEr on some of these very
    references, which flatters it.
    """
    indices = sorted(evaluation.captions)
    texts = [evaluation.captions[index] for index in indices]
    moved = dict(zip(indices, texts[1:] + texts[:1], strict=True))
    found = {"shuffled": score(moved, evaluation.references, source)}
    constants = [
        captioning.score(dict.fromkeys(indices[:_CHOOSING], text), evaluation.references)
        for text in candidates
    ]
    if constants:
        best = max(range(len(constants)), key=lambda place: constants[place]["CIDEr"])
        constant = dict.fromkeys(indices, candidates[best])
        found["constant"] = score(constant, evaluation.references, source)
    return found


def _candidates(training: Source, seed: int) -> list[str]:
    """Training captions, the same for the same seed."""
    texts = list(itertools.chain.from_iterable(sources.iter_captions(training.first(2000))))
    return random.Random(seed).sample(texts, min(_CANDIDATES, len(texts)))


def caption_generator(
    task: caption.CaptionTask, config: Config, tokenizer: Tokenizer
) -> Callable[..., dict]:
    """A compiled function (variables, batch, key) → {"tokens" int32 [B, length], "scores" [B]}.

    Raises:
      UsageError: config.task.decoding makes no sense or does not fit the model.
    """
    settings = {
        **dataclasses.asdict(config.task.decoding),
        "max_length": config.task.max_length,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "pad_id": PAD,
    }
    try:
        generation.validate(task.model, generation.Settings(**settings))
    except ValueError as error:
        raise UsageError(f"config.task.decoding: {error}") from error

    @jax.jit
    def generate(variables: Any, batch: dict[str, jax.Array], key: jax.Array) -> dict:
        return models.generate(task.model, variables, task.images(batch), rng=key, **settings)

    return generate
