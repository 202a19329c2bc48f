"""Folders as people, cameras and systems leave them: splits, classes, clutter, links."""

import json
import os

import pytest
from labelled import annotations, lay, list_own, picture

from jaxtag import datasets
from jaxtag.datasets.layout import split_and_rest, starts_like_image
from jaxtag.errors import UserError


def tree(*splits, classes=("cat", "dog"), count=3):
    names = [
        f"{split}/{name}/{n}.jpg" for split in splits for name in classes for n in range(count)
    ]
    return {name.lstrip("/"): picture(number) for number, name in enumerate(names)}


@pytest.mark.parametrize(
    ("splits", "beside"),
    [
        (("train", "val"), {"samples/grid.jpg": picture(200), "docs/img/x.png": picture(201)}),
        (("Train", "Validation"), {"cover.jpg": picture(200)}),
        (("seg_train/seg_train", "seg_val/seg_val"), {"seg_pred/seg_pred/1.jpg": picture(200)}),
        (("train_set", "val_set"), {}),
        (("train_images", "valid_images"), {}),
        (("Training Set", "Validation Set"), {}),
        (("mine/train", "mine/val"), {}),
    ],
)
def test_splits_are_splits_and_what_lies_beside_them_is_told(tmp_path, splits, beside):
    listing = list_own(lay(tmp_path, tree(*splits) | beside))
    assert listing.features["label"].names == ["cat", "dog"]
    counts = {split: len(images) for split, images in listing.splits.items()}
    assert counts == {"train": 6, "validation": 6}
    assert [file for file, _ in listing.problems] == sorted(beside)
    assert not listing.doubts


def test_a_class_may_be_called_train(tmp_path):
    listing = list_own(lay(tmp_path, tree("", classes=("train", "car", "bus"))))
    assert listing.features["label"].names == ["bus", "car", "train"]
    assert split_and_rest("steam train") == ("train", "steam")
    listing = list_own(lay(tmp_path / "b", tree("", classes=("steam train", "test tube"))))
    assert listing.features["label"].names == ["steam train", "test tube"]


@pytest.mark.parametrize("splits", [("train", "val"), ("train_set", "test_set")])
def test_splits_without_classes_are_no_classes(tmp_path, splits):
    files = {f"{split}/{n}.jpg": picture(n) for split in splits for n in range(3)}
    with pytest.raises(UserError, match="nor images in a folder for each class"):
        list_own(lay(tmp_path, files))


@pytest.mark.parametrize("classes", [("fold_1", "fold_2"), ("images", "masks"), ("Part1", "Part2")])
def test_folders_called_after_parts_are_warned_of(tmp_path, classes):
    listing = list_own(lay(tmp_path, tree("", classes=classes)))
    assert any("names are those of splits or parts" in text for text in listing.warnings)
    listing = list_own(lay(tmp_path / "b", tree("", classes=(classes[0], "cat", "dog"))))
    assert not any("names are those of splits or parts" in text for text in listing.warnings)


def test_clutter_is_no_class(tmp_path):
    clutter = (
        ".ipynb_checkpoints/0-checkpoint.jpg",
        "cat/.ipynb_checkpoints/1-checkpoint.jpg",
        ".thumbnails/1.jpg",
        "@eaDir/cat/SYNOPHOTO_THUMB_M.jpg",
        "#recycle/x.jpg",
        "dog/@eaDir/3.jpg/SYNOPHOTO_THUMB_XL.jpg",
        ".Trash-1000/files/x.jpg",
        "$RECYCLE.BIN/x.jpg",
        "System Volume Information/x.jpg",
    )
    files = tree("") | {name: picture(99) for name in clutter}
    listing = list_own(lay(tmp_path, files | {"cat/._0.jpg": "x", "cat/.DS_Store": "x"}))
    assert annotations(listing, "label").keys() == tree("").keys()
    hidden_folders = {file for file, reason in listing.problems if "hidden folder" in reason}
    assert hidden_folders == {os.path.dirname(name) for name in clutter} - {
        "@eaDir/cat",
        ".Trash-1000/files",
        "dog/@eaDir/3.jpg",
    } | {"@eaDir", ".Trash-1000", "dog/@eaDir"}


def test_linked_folders_are_listed_wherever_they_are_linked(tmp_path):
    store, source = tmp_path / "store", tmp_path / "s"
    lay(store, tree(""))
    for split in ("train", "val"):
        (source / split).mkdir(parents=True)
        for name in ("cat", "dog"):
            (source / split / name).symlink_to(store / name)
    os.symlink(source, source / "train/loop")
    listing = list_own(source)
    assert {split: len(images) for split, images in listing.splits.items()} == {
        "train": 6,
        "validation": 6,
    }
    assert ("train/loop", "a link to a folder that it lies in") in listing.problems
    assert "images of train are in another split too" in listing.warnings[0]


def test_the_official_form_of_tiny_imagenet(tmp_path):
    files = {
        f"train/n0{c}/images/n0{c}_{n}.JPEG": picture(10 * c + n)
        for c in range(3)
        for n in range(4)
    }
    files |= {f"train/n0{c}/n0{c}_boxes.txt": "x\t0\t0\t1\t1\n" for c in range(3)}
    files |= {f"val/images/val_{n}.JPEG": picture(100 + n) for n in range(4)}
    files |= {f"test/images/test_{n}.JPEG": picture(200 + n) for n in range(2)}
    rows = "".join(f"val_{n}.JPEG\tn0{n % 3}\t0\t0\t9\t9\n" for n in range(3))
    files |= {"val/val_annotations.txt": rows, "wnids.txt": "n00\nn01\nn02\n"}
    listing = list_own(lay(tmp_path / "tiny-imagenet-200", files))
    assert listing.features["label"].names == ["n00", "n01", "n02"]
    assert {split: len(images) for split, images in listing.splits.items()} == {
        "train": 12,
        "validation": 3,
    }
    labels = annotations(listing, "label")
    assert labels["val/images/val_1.JPEG"] == "n01"
    reasons = dict(listing.problems)
    assert reasons["val/images/val_3.JPEG"] == "the list of annotations does not have it"
    assert reasons["test/images/test_0.JPEG"].startswith("it has no class")


@pytest.mark.parametrize("names", [("2019", "2020"), ("2019-07", "2020-08"), ("20190701", "2020")])
def test_an_archive_by_date_is_no_classifier_unless_told(tmp_path, names):
    source = lay(tmp_path / "s", tree("", classes=names))
    with pytest.raises(UserError, match=r"called after dates .*--accept_doubtful"):
        datasets.prepare("mine", source, tmp_path / "d")
    summary = datasets.prepare("mine", source, tmp_path / "d", accept_doubtful=True)
    assert "dates" in summary.warnings[-1]


def test_classes_that_only_validation_has_stop_it(tmp_path):
    files = tree("train") | tree("val", classes=("Cat", "dog"))
    with pytest.raises(UserError, match=r"validation has .*: Cat; train has cat, which validation"):
        datasets.prepare("mine", lay(tmp_path / "s", files), tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("splits", [("train",), ("train", "test")])
def test_a_validation_split_is_made(tmp_path, splits):
    files = tree(*splits, count=10) | ({} if "test" in splits else {"test/1.jpg": picture(250)})
    listing = list_own(lay(tmp_path, files))
    assert listing.splits["validation"]
    assert len(listing.splits["train"]) + len(listing.splits["validation"]) == 20
    assert "no validation split" in listing.warnings[0]


def test_each_class_keeps_an_image_to_train_on(tmp_path):
    files = {f"class {n}/{n}.jpg": picture(n) for n in range(40)}
    listing = list_own(lay(tmp_path, files | {"class 0/more.jpg": picture(200)}))
    trained = {image.fields["label"] for image in listing.splits["train"]}
    assert len(trained) >= 39
    assert listing.splits["validation"]


def test_names_that_differ_in_case_and_lacking_classes_are_told(tmp_path):
    files = tree("train", classes=("Cat", "cat", "dog")) | tree("val", classes=("cat", "dog"))
    warnings = list_own(lay(tmp_path, files)).warnings
    assert "1 of 3 classes have no image in validation: Cat" in warnings
    assert "classes that differ in case only: 'Cat' and 'cat'" in warnings


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("class_names.json", json.dumps(["cat", "dog"])),
        ("classes.csv", "id,name\n0,cat\n1,dog\n"),
        ("birds.csv", "class id,filepaths,labels,data set\n0,train/cat/0.jpg,cat,train\n"),
        ("dataset-metadata.json", json.dumps({"title": "pets"})),
        ("config.json", json.dumps({"images": 3})),
    ],
)
def test_class_folders_beside_another_table(tmp_path, name, content):
    listing = list_own(lay(tmp_path, tree("train", "val") | {name: content}))
    assert listing.variant == "class folders"
    assert len(annotations(listing, "label")) == 12


def test_a_table_that_names_the_images_wins(tmp_path):
    files = tree("train", "val")
    rows = "".join(f"{file},{'x' if 'cat' in file else 'y'},train\n" for file in files)
    listing = list_own(lay(tmp_path, files | {"a.csv": f"filepaths,labels,data set\n{rows}"}))
    assert listing.variant.startswith("own data, a.csv")


TABLES = {
    "_annotations.coco.json": json.dumps(
        {
            "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(3)],
            "categories": [
                {"id": 0, "name": "animals", "supercategory": "none"},
                {"id": 1, "name": "cat", "supercategory": "animals"},
            ],
            "annotations": [{"image_id": n, "category_id": 1} for n in range(3)],
        }
    ),
    "metadata.jsonl": "".join(
        json.dumps({"file_name": f"{n}.jpg", "text": "a cat"}) + "\n" for n in range(3)
    ),
    "_classes.csv": "filename, cat, dog\n0.jpg, 1, 0\n1.jpg, 0, 1\n2.jpg, 1, 1\n",
    "captions.csv": "file,caption\n0.jpg,a\n1.jpg,b\n2.jpg,c\n",
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("above", ["", "export/"])
def test_a_table_in_the_folder_of_each_split(tmp_path, table, above):
    files = {}
    for split in ("train", "valid", "test"):
        files |= {f"{above}{split}/{n}.jpg": picture(len(files) + n) for n in range(3)}
        files[f"{above}{split}/{table}"] = TABLES[table]
    listing = list_own(lay(tmp_path, files))
    assert {split: len(images) for split, images in listing.splits.items()} == {
        "train": 3,
        "validation": 3,
        "test": 3,
    }
    assert not listing.problems
    if "tags" in listing.features:
        assert "animals" not in listing.features["tags"].feature.names


def test_every_file_is_used_or_told(tmp_path):
    files = tree("")
    images = ("cat/a.jfif", "cat/a.jpe", "cat/noext", "dog/a.jpg_large", "dog/a.pjpeg")
    files |= {name: picture(100 + n) for n, name in enumerate(images)}
    files |= {"dog/a.ppm": picture(9, "PPM"), "dog/a.dib": picture(8, "DIB")}
    files["cat/IMG_1.CR2"] = files["cat/IMG_2.heic"] = b"\0\0\0\x18ftypheic" + bytes(40)
    jxl = b"\0\0\0\x0cJXL " + bytes(40)
    others = {
        "cat/IMG_1.jxl": jxl,
        "dog/0.NEF": b"II*\0" + bytes(40),
        "dog/notes.txt": "x" * 40,
        "dog/x.zip": b"PK" + bytes(40),
    }
    listing = list_own(lay(tmp_path, files | others))
    assert annotations(listing, "label").keys() == files.keys()
    assert dict(listing.problems).keys() == others.keys()
    assert "0.jpg beside it is used" in dict(listing.problems)["dog/0.NEF"]
    assert not starts_like_image(jxl)


def test_equal_images_of_two_splits_are_kept_in_one(tmp_path):
    files = tree("train", count=8) | {
        f"val/{name}/{name}{n}.jpg": picture(100 + n + 50 * (name == "dog"))
        for name in ("cat", "dog")
        for n in range(8)
    }
    files["val/cat/same.jpg"] = files["train/cat/3.jpg"]
    listing = list_own(lay(tmp_path, files))
    assert len(listing.splits["train"]) == 15
    assert dict(listing.problems) == {
        "train/cat/3.jpg": "the same image as val/cat/same.jpg in validation, where it is kept"
    }
    assert "left out of train" in listing.warnings[0]


def test_equal_images_are_held_out_together_and_two_classes_of_one_are_told(tmp_path):
    files = {f"{name}/{n}.jpg": picture(10 * n) for name in ("cat", "dog") for n in range(20)}
    listing = list_own(lay(tmp_path, files))
    held_out = {image.file.split("/")[1] for image in listing.splits["validation"]}
    assert held_out
    assert not held_out & {image.file.split("/")[1] for image in listing.splits["train"]}
    assert len(listing.notes) == 20
    assert "20 images are in several classes" in listing.warnings[0]


def test_a_named_pipe_is_no_image(tmp_path):
    source = lay(tmp_path / "s", tree(""))
    os.mkfifo(source / "cat/pipe.jpg")
    os.mkfifo(source / "cat/pipe")
    summary = datasets.prepare("mine", source, tmp_path / "d")
    assert "not a regular file" in (summary.folder / "ledger.jsonl").read_text()
