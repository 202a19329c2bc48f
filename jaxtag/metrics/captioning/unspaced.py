"""Finds captions in scripts that put no spaces between words, which all metrics score as one word.

coco-caption's tokenizer, and so this one, tells words apart by spaces and punctuation: a Chinese
caption is one word, equal to a reference or not, and almost right ones score 0.
"""

import re
from collections.abc import Iterable

# Script -> the average letters between spaces from which they are whole phrases, not words.
_HAN = "\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SOUTHEAST = "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai … Tibetan, Khmer
_SCRIPTS = ((re.compile(f"[{_HAN}]+"), 3.5), (re.compile(f"[{_SOUTHEAST}]+"), 9.0))
_MIN_SHARE = 0.05  # of the captions, below which nothing is said


def describe(captions: Iterable[str]) -> str | None:
    """What to say where captions have no spaces between their words; None where they have."""
    captions = list(captions)
    count = sum(map(is_unspaced, captions))
    if count <= _MIN_SHARE * len(captions):
        return None
    return (
        f"{count} of {len(captions)} captions have no spaces between words (as in Chinese, "
        "Japanese or Thai): each counts as one word, so captions that are almost right score 0, "
        "also where checkpoints are chosen by them; write spaces between the words (jieba, MeCab, "
        "...) or the characters of captions and references"
    )


def is_unspaced(caption: str) -> bool:
    """Whether most of a caption is written without spaces between words."""
    for script, longest in _SCRIPTS:
        runs = script.findall(caption)
        letters = sum(map(len, runs))
        if runs and 2 * letters > len(caption.replace(" ", "")) and letters / len(runs) > longest:
            return True
    return False
