"""ImageNet-1k: official layouts, malformed files, to the records."""

import io
import os

import numpy as np
import pytest
import scipy.io
from labelled import class_names, lay, ledger, packed, picture, records

from jaxtag import datasets
from jaxtag.errors import UserError

SYNSETS = {1: "n02119789", 2: "n02100735", 3: "n01440764", 1001: "n00001740"}
CLASSES = ["n01440764", "n02100735", "n02119789"]
SHOWN = {"ILSVRC2012_val_00000001": 1, "ILSVRC2012_val_00000002": 3}
CMYK = picture(30, mode="CMYK")
PNG = picture(40, "PNG")


def train_pictures():
    return {
        "n02119789": {"n02119789_1.JPEG": picture(1), "n02119789_2.JPEG": CMYK},
        "n02100735": {"n02100735_7.JPEG": PNG},
        "n01440764": {"n01440764_9.JPEG": picture(9), "n01440764_10.JPEG": picture(8)[:200]},
    }


def meta():
    fields = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words")]
    table = np.array([[(n, name, f"word {n}")] for n, name in SYNSETS.items()], dtype=fields)
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": table}, do_compression=True)
    return buffer.getvalue()


def devkit():
    truth = "".join(f"{number}\n" for number in SHOWN.values())
    return {
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": truth,
        "ILSVRC2012_devkit_t12/data/meta.mat": meta(),
    }


def official_imagenet():
    inner = {f"{synset}.tar": packed(files) for synset, files in train_pictures().items()}
    heap = {f"{stem}.JPEG": picture(n) for n, stem in enumerate(SHOWN)}
    return {
        "ILSVRC2012_img_train.tar": packed(inner),
        "ILSVRC2012_img_val.tar": packed(heap),
        "ILSVRC2012_devkit_t12.tar.gz": packed(devkit(), "w:gz"),
    }


def imagenet_forms():
    heap = {f"{stem}.JPEG": picture(n) for n, stem in enumerate(SHOWN)}
    in_folders = {
        f"train/{synset}/{name}": data
        for synset, files in train_pictures().items()
        for name, data in files.items()
    }
    sorted_out = {f"val/{SYNSETS[SHOWN[name[:-5]]]}/{name}": data for name, data in heap.items()}
    answers = [f"{stem},{SYNSETS[number]} 1 2 3 4\n" for stem, number in SHOWN.items()]
    kaggle = {
        "LOC_synset_mapping.txt": "".join(f"{name} word, words\n" for name in CLASSES),
        "LOC_val_solution.csv": "ImageId,PredictionString\n" + "".join(answers),
    }
    inner = {f"train/{synset}.tar": packed(files) for synset, files in train_pictures().items()}
    return {
        "official tars": official_imagenet(),
        "class folders": in_folders | sorted_out,
        "unpacked once": inner | {f"val/{name}": data for name, data in heap.items()} | devkit(),
        "kaggle": kaggle
        | {f"ILSVRC/Data/CLS-LOC/{name}": data for name, data in in_folders.items()}
        | {f"ILSVRC/Data/CLS-LOC/val/{name}": data for name, data in heap.items()},
    }


@pytest.mark.parametrize("form", imagenet_forms())
def test_imagenet_is_the_same_in_each_form(tmp_path, form):
    source = lay(tmp_path / "i", imagenet_forms()[form])
    summary = datasets.prepare("imagenet2012", source, tmp_path / "d")
    assert class_names(summary) == CLASSES
    assert records(summary, "train") == {
        f"train/{CLASSES[label]}/{CLASSES[label]}_{number}.JPEG": {
            "file": f"train/{CLASSES[label]}/{CLASSES[label]}_{number}.JPEG",
            "image": data,
            "label": label,
        }
        for label, number, data in [
            (2, 1, picture(1)),
            (2, 2, CMYK),
            (1, 7, PNG),
            (0, 9, picture(9)),
        ]
    }
    shown = {file: r["label"] for file, r in records(summary, "validation").items()}
    assert shown == {
        "validation/n02119789/ILSVRC2012_val_00000001.JPEG": 2,
        "validation/n01440764/ILSVRC2012_val_00000002.JPEG": 0,
    }
    left_out = ledger(summary)
    assert left_out.keys() == {"train/n01440764/n01440764_10.JPEG"}
    assert "damaged" in left_out["train/n01440764/n01440764_10.JPEG"]
    altered = [warning for warning in summary.warnings if "MD5" in warning]
    assert len(altered) == sum(
        name in datasets.builder_class("imagenet2012").MD5 for name in imagenet_forms()[form]
    )
    assert [warning for warning in summary.warnings if warning not in altered] == [
        "train has 4 images; 1,281,167 were published",
        "validation has 2 images; 50,000 were published",
    ]


def test_a_part_of_imagenet_keeps_the_labels_of_the_list(tmp_path):
    files = {
        "synset_words.txt": "".join(f"{name} word\n" for name in CLASSES),
        "train/n02119789/n02119789_1.JPEG": picture(1),
    }
    summary = datasets.prepare("imagenet2012", lay(tmp_path / "i", files), tmp_path / "d")
    (record,) = records(summary, "train").values()
    assert record["label"] == 2


HEAP = {"val/ILSVRC2012_val_00000001.JPEG": picture(), "val/ILSVRC2012_val_00000003.JPEG": b"x"}
TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": "x"}, r"no ImageNet-1k(.|\n)*ILSVRC2012_img_train\.tar"),
        (HEAP, r"not what they show: add ILSVRC2012_devkit"),
        ({**HEAP, TRUTH: "1\n"}, r"but no meta\.mat"),
        ({**HEAP, TRUTH: "1\n", "data/meta.mat": meta()[:300]}, r"meta\.mat is no list of synsets"),
        ({**HEAP, TRUTH: "1\n4\n", "data/meta.mat": meta()}, r"line 2: '4' is no class"),
        ({**HEAP, "LOC_val_solution.csv": "ImageId\nx\n"}, r"LOC_val_solution\.csv, line 2"),
        ({**HEAP, "synset_words.txt": "tench\n", TRUTH: ""}, "no meta.mat|not what they show"),
        (
            {"synset_words.txt": "tench\n", "train/n01440764/a.JPEG": picture()},
            r"synset_words\.txt, line 1: 'tench' is no synset",
        ),
        (
            {"synset_words.txt": "n00000001 x\n", "train/n01440764/a.JPEG": picture()},
            "images of n01440764, which its list",
        ),
        ({"train/n01440764.tar": packed(train_pictures()["n01440764"])[:700]}, "damaged|not one"),
        ({"train/n01440764.tar": os.urandom(2000)}, r"n01440764\.tar is damaged"),
    ],
)
def test_malformed_imagenet(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        datasets.prepare("imagenet2012", lay(tmp_path / "i", files), tmp_path / "d")


def test_members_that_point_outside_and_pictures_without_truth_are_reported(tmp_path):
    bad = {"../out.JPEG": picture(), "n01440764_1.JPEG": picture(1)}
    files = HEAP | devkit() | {"ILSVRC2012_img_train.tar": packed({"n01440764.tar": packed(bad)})}
    summary = datasets.prepare("imagenet2012", lay(tmp_path / "i", files), tmp_path / "d")
    assert list(records(summary, "train")) == ["train/n01440764/n01440764_1.JPEG"]
    left_out = ledger(summary)
    outside = "ILSVRC2012_img_train.tar:n01440764.tar:../out.JPEG"
    assert left_out.keys() == {outside, "val/ILSVRC2012_val_00000003.JPEG"}
    assert "points outside" in left_out[outside]
    assert "ground truth does not have it" in left_out["val/ILSVRC2012_val_00000003.JPEG"]
    assert not list(tmp_path.rglob("out.JPEG"))
