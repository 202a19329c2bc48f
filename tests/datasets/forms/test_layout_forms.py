"""Folders as tools lay them out; the layouts are those of each tool's documentation."""

import json

import pytest
from labelled import lay, list_own, listed, packed, picture

from jaxtag.datasets.custom import custom_dataset
from jaxtag.errors import UserError

YAML = """
path: ../datasets/mine
train: {train}
val: {val}
nc: 2
names: {names}
"""


def yolo(folder, train="images/train", val="images/val", names="['cat', 'dog']"):
    files = {
        "data.yaml": YAML.format(train=train, val=val, names=names),
        "images/train/a.jpg": picture(1),
        "images/train/b.jpg": picture(2),
        "images/val/c.jpg": picture(3),
        "labels/train/a.txt": "1 0.5 0.5 0.25 0.25\n0 0.1 0.1 0.2 0.2\n1 0.3 0.3 0.1 0.1\n",
        "labels/val/c.txt": "0 0.5 0.5 0.25 0.25\n",
    }
    return lay(folder, files)


YOLO_RECORDS = [
    ("train", "images/train/a.jpg", ["cat", "dog"]),
    ("train", "images/train/b.jpg", []),
    ("validation", "images/val/c.jpg", ["cat"]),
]


@pytest.mark.parametrize("names", ["['cat', 'dog']", "\n  0: cat\n  1: dog"])
def test_yolo(tmp_path, names):
    """https://docs.ultralytics.com/datasets/detect/"""
    listing = list_own(yolo(tmp_path, names=names))
    assert listing.form.startswith("a YOLO data set (data.yaml): 2 splits, 3 images, 2 tags")
    assert listed(listing) == YOLO_RECORDS


def test_yolo_by_lists_of_files_and_by_absolute_paths(tmp_path):
    source = yolo(tmp_path, "train.txt", "/home/x/mine/images/val")
    lay(source, {"train.txt": "./images/train/a.jpg\nC:\\mine\\images\\train\\b.jpg\n"})
    assert listed(list_own(source)) == YOLO_RECORDS


def test_yolo_as_roboflow_exports_it(tmp_path):
    """https://roboflow.com/formats/yolov8-pytorch-txt: ../train/images beside ../train/labels"""
    files = {
        "data.yaml": YAML.format(train="../train/images", val="../valid/images", names="[a b, c]"),
        "README.roboflow.txt": "x",
        "train/images/1.jpg": picture(1),
        "train/labels/1.txt": "1 0.5 0.5 0.25 0.25",
        "valid/images/1.jpg": picture(2),
        "valid/labels/1.txt": "0 0.5 0.5 0.25 0.25",
    }
    assert listed(list_own(lay(tmp_path, files))) == [
        ("train", "train/images/1.jpg", ["c"]),
        ("validation", "valid/images/1.jpg", ["a b"]),
    ]


def test_yolo_as_label_studio_exports_it(tmp_path):
    files = {"classes.txt": "cat\ndog\n", "notes.json": json.dumps({"categories": []})}
    files |= {"images/1a2b3c4d-1.jpg": picture(1), "images/5e6f7a8b-2.jpg": picture(2)}
    files |= {"labels/1a2b3c4d-1.txt": "1 0.5 0.5 0.2 0.2", "labels/5e6f7a8b-2.txt": ""}
    listing = list_own(lay(tmp_path, files))
    assert sorted(tags for *_, tags in listed(listing)) == [[], ["dog"]]


def test_an_odd_label_costs_one_image(tmp_path):
    source = yolo(tmp_path)
    more = {f"images/train/{n}.jpg": picture(10 + n) for n in range(9)}
    more |= {f"labels/train/{n}.txt": "0 0.5 0.5 0.2 0.2" for n in range(8)}
    listing = list_own(lay(source, more | {"labels/train/8.txt": "7 0.5 0.5 0.2 0.2"}))
    assert sum(map(len, listing.splits.values())) == 11
    assert ("labels/train/8.txt", "line 1 has the class 7, which has no name") in listing.problems


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names: &a [x]\ntrain: *a\n", "YAML with aliases is refused"),
        ("names: {a: x}\ntrain: images/train\n", "a key that is no number"),
        ("names: !!python/object/apply:os.system [ls]\ntrain: x\n", "no YAML"),
        ("names: 3\ntrain: x\n", "neither a list nor an object"),
    ],
)
def test_odd_yaml_is_refused(tmp_path, content, message):
    source = lay(yolo(tmp_path), {"data.yaml": content})
    with pytest.raises(UserError, match=f"{message}|neither a data.yaml"):
        list_own(source, "yolo")


def voc(name, *labels):
    objects = "".join(
        f"<object><name>{label}</name><difficult>0</difficult>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
        for label in labels
    )
    size = "<size><width>12</width><height>8</height><depth>3</depth></size>"
    return (
        f"<annotation><folder>x</folder><filename>{name}</filename><path>C:\\x\\{name}</path>"
        f"{size}{objects}</annotation>"
    )


def test_pascal_vocs_xml(tmp_path):
    """http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/, sections 2 and 3"""
    files = {
        "Annotations/a.xml": voc("a.jpg", "cat", "dog", "cat"),
        "Annotations/b.xml": voc("renamed.jpg"),
        "Annotations/c.xml": voc("c.jpg", "dog"),
        "ImageSets/Main/train.txt": "a\nb\n",
        "ImageSets/Main/val.txt": "c\n",
        "ImageSets/Main/trainval.txt": "a\nb\nc\n",
        "ImageSets/Main/cat_train.txt": "a 1\nb -1\n",
    }
    files |= {f"JPEGImages/{name}.jpg": picture(n) for n, name in enumerate("abc")}
    listing = list_own(lay(tmp_path, files))
    assert listing.form.startswith("Pascal VOC's XML (Annotations/a.xml): 2 splits, 3 images")
    assert listed(listing) == [
        ("train", "JPEGImages/a.jpg", ["cat", "dog"]),
        ("train", "JPEGImages/b.jpg", []),
        ("validation", "JPEGImages/c.jpg", ["dog"]),
    ]


def test_pascal_vocs_xml_beside_images_as_roboflow_and_labelimg_write_it(tmp_path):
    names = [*(f"train/{n}" for n in range(5)), "valid/0"]
    files = {f"{name}.jpg": picture(n) for n, name in enumerate(names)}
    files |= {f"{name}.xml": voc(f"{name[-1]}.jpg", "cat") for name in names}
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
    listing = list_own(lay(tmp_path, files | {"train/4.xml": bomb}))
    assert listed(listing)[-1] == ("validation", "valid/0.jpg", ["cat"])
    assert len(listing.splits["train"]) == 4
    listing = list_own(lay(tmp_path, {"train/4.xml": voc("4.jpg") + "<"}))
    assert any(file == "train/4.xml" and "no XML" in reason for file, reason in listing.problems)


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><labels>
<label><name>dog</name><attributes/></label><label><name>red cat</name></label>
</labels></task></meta>
<image id="0" name="sub/a.jpg" width="12" height="8" subset="Train">
  <box label="red cat" occluded="0" xtl="1" ytl="1" xbr="3" ybr="3" z_order="0"/>
  <polygon label="dog" points="1,1;2,2;3,1"><attribute name="x">y</attribute></polygon>
</image>
<image id="1" name="b.jpg" width="12" height="8" subset="Validation"/>
<image id="2" name="c.jpg" width="12" height="8"><tag label="dog" source="manual"></tag></image>
<image id="3" name="d.jpg" width="12" height="8"><tag label="dog" source="manual"></tag></image>
</annotations>"""


def test_cvat(tmp_path):
    """https://docs.cvat.ai/docs/manual/advanced/xml_format/"""
    names = ["images/sub/a.jpg", "images/b.jpg", "images/c.jpg", "images/d.jpg"]
    files = {name: picture(30 * n) for n, name in enumerate(names)}
    listing = list_own(lay(tmp_path, files | {"annotations.xml": CVAT}))
    assert listing.form.startswith("a CVAT export (annotations.xml): 2 splits, 4 images, 2 tags")
    assert listing.features["tags"].feature.names == ["dog", "red cat"]
    assert listed(listing) == [
        ("train", "c.jpg", ["dog"]),
        ("train", "d.jpg", ["dog"]),
        ("train", "sub/a.jpg", ["dog", "red cat"]),
        ("validation", "b.jpg", []),
    ]


def test_tags_of_cvat_are_classes(tmp_path):
    text = CVAT.partition("<image")[0] + CVAT[CVAT.index('<image id="2"') :]
    files = {"c.jpg": picture(1), "d.jpg": picture(2), "annotations.xml": text}
    assert "label" in list_own(lay(tmp_path, files)).features


def test_labelme(tmp_path):
    """https://github.com/wkentaro/labelme: a JSON beside each image, with its data or not"""

    def content(name, flags, *labels):
        shapes = [{"label": label, "points": [[1, 1]], "shape_type": "polygon"} for label in labels]
        return json.dumps(
            {"version": "5.0", "flags": flags, "shapes": shapes, "imagePath": name}
            | {"imageData": None, "imageHeight": 8, "imageWidth": 12}
        )

    files = {
        "train/a.json": content("a.jpg", {"night": True, "rain": False}, "cat", "cat"),
        "val/b.json": content("..\\images\\b.jpg", {}, "dog"),
        "train/a.jpg": picture(1),
        "images/b.jpg": picture(2),
    }
    assert listed(list_own(lay(tmp_path, files))) == [
        ("train", "train/a.jpg", ["cat", "night"]),
        ("validation", "images/b.jpg", ["dog"]),
    ]


def beside(source, texts, folder=""):
    """Images n.jpg in a folder with a text beside each."""
    files = {f"{folder}{n}.jpg": picture(n) for n in range(len(texts))}
    files |= {f"{folder}{n}.txt": text for n, text in enumerate(texts)}
    return lay(source, files)


def test_texts_beside_images_are_captions(tmp_path):
    """https://github.com/kohya-ss/sd-scripts/blob/main/docs/train_README-en.md"""
    texts = ["A red bus, in the rain.\nA bus on a road.", "Two cats that sleep on a sofa."]
    listing = list_own(beside(tmp_path, texts))
    assert listing.form.startswith("a text file beside each image (0.txt): 2 splits, 2 images, 3 c")
    assert [value for _, _, value in sorted(listed(listing), key=lambda entry: entry[1])] == [
        ["A red bus, in the rain.", "A bus on a road."],
        ["Two cats that sleep on a sofa."],
    ]


def test_texts_beside_images_are_tags(tmp_path):
    texts = ["1girl, solo, long hair", "1girl, short hair, smile", "solo, smile, hat"] * 2
    source = beside(tmp_path, texts, folder="10_mine/")
    listing = list_own(source)
    tags = {file: value for _, file, value in listed(listing)}
    assert tags["10_mine/1.jpg"] == ["1girl", "short hair", "smile"]
    captions = {file: value for _, file, value in listed(list_own(source, "kohya:captions"))}
    assert captions["10_mine/1.jpg"] == ["1girl, short hair, smile"]


def test_texts_beside_images_in_folders_may_be_both(tmp_path):
    texts = ["A red bus in the rain.", "Two cats that sleep on a sofa."]
    source = beside(beside(tmp_path, texts, folder="a/"), texts, folder="b/")
    with pytest.raises(UserError, match=r"text file beside each image \(a/0\.txt\) and like a fol"):
        list_own(source)
    assert "captions" in list_own(source, "kohya").features
    assert "label" in list_own(source, "folders").features


def shard(number, **others):
    """A tar with two examples of the same keys in each shard."""
    files = {}
    for key in ("000000", "000001"):
        index = 2 * number + int(key)
        files[f"{key}.jpg"] = picture(20 * index)
        for ending, text in others.items():
            files[f"{key}.{ending}"] = text(index) if callable(text) else text
    return packed(files)


def test_webdataset(tmp_path):
    """https://github.com/webdataset/webdataset: shards whose keys are the same"""
    files = {f"train-{n:06}.tar": shard(n, cls=lambda index: str(index % 2)) for n in range(2)}
    files |= {"val/000000.tar": shard(5, cls="1"), "classnames.txt": "cat\nred dog\n"}
    with custom_dataset("mine").open_listing(lay(tmp_path, files)) as listing:
        images = {image.load() for images in listing.splits.values() for image in images}
    assert len(images) == 6
    assert listing.form.startswith("a WebDataset (train-000000.tar): 2 splits, 6 images, 2 cl")
    assert listed(listing) == [
        ("train", "000000.jpg", ["cat"]),
        ("train", "000001.jpg", ["red dog"]),
        ("train", "train-000001/000000.jpg", ["cat"]),
        ("train", "train-000001/000001.jpg", ["red dog"]),
        ("validation", "val/000000.jpg", ["red dog"]),
        ("validation", "val/000001.jpg", ["red dog"]),
    ]


def test_webdataset_of_captions_and_of_objects(tmp_path):
    """https://github.com/rom1504/img2dataset: jpg, txt, and json with the caption too"""
    text = "A red bus."
    files = {"00000.tar": shard(0, txt=text, json=json.dumps({"caption": text, "url": "x"}))}
    assert {tuple(value) for *_, value in listed(list_own(lay(tmp_path / "a", files)))} == {(text,)}
    files = {"00000.tar": shard(0, json=json.dumps({"tags": ["bus", "red"]}))}
    values = {tuple(value) for *_, value in listed(list_own(lay(tmp_path / "b", files)))}
    assert values == {("bus", "red")}
    source = lay(tmp_path / "c", {"00000.tar": shard(0, txt=text, cls="7")})
    with pytest.raises(UserError, match=r"--as=webdataset:captions or --as=webdataset:tags"):
        list_own(source)
    assert "label" in list_own(source, "webdataset:tags").features


@pytest.mark.parametrize("tool", ["cvat", "voc"])
def test_an_unknown_encoding_of_xml_is_told(tmp_path, tool):
    """Such a name comes from a damaged file; Python's reader knows no line for it."""
    if tool == "cvat":
        files = {"annotations.xml": CVAT.replace('"utf-8"', '"utf-88"'), "b.jpg": picture(1)}
        with pytest.raises(UserError):
            list_own(lay(tmp_path, files))
        return
    files = {f"{name}.jpg": picture(n) for n, name in enumerate("abcde")}
    files |= {f"{name}.xml": voc(f"{name}.jpg", "cat") for name in "abcd"}
    files["e.xml"] = '<?xml version="1.0" encoding="utf-88"?>' + voc("e.jpg", "cat")
    listing = list_own(lay(tmp_path, files))
    assert len(listed(listing)) == 4
