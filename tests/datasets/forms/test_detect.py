"""The form of a source is detected, said and chosen; several that fit are refused."""

import json

import pytest
from labelled import lay, list_own, listed, picture

from jaxtag import datasets
from jaxtag.errors import UsageError, UserError

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "annotations": [{"image_id": 1, "category_id": 2}],
    "categories": [{"id": 2, "name": "cat"}],
}


def test_what_a_source_looks_like_is_said(tmp_path, capsys):
    files = {f"{split}/_annotations.coco.json": json.dumps(COCO) for split in ("train", "valid")}
    images = {f"{split}/a.jpg": picture(n) for n, split in enumerate(("train", "valid"))}
    summary = datasets.prepare("mine", lay(tmp_path / "own", files | images), tmp_path / "d")
    assert capsys.readouterr().err == (
        "looks like a Roboflow COCO export (train/_annotations.coco.json and 1 more): 2 splits, "
        "2 images, 1 tags; --as=… reads it otherwise\n"
    )
    assert summary.splits["validation"] == {"pictures": 1, "tags": 1}


def test_a_form_that_is_chosen(tmp_path):
    files = {
        "cat/a.jpg": picture(1),
        "dog/b.jpg": picture(2),
        "tags.csv": "file,tags\na.jpg,sea\nb.jpg,sky\n",
    }
    source = lay(tmp_path, files)
    assert sorted(value for *_, value in listed(list_own(source))) == [["sea"], ["sky"]]
    assert sorted(value for *_, value in listed(list_own(source, "folders"))) == ["cat", "dog"]
    with pytest.raises(UserError, match=r"tags\.csv: in the form table, not llava"):
        list_own(source, "llava")
    with pytest.raises(UsageError, match=r"no form is called 'lava' \(did you mean llava"):
        datasets.prepare("mine", source, tmp_path / "d", form="lava")
    with pytest.raises(UsageError, match="after the colon stands captions or tags"):
        datasets.prepare("mine", source, tmp_path / "d", form="table:nouns")
    with pytest.raises(UsageError, match="official files only"):
        datasets.prepare("mnist", source, tmp_path / "d", form="table")


def test_a_table_of_both_kinds(tmp_path):
    source = lay(
        tmp_path, {"t.csv": "file,caption,tags\na.jpg,A sea.,sea;sky\n", "a.jpg": picture()}
    )
    assert listed(list_own(source, "table:captions")) == [("train", "a.jpg", ["A sea."])]
    assert listed(list_own(source, "table:tags")) == [("train", "a.jpg", ["sea", "sky"])]


def test_a_dry_run_shows_everything_and_writes_nothing(tmp_path):
    table = "file,tags,unknown_tags,split\n" + "".join(
        f"{n}.jpg,{'sea;sky' if n else ''},,{'train' if n < 4 else 'val'}\n" for n in range(6)
    )
    files = {f"{n}.jpg": picture(n) for n in range(5)} | {"unused.jpg": picture(9)}
    source = lay(tmp_path / "own", {"tags.csv": table, **files})
    before = sorted(tmp_path.rglob("*"))
    text = datasets.dry_run("mine", source)
    assert sorted(tmp_path.rglob("*")) == before
    assert text.splitlines() == [
        "mine (own data, tags.csv): nothing is written",
        "  train               4 images, 6 tags",
        "  validation          1 images, 2 tags",
        "  2 tags: sea, sky",
        "  first of train:",
        "    0.jpg: (no tags)",
        "    1.jpg: sea, sky",
        "    2.jpg: sea, sky",
        "  first of validation:",
        "    4.jpg: sea, sky",
        "  left out: 2",
        "    5.jpg: the image is missing",
        "    unused.jpg: no entry of tags.csv names it",
    ]


def test_a_dry_run_of_captions_and_of_doubtful_classes(tmp_path):
    source = lay(tmp_path, {"c.csv": f"file,caption\na.jpg,{'x' * 200}\n", "a.jpg": picture()})
    text = datasets.dry_run("mine", source)
    assert f"    a.jpg: {'x' * 99}…" in text.splitlines()
    source = lay(tmp_path / "b", {f"{year}/a.jpg": picture(year % 99) for year in (2001, 2002)})
    assert "doubtful: the folders are called after dates" in datasets.dry_run("mine", source)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.tfrecord"], r"Seen: 1 \.tfrecord\. TFRecords have no fixed fields"),
        (
            ["x/a.jpg", "x/b.jpg"],
            r"2 images are there.*Seen: 2 \.jpg; folders x\. It resembles",
        ),
        (["train.h5", "README"], r"Seen: 1 without ending, 1 \.h5\. Arrays and databases"),
        (["x/a.jpg"], r"tags\.csv beside the images, with the lines .*one such as `x/a\.jpg,…`"),
    ],
)
def test_an_unknown_layout_says_what_was_seen_and_what_would_do(tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        list_own(lay(tmp_path, {name: picture(n) for n, name in enumerate(names)}))


def test_an_image_that_may_be_two_is_left_out_alone(tmp_path):
    table = "file,tags\n" + "".join(f"{n}.jpg,x\n" for n in range(6)) + "same.jpg,x\n"
    files = {f"{n}.jpg": picture(n) for n in range(6)}
    files |= {"p/same.jpg": picture(7), "q/same.jpg": picture(8), "tags.csv": table}
    listing = list_own(lay(tmp_path, files))
    assert sum(map(len, listing.splits.values())) == 6
    problems = dict(listing.problems)
    assert "may be p/same.jpg or q/same.jpg" in problems["tags.csv, line 8"]
