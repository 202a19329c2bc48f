"""ROUGE-L (Lin, 2004) as coco-caption computes it: the longest common subsequence, beta 1.2."""

from collections.abc import Sequence

_BETA = 1.2


def rouge_l(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """ROUGE-L of each image: F-measure of the best precision and the best recall.

    Args:
        hypotheses: N tokenized captions (words separated by single spaces).
        references: N lists of one or more tokenized captions.

    Returns:
        N numbers between 0 and 1. An empty caption counts as one empty word, as in coco-caption:
        it scores 0 unless a reference is empty too.
    """
    return [_score(h, rs) for h, rs in zip(hypotheses, references, strict=True)]


def _score(hypothesis: str, references: Sequence[str]) -> float:
    words = hypothesis.split(" ")
    others = [reference.split(" ") for reference in references]
    common = [_common_length(words, other) for other in others]
    precision = max(common) / len(words)
    recall = max(length / len(other) for length, other in zip(common, others, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common_length(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence.

    Bit-parallel (Hyyrö 2004): bit i of `row` is 0 where the length grows at a[i].
    """
    positions: dict[str, int] = {}
    for i, word in enumerate(a):
        positions[word] = positions.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        matches = row & positions.get(word, 0)
        row = (row + matches | row - matches) & full
    return len(a) - row.bit_count()
