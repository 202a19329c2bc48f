"""CIDEr (Vedantam, Zitnick, Parikh, CVPR 2015, arXiv:1411.5726) in its two forms.

- "d": CIDEr-D, the one that is reported. coco-caption's class `Cider`, and so the "CIDEr" of the
  COCO leaderboard and of papers, *is* CIDEr-D: counts are clipped and a Gaussian (sigma 6)
  penalizes lengths that differ. The authors' own `ciderD` computes the same.
- "original": the CIDEr of the paper's equations, without clipping and length penalty.

Both are 10 where a caption equals its references. Document frequencies come from the references
that are scored, so a single image always scores 0 (log of 1 document), and scores of different sets
are not comparable. Words are not stemmed: no implementation does so, although the paper says it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from operator import truediv
from typing import NamedTuple

from jaxtag.metrics.captioning.bleu import ngrams

_SIGMA = 6.0


def cider(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """CIDEr of each image, in both forms.

    Args:
        hypotheses: N tokenized captions (words separated by spaces).
        references: N lists of one or more tokenized captions.

    Returns:
        {"d": …, "original": …}, each N numbers between 0 and 10; the score of the set is the mean.
    """
    scorer = CiderScorer(references)
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} captions for {len(references)} images")
    pairs = [scorer.score(caption, image) for image, caption in enumerate(hypotheses)]
    return {"d": [d for d, _ in pairs], "original": [original for _, original in pairs]}


class CiderScorer:
    """CIDEr of any caption of an image; the document frequencies are counted once.

    Args:
        references: N lists of one or more tokenized captions.
    """

    def __init__(self, references: Sequence[Sequence[str]]):
        self._references = references
        frequency: Counter[tuple[str, ...]] = Counter()
        for captions in references:
            frequency.update(set().union(*map(_counts, captions)))
        self._documents = math.log(len(references)) if references else 0.0
        self._weights = {
            ngram: self._documents - math.log(count) for ngram, count in frequency.items()
        }

    def score(self, hypothesis: str, image: int) -> tuple[float, float]:
        """(CIDEr-D, original CIDEr) of a tokenized caption of image number `image`."""
        vector, group = self._vector(hypothesis), self._references[image]
        similarities = [_similarities(vector, self._vector(caption)) for caption in group]
        clipped, original = (sum(values) for values in zip(*similarities, strict=True))
        return 10 * clipped / len(group), 10 * original / len(group)

    def _vector(self, caption: str) -> "_Vector":
        counts = _counts(caption)
        values = {
            ngram: tf * self._weights.get(ngram, self._documents) for ngram, tf in counts.items()
        }
        squares, pairs = [0.0] * 4, 0
        for ngram, value in values.items():
            squares[len(ngram) - 1] += value * value
            if len(ngram) == 2:
                pairs += counts[ngram]
        return _Vector(values, [math.sqrt(square) for square in squares], pairs)


class _Vector(NamedTuple):
    values: dict[tuple[str, ...], float]  # TF-IDF weight of each n-gram
    norms: list[float]  # for n from 1 to 4
    pairs: int  # number of bigrams: what coco-caption takes for the length


def _counts(caption: str) -> dict[tuple[str, ...], int]:
    words = caption.split()
    return Counter(ngram for n in range(1, 5) for ngram in ngrams(words, n))


def _similarities(hypothesis: _Vector, reference: _Vector) -> tuple[float, float]:
    """Mean over n of the cosine of two vectors: with clipping and penalty, and without."""
    clipped, unclipped = [0.0] * 4, [0.0] * 4
    for ngram, value in hypothesis.values.items():
        other = reference.values.get(ngram)
        if other is not None:
            clipped[len(ngram) - 1] += min(value, other) * other
            unclipped[len(ngram) - 1] += value * other
    norms = [a * b or 1.0 for a, b in zip(hypothesis.norms, reference.norms, strict=True)]
    penalty = math.exp(-((hypothesis.pairs - reference.pairs) ** 2) / (2 * _SIGMA**2))
    return (
        penalty * sum(map(truediv, clipped, norms)) / 4,
        sum(map(truediv, unclipped, norms)) / 4,
    )
