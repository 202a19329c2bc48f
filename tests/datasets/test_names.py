"""Names of classes, tags and files: cleaned before they are numbered, alike in any spelling."""

import io
import json
import os
import unicodedata
import zipfile

import pytest
from labelled import annotations, class_names, lay, ledger, list_own, picture, records

from jaxtag import datasets
from jaxtag.data.labels import LabelNames
from jaxtag.data.text import clean_name, clean_names, clean_path, clean_text
from jaxtag.datasets.listings import LabelListing, TagListing
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import UserError

NFC, NFD = "café", unicodedata.normalize("NFD", "café")


def test_names_are_one_clean_line():
    for name in ("a b", " a  b ", "a\nb", "a\rb", "a\u2028b", "a\x85b", "a\x00b", "\ufeffa b"):
        assert clean_name(name) == "a b"
    assert clean_name(NFD) == NFC == clean_text(NFD) == clean_path(NFD)
    assert clean_names(["b", "a ", "", "a", "\u200b", NFD, NFC]) == ["b", "a", NFC]


def test_halves_of_characters_can_be_stored():
    assert clean_text("x\ud83d") == "x\ufffd"
    assert clean_text("\ud83d\ude00") == clean_path("\ud83d\ude00") == "😀"
    assert clean_path(os.fsdecode(b"K\xe4se")) == r"K\udce4se"


@pytest.mark.parametrize("make", [TagListing, lambda v, names: LabelListing(v, {"label": names})])
def test_no_reader_numbers_what_tfds_would_read_otherwise(make):
    names = make("x", ["a\nb", " c "]).features
    feature = names.get("label") or names["tags"].feature
    assert feature.names == ["a b", "c"]
    with pytest.raises(UserError, match=r"number 1 of .* is empty"):
        make("x", ["a", "\n"])
    with pytest.raises(UserError, match="'a' occurs twice"):
        make("x", ["a", "a "])


def test_a_label_is_found_in_either_form():
    assert LabelNames((NFC, "dog")).index(NFD) == 0


def coco(names):
    return json.dumps(
        {
            "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(6)],
            "annotations": [{"image_id": n, "category_id": n % len(names)} for n in range(6)],
            "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        }
    )


@pytest.mark.parametrize(
    ("names", "cleaned"),
    [
        (["cat\nbig", "dog", "fox"], ["cat big", "dog", "fox"]),
        (["cat", "cat ", "fox"], ["cat", "cat", "fox"]),
        ([NFC, NFD, "fox"], [NFC, NFC, "fox"]),
    ],
)
def test_categories_keep_their_images(tmp_path, names, cleaned):
    files = {f"{n}.jpg": picture(n) for n in range(6)} | {"instances.json": coco(names)}
    listing = list_own(lay(tmp_path, files))
    tags_by_file = annotations(listing, "tags")
    assert tags_by_file == {f"{n}.jpg": [cleaned[n % 3]] for n in range(6)}
    assert listing.features["tags"].feature.names == list(dict.fromkeys(cleaned))


def test_a_category_without_a_name_is_named(tmp_path):
    files = {f"{n}.jpg": picture(n) for n in range(6)} | {"instances.json": coco([" ", "b", "c"])}
    with pytest.raises(UserError, match="the category with the id 0 has an empty name"):
        list_own(lay(tmp_path, files))


def test_class_folders_in_two_forms_are_one_class_and_odd_ones_keep_theirs(tmp_path):
    folders = ("train/a\nb", f"train/{NFC}", "train/zebra", f"val/{NFD}", "val/zebra", "val/a\nb")
    files = {
        f"{folder}/{n}.jpg": picture(10 * n + m)
        for m, folder in enumerate(folders)
        for n in range(2)
    }
    summary = datasets.prepare("mine", lay(tmp_path / "s", files), tmp_path / "d")
    assert class_names(summary) == ["a b", NFC, "zebra"]
    assert "\nb" not in str(summary)
    for split in ("train", "validation"):
        for file, record in records(summary, split).items():
            assert clean_name(file.split("/")[1]) == class_names(summary)[record["label"]]


def test_a_folder_that_has_no_name_is_told(tmp_path):
    files = {
        f"{name}/{n}.jpg": picture(n + 50 * (name == "dog"))
        for name in ("cat", "dog", " ")
        for n in range(2)
    }
    listing = list_own(lay(tmp_path, files))
    assert listing.features["label"].names == ["cat", "dog"]
    assert (" /0.jpg", "the folder of its class has no name") in listing.problems


@pytest.mark.parametrize(("table", "file"), [(NFC, NFD), (NFD, NFC)])
def test_tables_find_files_in_the_other_form(tmp_path, table, file):
    files = {f"{file}{n}.jpg": picture(n) for n in range(2)}
    rows = "".join(f"{table}{n}.jpg,{(NFC, NFD)[n]}\n" for n in range(2))
    listing = list_own(lay(tmp_path, files | {"tags.csv": f"file,tags\n{rows}"}))
    assert annotations(listing, "tags") == {f"{NFC}{n}.jpg": [NFC] for n in range(2)}
    assert not listing.problems


def test_two_files_of_one_name_in_two_forms(tmp_path):
    lay(tmp_path, {f"{NFC}.jpg": b"1", f"{NFD}.jpg": b"2"})
    with SourceFiles(tmp_path) as source:
        assert source.names() == [f"{NFC}.jpg"]
        assert "another Unicode form" in source.refused[0][1]


def zip_without_flag(path, names):
    """A zip whose names are these bytes, without the flag that says UTF-8."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, name in enumerate(names):
            info = zipfile.ZipInfo(f"{number}".rjust(len(name), "x"))
            archive.writestr(info, picture(number))
    data = buffer.getvalue()
    for number, name in enumerate(names):
        data = data.replace(f"{number}".rjust(len(name), "x").encode(), name)
    path.write_bytes(data)


def test_zip_names_are_utf8_also_without_its_flag(tmp_path):
    zip_without_flag(tmp_path / "a.zip", ["猫/1.jpg".encode(), f"{NFD}/1.jpg".encode()])
    with SourceFiles(tmp_path) as source:
        assert source.names() == [f"{NFC}/1.jpg", "猫/1.jpg"]
        assert source.read("猫/1.jpg") == picture(0)
        assert not source.warnings


def test_zip_names_in_another_encoding_are_told(tmp_path):
    zip_without_flag(tmp_path / "a.zip", ["Käse/1.jpg".encode("cp1252"), b"b/1.jpg"])
    with SourceFiles(tmp_path) as source:
        assert len(source.names()) == 2
        assert "a.zip are not in UTF-8" in source.warnings[0]


def test_a_zip_member_without_a_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("x")
        archive.writestr(info, b"1")
        info.filename = ""
    with SourceFiles(tmp_path) as source:
        assert source.refused == [("a.zip:", "a member without a name")]


@pytest.mark.parametrize("kind", ["file", "class", "captions", "tags"])
def test_names_and_texts_that_are_no_utf8(tmp_path, kind):
    folder = tmp_path / "s"
    for number in range(6):
        name = b"p\xe9%d.jpg" % number if kind == "file" else b"p%d.jpg" % number
        below = b"c\xe9" if kind == "class" and number % 2 else b"b" if number % 2 else b"a"
        path = os.path.join(os.fsencode(folder), below, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(picture(number))
    if kind in ("captions", "tags"):
        rows = ({"file": f"p{n}.jpg", kind: ["half \ud83d" if n == 3 else "a"]} for n in range(6))
        lay(folder, {f"{kind}.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    summary = datasets.prepare("mine", folder, tmp_path / "d")
    assert sum(counts["pictures"] for counts in summary.splits.values()) == 6
    assert not ledger(summary)
