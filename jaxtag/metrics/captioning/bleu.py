"""BLEU-1 to BLEU-4 over a corpus (Papineni et al., ACL 2002), as coco-caption computes it."""

import math
from collections import Counter
from collections.abc import Sequence

# coco-caption adds these so that a corpus without any match scores almost, not exactly, 0.
_TINY = 1e-15
_SMALL = 1e-9


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Corpus BLEU with n-grams up to 1, 2, 3 and 4; brevity penalty by the closest reference.

    Args:
        hypotheses: N tokenized captions (words separated by spaces).
        references: N lists of one or more tokenized captions.

    Returns:
        Four numbers between 0 and 1.
    """
    correct, total = [0] * 4, [0] * 4
    length, reference_length = 0, 0
    for hypothesis, captions in zip(hypotheses, references, strict=True):
        words = hypothesis.split()
        others = [caption.split() for caption in captions]
        length += len(words)
        reference_length += min((abs(len(o) - len(words)), len(o)) for o in others)[1]
        for n in range(1, 5):
            counts = Counter(ngrams(words, n))
            total[n - 1] += max(0, len(words) - n + 1)
            if not counts:
                continue
            limits: Counter[tuple[str, ...]] = Counter()
            for other in others:
                limits |= Counter(ngram for ngram in ngrams(other, n) if ngram in counts)
            correct[n - 1] += sum(min(limits[ngram], count) for ngram, count in counts.items())
    ratio = (length + _TINY) / (reference_length + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in range(4):
        product *= (correct[n] + _TINY) / (total[n] + _SMALL)
        scores.append(product ** (1 / (n + 1)) * penalty)
    return scores


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` adjacent words."""
    return list(zip(*(words[i:] for i in range(n)), strict=False))
