"""A user's own pictures in a folder for each class."""

import pytest
from labelled import class_names, lay, ledger, picture, records

from jaxtag import datasets
from jaxtag.errors import UserError


def own(count=30):
    return {
        f"{name}/deep/{n}.jpg" if n == 3 else f"{name}/{n}.jpg": picture(n + first)
        for name, first in (("cat", 0), ("dog", 100))
        for n in range(count)
    }


def test_own_class_folders_without_splits(tmp_path):
    files = {f"mine/{name}": data for name, data in own().items()}
    source = lay(tmp_path / "own", files | {"mine/stray.jpg": picture(), "mine/notes.txt": "x"})
    summary = datasets.prepare("my_classes", source, tmp_path / "d")
    assert class_names(summary) == ["cat", "dog"]
    assert summary.splits.keys() == {"train", "validation"}
    train, validation = records(summary, "train"), records(summary, "validation")
    assert {**train, **validation} == {
        file: {"file": file, "image": data, "label": int(file.startswith("dog"))}
        for file, data in own().items()
    }
    assert ledger(summary) == {"stray.jpg": "it lies in no folder of a class"}
    more = lay(tmp_path / "more", own(60))
    again = datasets.prepare("more_classes", more, tmp_path / "d")
    assert records(again, "validation").keys() & own().keys() == validation.keys()


def test_own_class_folders_with_splits(tmp_path):
    files = {
        "Train/cat/1.jpg": picture(1),
        "Train/dog/1.jpg": picture(2),
        "val/dog/1.jpg": picture(3)[:100],
        "val/dog/2.jpg": picture(3),
        "test/eel/1.png": picture(40, "PNG"),
    }
    source = lay(tmp_path / "own", files)
    with pytest.raises(UserError, match=r"test has classes .*: eel; .*--accept_doubtful"):
        datasets.prepare("my_classes", source, tmp_path / "d")
    summary = datasets.prepare("my_classes", source, tmp_path / "d", accept_doubtful=True)
    assert class_names(summary) == ["cat", "dog", "eel"]
    assert summary.splits == {
        "train": {"pictures": 2, "classes": 2},
        "validation": {"pictures": 1, "classes": 1},
        "test": {"pictures": 1, "classes": 1},
    }
    assert records(summary, "test")["test/eel/1.png"]["label"] == 2
    assert ledger(summary).keys() == {"val/dog/1.jpg"}
    assert [warning.split(":")[0] for warning in summary.warnings] == [
        "1 of 3 classes have no image in train",
        "2 of 3 classes have no image in validation",
        "2 of 3 classes have no image in test",
        "test has classes that train does not have",
        "validation lacks classes that train has",
    ]


@pytest.mark.parametrize("form", ["folders", "table"])
def test_classes_that_validation_lacks_are_doubted(tmp_path, form):
    if form == "folders":
        names = ("train/cat/1.jpg", "train/dog/2.jpg", "val/dog/3.jpg", "test/cat/4.jpg")
        files = {name: picture(n) for n, name in enumerate(names)}
    else:
        rows = ["1.jpg,cat,train", "2.jpg,dog,train", "3.jpg,dog,val", "4.jpg,cat,test"]
        files = {f"{n}.jpg": picture(n) for n in range(1, 5)}
        files["labels.csv"] = "\n".join(["file,label,split", *rows])
    source = lay(tmp_path / "own", files)
    with pytest.raises(UserError, match=r"^validation lacks .* train has: cat\. .*--accept_d"):
        datasets.prepare("my_classes", source, tmp_path / "d")
    summary = datasets.prepare("my_classes", source, tmp_path / "d", accept_doubtful=True)
    assert "validation lacks classes that train has: cat" in summary.warnings


def test_one_folder_of_pictures_is_no_class(tmp_path):
    source = lay(tmp_path / "own", {"pictures/a.jpg": picture(), "pictures/b.jpg": picture()})
    with pytest.raises(UserError, match=r"nor images in a folder for each class \(2 images"):
        datasets.prepare("my_classes", source, tmp_path / "d")


def test_captions_win_over_folders(tmp_path):
    source = lay(tmp_path / "own", own(3) | {"c.csv": "file,caption\ncat/1.jpg,x\ndog/1.jpg,y\n"})
    summary = datasets.prepare("my_pictures", source, tmp_path / "d")
    assert sum(counts["captions"] for counts in summary.splits.values()) == 2
