"""Caption metrics on the scale of coco-caption, in Python alone: no Java, no downloads.

`score` takes captions as dictionaries, `formats.score_files` takes files in COCO's formats.
Values equal those of `pycocoevalcap` (which cuts words by Java's PTB tokenizer) to 1e-6.

| key | what |
|---|---|
| BLEU-1 … BLEU-4 | corpus BLEU, 0 to 1, brevity by the closest reference |
| ROUGE-L | mean over pictures, 0 to 1, beta 1.2 |
| CIDEr | what coco-caption calls CIDEr, which is CIDEr-D: 0 to 10, papers print it times 100 |
| CIDEr-D | the same number under its right name |
| CIDEr-original | the paper's equations, without clipping and length penalty; seldom reported |

CIDEr weighs words by the references of the set being scored: one picture alone always scores 0,
and figures of different sets do not compare.
"""

from collections.abc import Hashable, Mapping, Sequence

from jaxtag.metrics.captioning.bleu import bleu
from jaxtag.metrics.captioning.cider import cider
from jaxtag.metrics.captioning.ptb import tokenize
from jaxtag.metrics.captioning.rouge import rouge_l

__all__ = ["score", "tokenize"]


def score(
    hypotheses: Mapping[Hashable, str], references: Mapping[Hashable, Sequence[str]]
) -> dict[str, float]:
    """Scores one caption for each picture against the references of that picture.

    Args:
        hypotheses: picture → caption, which may be empty.
        references: picture → at least one caption. Pictures that `hypotheses` lacks are left out,
            so a picture without a caption must be given an empty one to count as a failure.

    Returns:
        The metrics of the module's table.

    Raises:
        ValueError: no hypotheses, or one for a picture that has no references.
    """
    unknown = [key for key in hypotheses if not references.get(key)]
    if unknown or not hypotheses:
        what = f"{len(unknown)} pictures, e.g. {unknown[0]!r}" if unknown else "any picture"
        raise ValueError(f"nothing to score against: no caption and reference for {what}")
    keys = [key for key in references if key in hypotheses]  # the order coco-caption goes by
    guesses = tokenize([hypotheses[key] for key in keys])
    flat = iter(tokenize([caption for key in keys for caption in references[key]]))
    groups = [[next(flat) for _ in references[key]] for key in keys]
    count = len(keys)
    scores = {f"BLEU-{n}": value for n, value in enumerate(bleu(guesses, groups), 1)}
    scores["ROUGE-L"] = sum(rouge_l(guesses, groups)) / count
    ciders = cider(guesses, groups)
    scores["CIDEr"] = scores["CIDEr-D"] = sum(ciders["d"]) / count
    scores["CIDEr-original"] = sum(ciders["original"]) / count
    return scores
