"""Caption metrics against what pycocoevalcap gave (benchmarks/captioning_metrics_reference.py)."""

import gzip
import json
import math
import random

import pytest
from stored import REFERENCES

from jaxtag.metrics import captioning
from jaxtag.metrics.captioning.cider import cider

EXPECTED = REFERENCES / "captioning.json.gz"


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads(gzip.decompress(EXPECTED.read_bytes()))


def test_words_are_those_of_the_java_tokenizer(expected):
    hypotheses, groups = expected["hypotheses"], expected["references"]
    assert len(hypotheses) == 2000
    texts = list(hypotheses.values())
    for text, ours, theirs in zip(
        texts, captioning.tokenize(texts), expected["tokens"]["hypotheses"], strict=True
    ):
        assert ours == theirs, text
    texts = [text for captions in groups.values() for text in captions]
    theirs = [
        tokens for captions in expected["tokens"]["references"].values() for tokens in captions
    ]
    for text, ours, tokens in zip(texts, captioning.tokenize(texts), theirs, strict=True):
        assert ours == tokens, text


@pytest.mark.parametrize("name", ["all", "odd", "one", "two"])
def test_scores_equal_pycocoevalcap(expected, name):
    theirs = dict(expected["scores"][name])
    first, end = theirs.pop("keys")
    keys = list(expected["references"])[first:end]
    ours = captioning.score(
        {key: expected["hypotheses"][key] for key in keys},
        {key: expected["references"][key] for key in keys},
    )
    for metric, value in theirs.items():
        assert ours[metric] == pytest.approx(value, abs=1e-6), metric
    assert ours["CIDEr-D"] == ours["CIDEr"]


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("", ""),
        (" \t ", ""),
        ("A man can't; he's \"here\"...", "a man ca n't he 's here"),
        ("Mr. Smith of the U.S. paid £5 or €6.", "mr. smith of the u.s. paid # 5 or $ 6"),
        ("two (2) dogs?! wow!!", "two -lrb- 2 -rrb- dogs ?! wow !!"),
        ("it's gonna rain, cannot go", "it 's gon na rain can not go"),
        ("1 1/2 cups ½", "1\xa01/2 cups 1/2"),
        ("a 😀 dog", "a dog"),
        ("a\r\nb\u2028c\nd", "a b c d"),
    ],
)
def test_words_of_single_captions(caption, tokens):
    assert captioning.tokenize([caption, "next"]) == [tokens, "next"]


def test_half_a_surrogate_is_dropped_like_any_unknown_sign():
    assert captioning.tokenize(["a \ud83d dog", "b 😀 http://x.org/😀 c"]) == [
        "a dog",
        "b http://x.org/😀 c",
    ]


def test_perfect_captions_score_the_maximum():
    captions = {1: "a red cat sits here", 2: "two dogs run very fast", 3: "one boat at the sea"}
    scores = captioning.score(captions, {key: [text] * 5 for key, text in captions.items()})
    assert scores["BLEU-4"] == pytest.approx(1)
    assert scores["ROUGE-L"] == pytest.approx(1)
    assert scores["CIDEr"] == pytest.approx(10)
    assert scores["CIDEr-original"] == pytest.approx(10)


def test_one_picture_has_no_cider_and_an_empty_caption_scores_nothing():
    references = {1: ["a dog runs along"], 2: ["a cat"]}
    assert captioning.score({1: "a dog runs along"}, references)["CIDEr"] == 0
    scores = captioning.score({1: "", 2: ""}, references)
    assert max(scores.values()) < 1e-6


def test_only_the_original_cider_forgives_length_and_repetition():
    references = [["a dog runs"], ["a cat sits"], ["two boats"]]
    hypotheses = ["a dog runs " * 4, "a cat sits", "two boats"]
    values = cider(hypotheses, references)
    assert values["d"][0] < values["original"][0]
    assert values["d"][1] == pytest.approx(7.5)  # three words hold no run of four


def test_original_cider_by_hand():
    # 1-grams of "a b": weights log 2 each (a in 1 of 2 pictures), cosine with "a c" is 1/2.
    value = cider(["a b", "x"], [["a c"], ["x"]])["original"][0]
    assert value == pytest.approx(10 * 0.5 / 4)
    clipped = cider(["a a", "x"], [["a"], ["x"]])["d"][0]
    penalty = math.exp(-1 / 72)  # one pair of words more
    assert clipped == pytest.approx(10 * 0.5 * penalty / 4)


def test_scoring_needs_references():
    with pytest.raises(ValueError, match="7"):
        captioning.score({7: "a"}, {1: ["a"]})
    with pytest.raises(ValueError, match="7"):
        captioning.score({7: "a"}, {7: []})
    with pytest.raises(ValueError, match="any image"):
        captioning.score({}, {1: ["a"]})


def test_references_without_a_hypothesis_do_not_count():
    references = {1: ["a dog runs"], 2: ["a cat sits"], 3: ["x y z"]}
    hypotheses = {2: "a cat", 1: "a dog"}
    fewer = {key: references[key] for key in (1, 2)}
    assert captioning.score(hypotheses, references) == captioning.score(hypotheses, fewer)


def test_real_captions_hold_no_surprise(real_data):
    content = json.loads((real_data / "flickr8k" / "captions_flickr8k_val.json").read_text())
    captions = [entry["caption"] for entry in content["annotations"]]
    random.Random(0).shuffle(captions)
    texts = captioning.tokenize(captions)
    assert len(texts) == len(captions)
    assert all(text.isascii() and text == text.lower() for text in texts)
