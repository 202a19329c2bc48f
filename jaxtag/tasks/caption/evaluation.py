"""Evaluation of a captioner: likelihood of the references, and scores of its own captions."""

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtag import registry
from jaxtag.data import sources
from jaxtag.data.sources import Source
from jaxtag.metrics import captioning
from jaxtag.tasks.base import Data, Evaluation, EvaluationData, Sample, Scores

_CANDIDATES = 20  # constant captions that are tried
_CHOOSING = 100  # images on which one of them is chosen
_NOT_COMPARED = ("examples", "cross_entropy")


class CaptionEvaluation(Evaluation):
    """The evaluation of a captioner.

    Attributes:
        metrics: cross entropy in nats per token, scores as coco-caption gives them.
        captions: position in the split -> caption.
        references: position in the split -> reference captions.
    """

    def __init__(
        self,
        metrics: dict[str, float],
        data: EvaluationData,
        captions: dict[int, str],
        references: dict[int, list[str]],
        seed: int,
    ):
        super().__init__(metrics, data)
        self.captions, self.references, self._seed = captions, references, seed

    def subset_metrics(self, count: int) -> dict[str, float]:
        captions = {i: text for i, text in self.captions.items() if i < count}
        return caption_scores(captions, self.references, self.source)

    def samples(self) -> list[Sample]:
        return [
            Sample(position, image, self.captions[position], self.references[position])
            for position, image in sorted(self.images.items())
        ]

    def predictions(self) -> dict[str, Any]:
        positions = self.index.tolist()
        return {
            "caption": [self.captions[position] for position in positions],
            "references": [list(self.references.get(position, ())) for position in positions],
        }

    def with_baselines(self, data: Data) -> Scores:
        """The model beside two image-blind captioners (see `baselines`)."""
        model = {name: v for name, v in self.metrics.items() if name not in _NOT_COMPARED}
        candidates = candidate_captions(data.train, self._seed)
        return {"model": model, **baselines(self, candidates)}


def caption_scores(
    captions: Mapping[int, str], references: Mapping[int, Sequence[str]], source: Source
) -> dict[str, float]:
    """Scores of captions by their positions in a split; {} where no image has references.

    Where a data set's records describe their images exactly, a field of them has a metric of its
    own (registered as "record_metric"), and its values are added.
    """
    scored = {index: captions[index] for index in captions if references.get(index)}
    if not scored:
        return {}
    values = captioning.score(scored, {index: references[index] for index in scored})
    for field in registry.names("record_metric"):
        if field in getattr(source, "features", {}):
            indices = sorted(scored)
            records = source.__getitems__(indices)
            metric = registry.resolve("record_metric", field, field)
            values |= metric([scored[i] for i in indices], [record[field] for record in records])
    return values


def baselines(evaluation: CaptionEvaluation, candidates: Sequence[str]) -> Scores:
    """Scores of two captioners that do not look at the image.

    `shuffled`: the model's captions, each given to the next image. `constant`: of the
    `candidates` the one whose repetition gives the highest CIDEr on some of these very
    references, which flatters it.
    """
    indices = sorted(evaluation.captions)
    texts = [evaluation.captions[index] for index in indices]
    moved = dict(zip(indices, texts[1:] + texts[:1], strict=True))
    references, source = evaluation.references, evaluation.source
    scores = {"shuffled": caption_scores(moved, references, source)}
    constants = [
        captioning.score(dict.fromkeys(indices[:_CHOOSING], text), references)
        for text in candidates
    ]
    if constants:
        best = max(range(len(constants)), key=lambda number: constants[number]["CIDEr"])
        constant = dict.fromkeys(indices, candidates[best])
        scores["constant"] = caption_scores(constant, references, source)
    return scores


def candidate_captions(training: Source, seed: int) -> list[str]:
    """Some training captions, the same for the same seed."""
    texts = list(itertools.chain.from_iterable(sources.iter_captions(training.first(2000))))
    return random.Random(seed).sample(texts, min(_CANDIDATES, len(texts)))
