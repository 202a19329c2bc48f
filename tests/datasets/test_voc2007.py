"""Pascal VOC 2007 in its official layout, packed or not, with malformed members."""

import pytest
from labelled import lay, ledger, packed, picture, tagged

from jaxtag import datasets
from jaxtag.errors import UserError

LISTS = {"train": ["000012", "000017"], "val": ["000005"], "test": ["000001", "000002"]}
# Of each picture the things in it, and whether they are difficult.
THINGS = {
    "000012": [("car", 0)],
    "000017": [("person", 0), ("horse", 0), ("horse", 1)],
    "000005": [("chair", 0), ("chair", 1), ("sofa", 1)],
    "000001": [("dog", 0), ("person", 1), ("person", 1)],
    "000002": [("train", 1)],
}


def annotation(name):
    things = "".join(
        f"<object><name>{thing}</name><pose>Left</pose><truncated>1</truncated>"
        f"<difficult>{hard}</difficult><bndbox><xmin>1</xmin></bndbox>"
        "<part><name>head</name></part></object>"
        for thing, hard in THINGS[name]
    )
    return f"<annotation>\n<filename>{name}.jpg</filename>{things}</annotation>\n"


def devkit(*parts):
    files = {}
    for part in parts:
        names = LISTS[part]
        files[f"ImageSets/Main/{part}.txt"] = "".join(f"{name}\n" for name in names)
        files[f"ImageSets/Main/dog_{part}.txt"] = "".join(f"{name} -1\n" for name in names)
        for name in names:
            files[f"JPEGImages/{name}.jpg"] = picture(int(name))
            files[f"Annotations/{name}.xml"] = annotation(name)
    return {f"VOCdevkit/VOC2007/{name}": content for name, content in files.items()}


@pytest.mark.parametrize("form", ["tars", "unpacked", "apart"])
def test_official_layout(tmp_path, form):
    trainval, test = devkit("train", "val"), devkit("test")
    files = {
        "tars": {
            "VOCtrainval_06-Nov-2007.tar": packed(trainval),
            "VOCtest_06-Nov-2007.tar": packed(test),
            "VOCtrainval_11-May-2012.tar": b"never opened",
        },
        "unpacked": {**trainval, **test, "VOCdevkit/VOC2012/ImageSets/Main/train.txt": "2008_1\n"},
        "apart": {f"trainval/{name}": data for name, data in trainval.items()}
        | {f"test/{name}": data for name, data in test.items()},
    }[form]
    summary = datasets.prepare("voc2007", lay(tmp_path / "voc", files), tmp_path / "d")
    assert tagged(summary, "train") == {
        "000012.jpg": (["car"], [], ""),
        "000017.jpg": (["horse", "person"], [], ""),
    }
    assert tagged(summary, "validation") == {"000005.jpg": (["chair"], ["sofa"], "")}
    assert tagged(summary, "test") == {
        "000001.jpg": (["dog"], ["person"], ""),
        "000002.jpg": ([], ["train"], ""),
    }
    assert summary.splits["train"] == {"pictures": 2, "tags": 3}
    assert len(summary.balance) == 20
    assert list(summary.balance.items())[:4] == [
        ("car", 1),
        ("horse", 1),
        ("person", 1),
        ("aeroplane", 0),
    ]
    assert "tags of an image: mean 1.50" in str(summary)
    assert "train has 2 images; 2,501 were published" in str(summary)
    assert summary.left_out == 0


BOMB = (
    "<!DOCTYPE a [<!ENTITY b 'bbbbbbbbbbbb'>]><annotation><object><name>&b;</name></object>"
    "</annotation>"
)


@pytest.mark.parametrize(
    ("member", "content", "entry", "message"),
    [
        ("JPEGImages/000012.jpg", None, "000012.jpg", "missing"),
        ("JPEGImages/000012.jpg", picture()[:90], "000012.jpg", ""),
        ("Annotations/000012.xml", None, "Annotations/000012.xml", "missing"),
        ("Annotations/000012.xml", "<annotation><object>", "Annotations/000012.xml", "malformed"),
        ("Annotations/000012.xml", BOMB, "Annotations/000012.xml", "document type"),
        ("Annotations/000012.xml", BOMB.encode("utf-16"), "Annotations/000012.xml", "malformed"),
        (
            "Annotations/000012.xml",
            "<annotation><object><name>cra</name></object></annotation>",
            "Annotations/000012.xml",
            "an object is called 'cra'",
        ),
        ("Annotations/000012.xml", " " * (2 << 20), "Annotations/000012.xml", "larger than"),
    ],
)
def test_malformed_members(tmp_path, member, content, entry, message):
    files = devkit("train", "val") | {f"VOCdevkit/VOC2007/{member}": content}
    files = {name: data for name, data in files.items() if data is not None}
    source = lay(tmp_path / "voc", {"VOCtrainval_06-Nov-2007.tar": packed(files)})
    summary = datasets.prepare("voc2007", source, tmp_path / "d")
    assert tagged(summary, "train").keys() == {"000017.jpg"}
    (reason,) = (reason for file, reason in ledger(summary).items() if file == entry)
    assert message in reason
    assert summary.left_out == 1


def test_a_member_that_points_outside_is_refused(tmp_path):
    files = devkit("train") | {"../escaped.jpg": picture()}
    source = lay(tmp_path / "voc", {"VOCtrainval_06-Nov-2007.tar": packed(files)})
    summary = datasets.prepare("voc2007", source, tmp_path / "d")
    assert "outside" in ledger(summary)["VOCtrainval_06-Nov-2007.tar:../escaped.jpg"]
    assert not list(tmp_path.rglob("escaped.jpg"))


def test_another_folder_is_told_apart(tmp_path):
    of_2012 = {"VOCdevkit/VOC2012/ImageSets/Main/train.txt": "2008_1\n"}
    with pytest.raises(UserError, match=r"no Pascal VOC 2007(.|\n)*VOCtest_06-Nov-2007\.tar"):
        datasets.prepare("voc2007", lay(tmp_path / "voc", of_2012), tmp_path / "d")
    assert not (tmp_path / "d").exists()
