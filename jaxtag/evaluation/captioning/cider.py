"""CIDEr (Vedantam, Zitnick, Parikh, CVPR 2015, arXiv:1411.5726) in its two forms.

- `variant="d"`: CIDEr-D, the one everybody reports. coco-caption's class `Cider`, and so the
  "CIDEr" of the COCO leaderboard and of papers, *is* CIDEr-D: counts are clipped and a Gaussian
  (sigma 6) punishes lengths that differ. The authors' own `ciderD` computes the same.
- `variant="original"`: the CIDEr of the paper's equations, without clipping and length penalty.

Both give 10 where a caption equals its references. Document frequencies come from the references
that are scored, so one picture alone always scores 0 (log of 1 document), and scores of different
sets do not compare. Words are taken as they are: nobody's code stems, though the paper says so.
"""

import math
from collections import Counter
from collections.abc import Sequence

from jaxtag.evaluation.captioning.bleu import ngrams

_SIGMA = 6.0


def cider(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], variant: str = "d"
) -> list[float]:
    """CIDEr of each picture.

    Args:
        hypotheses: N tokenized captions (words between spaces).
        references: N lists of at least one tokenized caption.
        variant: "d" or "original"; see the module.

    Returns:
        N numbers between 0 and 10; the score of the set is their mean.
    """
    if variant not in ("d", "original"):
        raise ValueError(f'variant must be "d" or "original", not {variant!r}')
    guesses = [_counts(hypothesis) for hypothesis in hypotheses]
    groups = [[_counts(caption) for caption in captions] for captions in references]
    frequency = Counter(ngram for group in groups for ngram in set().union(*group))
    documents = math.log(len(groups)) if groups else 0.0
    weights = {ngram: documents - math.log(count) for ngram, count in frequency.items()}

    def vector(counts: Counter) -> tuple[dict, list[float], int]:
        """TF-IDF weights, their norm for each n, and the number of word pairs."""
        values = {ngram: tf * weights.get(ngram, documents) for ngram, tf in counts.items()}
        squares, pairs = [0.0] * 4, 0
        for ngram, value in values.items():
            squares[len(ngram) - 1] += value * value
            if len(ngram) == 2:  # coco-caption takes the number of pairs for the length
                pairs += counts[ngram]
        return values, [math.sqrt(square) for square in squares], pairs

    scores = []
    for guess, group in zip(guesses, groups, strict=True):
        hypothesis = vector(guess)
        similar = sum(_similarity(hypothesis, vector(counts), variant) for counts in group)
        scores.append(10 * similar / len(group))
    return scores


def _counts(caption: str) -> Counter:
    words = caption.split()
    return Counter(ngram for n in range(1, 5) for ngram in ngrams(words, n))


def _similarity(hypothesis: tuple, reference: tuple, variant: str) -> float:
    """Mean over n of the cosine between two TF-IDF vectors."""
    values, norms, pairs = hypothesis
    other_values, other_norms, other_pairs = reference
    products = [0.0] * 4
    for ngram, value in values.items():
        other = other_values.get(ngram)
        if other is not None:
            clipped = min(value, other) if variant == "d" else value
            products[len(ngram) - 1] += clipped * other
    cosines = (
        product / (a * b) if a and b else product
        for product, a, b in zip(products, norms, other_norms, strict=True)
    )
    penalty = math.exp(-((pairs - other_pairs) ** 2) / (2 * _SIGMA**2)) if variant == "d" else 1.0
    return penalty * sum(cosines) / 4
