"""NUS-WIDE: lists, concepts, and the pictures that Flickr still has."""

import pytest
from labelled import lay, ledger, picture, tagged, zipped

from jaxtag import datasets
from jaxtag.datasets.base import hash_fraction
from jaxtag.errors import UserError

CONCEPTS = ["airport", "sky", "water"]
# Of each picture in the order of all, its part and which of the concepts it shows.
PICTURES = {
    f"actor\\{n:04}_{n}2124494179.jpg": ("Test" if n % 3 == 0 else "Train", [n % 2, n % 5 == 0, 0])
    for n in range(1, 31)
}


def listed(part=None):
    return [name for name, (own, _) in PICTURES.items() if part in (None, own)]


def column(concept, part=None):
    number = CONCEPTS.index(concept)
    return "".join(f"{int(PICTURES[name][1][number])}\n" for name in listed(part))


LISTS = {
    "ImageList/Imagelist.txt": "\n".join(listed()),
    "ImageList/TrainImagelist.txt": "\r\n".join(listed("Train")),
    "ImageList/TestImagelist.txt": "\n".join(listed("Test")) + "\n",
}
NAMES = {"Concepts81.txt": "".join(f"{concept}\n" for concept in CONCEPTS)}
ALL = {f"Groundtruth/AllLabels/Labels_{c}.txt": column(c) for c in CONCEPTS}
BY_PART = {
    f"Groundtruth/TrainTestLabels/Labels_{c}_{part}.txt": column(c, part)
    for c in CONCEPTS
    for part in ("Train", "Test")
}


def pictures(name=lambda path: f"Flickr/{path}"):
    return {name(path.replace("\\", "/")): picture(n) for n, path in enumerate(PICTURES)}


FORMS = {
    "unpacked": LISTS | NAMES | ALL | BY_PART | pictures(),
    "all labels alone": LISTS | NAMES | ALL | pictures(lambda path: f"deep/images/{path}"),
    "by part alone": LISTS | BY_PART | pictures(lambda path: f"images/{path.split('/')[1]}"),
    "by number": LISTS | NAMES | ALL | pictures(lambda path: f"images/{path.split('_')[1]}"),
    "zips": {
        "ImageList.zip": zipped(LISTS),
        "ConceptsList.zip": zipped(NAMES),
        "Groundtruth.zip": zipped(ALL | BY_PART),
        "Flickr.zip": zipped(pictures()),
        "Low_Level_Features.zip": b"never opened",
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_layout(tmp_path, form):
    summary = datasets.prepare("nus_wide", lay(tmp_path / "nus", FORMS[form]), tmp_path / "d")
    tags_by_split = {split: tagged(summary, split) for split in ("train", "validation", "test")}
    for path, (part, shown) in PICTURES.items():
        file = path.replace("\\", "/")
        split = "validation" if hash_fraction(file) < 0.1 else "train"
        split = "test" if part == "Test" else split
        tags = [concept for concept, one in zip(CONCEPTS, shown, strict=True) if one]
        assert tags_by_split[split].pop(file) == (tags, [], "")
    assert not any(tags_by_split.values())
    assert summary.left_out == 0
    assert "test has 10 images; 107,859 were published" in str(summary)


def test_missing_pictures_are_counted(tmp_path):
    files = dict(FORMS["unpacked"])
    gone = [name for name in files if name.startswith("Flickr")][::3]
    for name in gone:
        del files[name]
    summary = datasets.prepare("nus_wide", lay(tmp_path / "nus", files), tmp_path / "d")
    assert summary.left_out == len(gone) == 10
    assert sum(counts["pictures"] for counts in summary.splits.values()) == 20
    expected = {name.removeprefix("Flickr/"): "the image is missing" for name in gone}
    assert ledger(summary) == expected


LABELS = "Groundtruth/TrainTestLabels/Labels_sky_Test.txt"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (LABELS, "1\n0\n", r"Labels_sky_Test\.txt has 2 lines, but its list has 10"),
        (LABELS, "2\n" + "0\n" * 9, r"Labels_sky_Test\.txt: '2' is neither 0 nor 1"),
        ("ImageList/TestImagelist.txt", None, r"no TestImagelist\.txt(.|\n)*Groundtruth\.zip"),
        ("Concepts81.txt", "airport\nsky\nriver\n", r"no Labels_river\.txt"),
    ],
)
def test_malformed_lists(tmp_path, name, content, message):
    files = LISTS | NAMES | BY_PART | pictures() | {name: content}
    source = lay(tmp_path / "n", {name: data for name, data in files.items() if data is not None})
    with pytest.raises(UserError, match=message):
        datasets.prepare("nus_wide", source, tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (LABELS, r"no Labels_airport\.txt, and the labels by part are not complete"),
        (None, r"TrainImagelist\.txt has actor/0001_.*, which Imagelist\.txt does not have"),
    ],
)
def test_labels_that_do_not_fit_together(tmp_path, gone, message):
    if gone:
        files = LISTS | NAMES | BY_PART | pictures()
        del files[gone]
    else:
        others = "".join(f"other\\{n}.jpg\n" for n in range(30))
        files = LISTS | NAMES | ALL | pictures() | {"ImageList/Imagelist.txt": others}
    with pytest.raises(UserError, match=message):
        datasets.prepare("nus_wide", lay(tmp_path / "nus", files), tmp_path / "d")
