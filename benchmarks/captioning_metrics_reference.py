"""Makes tests/references/captioning.json.gz by running pycocoevalcap and Java.

    pip install pycocoevalcap          # and Java 8 or newer; neither is needed to run the tests
    LC_ALL=C.UTF-8 python benchmarks/captioning_metrics_reference.py [--captions COCO.json]

Captions are mixed from odd pieces by a fixed seed, and, with --captions, 600 pictures of that file
of captions come first. The file holds the captions, what the tokenizer of coco-caption makes of
them, and the scores of the whole set and of a few small ones. Run on 2026-11-24: pycocoevalcap
1.2, OpenJDK 17.0.15, Flickr8k's dev captions.
"""

import argparse
import gzip
import json
import random
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

TARGET = Path(__file__).parents[1] / "tests/references/captioning.json.gz"
ODD_PICTURES = 1400
WORDS = """a man dog the red A The on of U.S. U.S U.K. e.g. i.e. Mr. Mrs. St. Inc. Co. Jan. Ph.D.
can't won't don't it's gonna cannot gotta lemme 'tis 'twas o'clock rock'n'roll l'eau d'art O'Neil
y'all ma'am '90s 'em c'mon dogs' men's I'm we'll they've I'd ain't n't non-U.S. $5 $ £5 €6 ¥7 US$5
1,000 1/2 3 1-2 3.5 .5 -5 12/25/2013 555-1234 (555) 1:30 5:30pm p.m. 50% 1st #1 #tag @user # & &amp;
&lt; &quot; AT&T R&B http://a.org/b www.foo.com foo.com me@x.org x.jpg - -- --- ---- ----- – — … ...
.. . ; , : ! ? ?! !! ( ) [ ] { } < > << " ' `` '' ` “ ” ‘ ’ « » ‹ › „ / \\ * ** _ = + ~ ^ | % ° é
café naïve 日本 한국 ñ é e\u0301 ½ ¼ x² m³ 😀 👨‍👩‍👧 🇺🇸 ☺ ♥ ™ © ® co\u00adop \ufeff \u200b :) :-(
;D <b> </b> well-known t-shirt black-and-white and/or w/o no. No. 5 fig. vs. etc. Miss. Ltd. pty.
^_^ x_x D.C. J. T. B. X-ray C++ F# 7-Eleven twenty-one S&P-500 s'mores li'l 'til 'cause cap'n İ ſ
\u212a \u0092 \u0093"""
GAPS = [" "] * 12 + ["", "  ", "\xa0", "\t", "\n", "\u3000", "\x85"]


def odd_caption(rng: random.Random) -> str:
    if rng.random() < 0.03:
        return rng.choice(["", " ", "\t", ".", "..."])
    pieces = []
    for _ in range(rng.randint(1, 9)):
        word = rng.choice(WORDS.split())
        word = word.upper() if rng.random() < 0.1 else word
        pieces += [word + rng.choice(["", "", "", ".", ",", "'s", "!"]), rng.choice(GAPS)]
    return "".join(pieces[:-1])


def odd_pictures(rng: random.Random, count: int) -> tuple[dict, dict]:
    hypotheses, references = {}, {}
    for picture in range(count):
        captions = [odd_caption(rng) for _ in range(rng.randint(1, 3))]
        guess = odd_caption(rng)
        if rng.random() < 0.7:  # so that there is something to agree upon
            guess = rng.choice(captions) + rng.choice(["", " and a dog", ".", " " + guess])
        hypotheses[f"odd {picture}"], references[f"odd {picture}"] = guess, captions
    return hypotheses, references


def real_pictures(path: str, count: int) -> tuple[dict, dict]:
    """The first caption of a picture is scored against two others, its neighbour's now and then."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    groups: dict = {}
    for entry in content["annotations"]:
        groups.setdefault(str(entry["image_id"]), []).append(entry["caption"])
    groups = dict(list(groups.items())[:count])
    return (
        {key: captions[0] for key, captions in groups.items()},
        {key: captions[1:3] for key, captions in groups.items()},
    )


def wrapped(captions: dict) -> dict:
    return {key: [{"caption": c} for c in values] for key, values in captions.items()}


def scores(guesses: dict, groups: dict) -> dict[str, float]:
    values = Bleu(4).compute_score(groups, guesses, verbose=0)[0]
    return {
        **{f"BLEU-{n}": float(value) for n, value in enumerate(values, 1)},
        "ROUGE-L": float(Rouge().compute_score(groups, guesses)[0]),
        "CIDEr": float(Cider().compute_score(groups, guesses)[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", help="a captions file in COCO's form")
    captions = parser.parse_args().captions
    hypotheses, references = real_pictures(captions, 600) if captions else ({}, {})
    odd_hypotheses, odd_references = odd_pictures(random.Random(5), ODD_PICTURES)
    hypotheses, references = hypotheses | odd_hypotheses, references | odd_references
    guesses = PTBTokenizer().tokenize(wrapped({k: [v] for k, v in hypotheses.items()}))
    groups = PTBTokenizer().tokenize(wrapped(references))
    keys = list(references)
    sets = {"all": keys, "one": keys[:1], "two": keys[-2:], "odd": list(odd_references)}
    expected = {
        "hypotheses": hypotheses,
        "references": references,
        "tokens": {"hypotheses": [guesses[k][0] for k in keys], "references": groups},
        # Scored from the tokens above: what stands behind a caption can change how it is read.
        "scores": {
            name: {
                "keys": [keys.index(chosen[0]), keys.index(chosen[-1]) + 1],
                **scores({k: guesses[k] for k in chosen}, {k: groups[k] for k in chosen}),
            }
            for name, chosen in sets.items()
        },
    }
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(expected, ensure_ascii=False, separators=(",", ":"))
    TARGET.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{TARGET}: {TARGET.stat().st_size} bytes, {len(keys)} pictures")
    print(json.dumps(expected["scores"], indent=1))


if __name__ == "__main__":
    main()
