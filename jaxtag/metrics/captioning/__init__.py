"""Caption metrics on the scale of coco-caption, in pure Python: no Java, no downloads.

`score` takes captions as dictionaries, `coco_format.score_files` takes files in COCO's formats.
Values equal those of `pycocoevalcap` (which tokenizes with Java's PTB tokenizer) to 1e-6.

| key | metric |
|---|---|
| BLEU-1 … BLEU-4 | corpus BLEU, 0 to 1, brevity penalty by the closest reference |
| ROUGE-L | mean over images, 0 to 1, beta 1.2 |
| CIDEr | what coco-caption calls CIDEr, which is CIDEr-D: 0 to 10, papers print it times 100 |
| CIDEr-D | the same number under its right name |
| CHAIR-i | fraction of the objects named that no reference of the image names (`chair`) |
| CHAIR-s | fraction of the captions that name one |
| CIDEr-original | the paper's equations, without clipping and length penalty; seldom reported |

CIDEr weights words by the references of the set being scored: a single image always scores 0, and
scores of different sets are not comparable.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from jaxtag.metrics.captioning.bleu import bleu
from jaxtag.metrics.captioning.chair import chair
from jaxtag.metrics.captioning.cider import cider
from jaxtag.metrics.captioning.ptb import tokenize
from jaxtag.metrics.captioning.rouge import rouge_l

__all__ = ["score", "tokenize"]

_Key = TypeVar("_Key", bound=Hashable)


def score(
    hypotheses: Mapping[_Key, str], references: Mapping[_Key, Sequence[str]]
) -> dict[str, float]:
    """Scores one caption per image against the references of that image.

    Args:
        hypotheses: from image to caption, which may be empty.
        references: from image to one or more captions. Images that `hypotheses` lacks are ignored,
            so an image without a caption must be given an empty one to count as a failure.

    Returns:
        The metrics of the module's table.

    Raises:
        ValueError: there are no hypotheses, or one is for an image without references.
    """
    unknown = [key for key in hypotheses if not references.get(key)]
    if unknown or not hypotheses:
        images = f"{len(unknown)} images, e.g. {unknown[0]!r}" if unknown else "any image"
        raise ValueError(f"nothing to score against: no caption and reference for {images}")
    keys = [key for key in references if key in hypotheses]  # in coco-caption's order
    candidates = tokenize([hypotheses[key] for key in keys])
    flat = iter(tokenize([caption for key in keys for caption in references[key]]))
    groups = [[next(flat) for _ in references[key]] for key in keys]
    count = len(keys)
    scores = {f"BLEU-{n}": value for n, value in enumerate(bleu(candidates, groups), 1)}
    scores["ROUGE-L"] = sum(rouge_l(candidates, groups)) / count
    ciders = cider(candidates, groups)
    scores["CIDEr"] = scores["CIDEr-D"] = sum(ciders["d"]) / count
    scores |= chair(candidates, groups)
    scores["CIDEr-original"] = sum(ciders["original"]) / count
    return scores
