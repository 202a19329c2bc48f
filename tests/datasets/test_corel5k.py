"""Corel-5K in each of its forms, and the real one."""

import hashlib

import pytest
from labelled import lay, ledger, picture, tagged

from jaxtag import datasets
from jaxtag.errors import UserError

WORDS = ["city", "mountain", "sky", "sun"]
TRAIN = {1000 + n: [1 + n % 4, 1 + (n + 1) % 4] if n % 2 else [1 + n % 4] for n in range(36)}
TEST = {2000: [3], 2001: [4, 1]}


def rows(pictures):
    return "".join(f"{key} {' '.join(map(str, numbers))}\n" for key, numbers in pictures.items())


def padded(pictures):
    return "".join(f"{' '.join(map(str, [*numbers, -99][:2]))}\n" for numbers in pictures.values())


def images(name):
    return {name(key): picture(key % 200) for key in (*TRAIN, *TEST)}


def labels():
    return {
        "labels/words": "\n".join(WORDS),
        "labels/training_label": rows(TRAIN),
        "labels/test_label": rows(TEST),
    }


FORMS = {
    "labels": labels() | images("images/{}.jpeg".format),
    "folders": labels() | images(lambda key: f"images/{key // 1000 * 1000}/{key}.jpg"),
    "2002": {
        "words": "\n".join(WORDS) + "\n",
        "image_nums": "".join(f"{key}\n" for key in TRAIN),
        "document_words": padded(TRAIN),
        "test_1_image_nums": "".join(f"{key}\n" for key in TEST),
        "test_1_document_words": padded(TEST),
        "blob_counts": "10\n",
        **images("images/{}.jpeg".format),
    },
}


def named(pictures):
    return {
        str(key): ([WORDS[number - 1] for number in sorted(numbers)], [], "")
        for key, numbers in pictures.items()
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_layout(tmp_path, form):
    summary = datasets.prepare("corel5k", lay(tmp_path / "corel", FORMS[form]), tmp_path / "d")
    train, validation, test = (
        {file.partition(".")[0]: annotation for file, annotation in tagged(summary, split).items()}
        for split in ("train", "validation", "test")
    )
    assert len(validation) == 4  # of 36, as 500 are of 4,500
    assert not train.keys() & validation.keys()
    assert train | validation == named(TRAIN)
    assert test == named(TEST)
    assert summary.left_out == 0


def test_problems_are_told_by_line(tmp_path):
    files = dict(FORMS["labels"])
    files["labels/training_label"] += "\n3000 1\n3001 9\n3002 x\n3003\n1000 1\n"
    files |= {f"images/{key}.jpeg": picture() for key in (3001, 3002, 3003)}
    summary = datasets.prepare("corel5k", lay(tmp_path / "corel", files), tmp_path / "d")
    left_out = ledger(summary)
    at = "labels/training_label, line {}".format
    assert left_out.keys() == {at(39), at(40), at(41), "3000.jpeg", "1000.jpeg"}
    assert "word 9 is none of the 4" in left_out[at(39)]
    assert "malformed" in left_out[at(40)]
    assert "no words" in left_out[at(41)]
    assert "missing" in left_out["3000.jpeg"]
    assert "twice" in left_out["1000.jpeg"]


@pytest.mark.parametrize(
    ("form", "name", "content", "message"),
    [
        ("2002", "document_words", "1 -99\n", r"image_nums has 36 lines, but document_words has 1"),
        ("2002", "words", "sky\nsky\n", "'sky' occurs twice"),
        ("labels", "labels/words", None, r"no Corel-5K(.|\n)*kobus\.ca"),
        ("labels", "labels/training_label", None, "no Corel-5K"),
    ],
)
def test_malformed_lists(tmp_path, form, name, content, message):
    files = FORMS[form] | {name: content}
    source = lay(tmp_path / "c", {name: data for name, data in files.items() if data is not None})
    with pytest.raises(UserError, match=message):
        datasets.prepare("corel5k", source, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_real_corel5k(real_data):
    """Every picture is listed as its labels say; 500 are held out, always the same."""
    folder = real_data / "corel5k"
    vocabulary = (folder / "labels/words").read_text().split()
    expected = {}
    for line in (folder / "labels/training_label").read_text().splitlines():
        key, *numbers = line.split()
        expected[f"{key}.jpeg"] = {vocabulary[int(number) - 1] for number in numbers}
    with datasets.builder_class("corel5k").open_listing(folder) as listing:
        splits = listing.splits
        names = listing.features["tags"].feature.names
        tags_by_file = {
            picture.file: {names[number] for number in picture.fields["tags"]}
            for pictures in splits.values()
            for picture in pictures
        }
    assert {split: len(pictures) for split, pictures in splits.items()} == {
        "train": 4000,
        "validation": 500,
    }
    assert tags_by_file == expected
    assert names == vocabulary
    assert listing.problems == []
    by_hash = sorted(tags_by_file, key=lambda file: hashlib.sha256(file.encode()).hexdigest())
    assert {picture.file for picture in splits["validation"]} == set(by_hash[:500])
