"""Data sets with class labels: official layouts, malformed files, own folders, to the records."""

import collections
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
from typing import ClassVar

import numpy as np
import pytest
import scipy.io
from PIL import Image

from jaxtag.data import builders, sources
from jaxtag.data.decode import decode
from jaxtag.errors import UserError

RNG = np.random.default_rng(0)


def lay(folder, files):
    """Writes {path: bytes or text} below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def packed(files, mode="w:"):
    """A tar of {name: bytes}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def picture(shade=0, kind="JPEG", mode="RGB"):
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (shade, 255 - shade, 90)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def records(summary, split):
    """file -> record."""
    source = sources.open_split(summary.dataset, split, summary.folder.parent.parent)
    return {record["file"]: record for record in source.__getitems__(range(len(source)))}


def class_names(summary, feature="label"):
    source = sources.open_split(summary.dataset, "train", summary.folder.parent.parent)
    return source.class_names(feature)


def ledger(summary):
    lines = (summary.folder / "ledger.jsonl").read_text().splitlines()
    return {entry["file"]: entry["reason"] for entry in map(json.loads, lines)}


DIGITS = RNG.integers(0, 256, (7, 28, 28), np.uint8)
NUMBERS = np.array([5, 0, 4, 1, 9, 2, 1], np.uint8)


def idx(values):
    return struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape) + (
        values.tobytes()
    )


def mnist(dash="-", pack=bytes, ending=""):
    return {
        f"train-images{dash}idx3-ubyte{ending}": pack(idx(DIGITS)),
        f"train-labels{dash}idx1-ubyte{ending}": pack(idx(NUMBERS)),
        f"t10k-images{dash}idx3-ubyte{ending}": pack(idx(DIGITS[:3])),
        f"t10k-labels{dash}idx1-ubyte{ending}": pack(idx(NUMBERS[:3])),
    }


@pytest.mark.parametrize("form", ["packed", "dots", "mirror"])
def test_mnist(tmp_path, form):
    files = {
        "packed": mnist(pack=gzip.compress, ending=".gz"),
        "dots": mnist(dash="."),
        "mirror": {f"deep/{name}": data for name, data in mnist().items()},
    }[form]
    summary = builders.prepare("mnist", lay(tmp_path / "mnist", files), tmp_path / "d")
    assert summary.splits == {
        "train": {"pictures": 7, "classes": 6},
        "test": {"pictures": 3, "classes": 3},
    }
    assert "train has 7 pictures; 60,000 were published" in str(summary)
    found = records(summary, "train")
    assert found["train/00000.png"].keys() == {"image", "file", "label"}
    assert class_names(summary) == list("0123456789")
    for number in range(7):
        record = found[f"train/{number:05d}.png"]
        assert record["label"] == NUMBERS[number]
        assert np.array_equal(decode(record["image"])[..., 1], DIGITS[number])
        assert Image.open(io.BytesIO(record["image"])).mode == "L"


ANY_LABELS = "train-labels-idx1-ubyte"
ANY_IMAGES = "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (ANY_IMAGES, idx(DIGITS)[:-1], r"7 x 28 x 28 bytes, but there are 5,487"),
        (ANY_IMAGES, idx(DIGITS) + b"x", r"but there are 5,489"),
        (ANY_IMAGES, b"\0\0\x08", r"cut short \(3 bytes\)"),
        (ANY_IMAGES, idx(DIGITS[0]), r"starts with 0x00000802 instead of 0x00000803"),
        (ANY_IMAGES, idx(DIGITS[:0]), "is empty"),
        (ANY_IMAGES, idx(DIGITS[:6]), "has 6 pictures, but .*labels-idx1-ubyte has 7 labels"),
        (ANY_IMAGES, gzip.compress(idx(DIGITS))[:-20], "cut short"),
        (ANY_IMAGES, gzip.compress(idx(DIGITS))[:20] + bytes(90), "damaged|cut short"),
        (ANY_LABELS, idx(NUMBERS + 1), r"label 10 \(number 4\) is no digit"),
        (ANY_LABELS, None, r"has no train-labels-idx1-ubyte(.|\n)*wget"),
    ],
)
def test_malformed_mnist(tmp_path, name, content, said):
    files = mnist() | {name: content}
    source = lay(tmp_path / "m", {name: data for name, data in files.items() if data is not None})
    with pytest.raises(UserError, match=said):
        builders.prepare("mnist", source, tmp_path / "d")
    assert not (tmp_path / "d").exists()


TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# Two pictures a file: red, green and blue rows one after the other.
ROWS = RNG.integers(0, 256, (12, 3072), np.uint8)
KINDS = [3, 8, 8, 0, 6, 6, 1, 6, 3, 1, 0, 9]
PARTS = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def cifar10_binary():
    files = {"batches.meta.txt": "\n".join(TEN) + "\n\n", "readme.html": "<p>"}
    for part, name in enumerate(PARTS):
        labelled = [bytes([KINDS[n]]) + ROWS[n].tobytes() for n in (2 * part, 2 * part + 1)]
        files[f"{name}.bin"] = b"".join(labelled)
    return {f"cifar-10-batches-bin/{name}": data for name, data in files.items()}


class Python2Pickler(pickle._Pickler):
    """Writes as Python 2 did in protocol 2: text and bytes are one type."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_text(self, value):
        data = value if isinstance(value, bytes) else value.encode()
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_text


def python2(value):
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def cifar10_python(dump=python2, order="C"):
    files = {
        "batches.meta": dump({"num_cases_per_batch": 2, "label_names": TEN, "num_vis": 3072}),
    }
    for part, name in enumerate(PARTS):
        chosen = slice(2 * part, 2 * part + 2)
        files[name] = dump(
            {
                "batch_label": f"batch {part}",
                "labels": KINDS[chosen],
                "data": np.array(ROWS[chosen], order=order),
                "filenames": ["a.png", "b.png"],
            }
        )
    return {f"cifar-10-batches-py/{name}": data for name, data in files.items()}


CIFAR10_FORMS = {
    "binary unpacked": cifar10_binary(),
    "binary packed": {"cifar-10-binary.tar.gz": packed(cifar10_binary(), "w:gz")},
    "python packed": {"cifar-10-python.tar.gz": packed(cifar10_python(), "w:gz")},
    "python, columns first": cifar10_python(order="F"),
    "python 3, protocol 2": cifar10_python(lambda value: pickle.dumps(value, 2)),
    "python 3, protocol 4": cifar10_python(lambda value: pickle.dumps(value, 4)),
}


@pytest.mark.parametrize("form", CIFAR10_FORMS)
def test_cifar10_is_the_same_from_each_archive(tmp_path, form):
    source = lay(tmp_path / "c", CIFAR10_FORMS[form])
    summary = builders.prepare("cifar10", source, tmp_path / "d")
    assert {split: n["pictures"] for split, n in summary.splits.items()} == {"train": 10, "test": 2}
    assert class_names(summary) == TEN
    found = {**records(summary, "train"), **records(summary, "test")}
    for number in range(12):
        file = f"train/{number:05d}.png" if number < 10 else f"test/{number - 10:05d}.png"
        assert found[file]["label"] == KINDS[number]
        red, green, blue = ROWS[number].reshape(3, 32, 32)
        assert np.array_equal(decode(found[file]["image"]), np.stack([red, green, blue], -1))


def cifar100_binary():
    rows = {"train": ROWS[:3], "test": ROWS[3:5]}
    return {
        "fine_label_names.txt": "\n".join(f"kind_{n}" for n in range(100)),
        "coarse_label_names.txt": "\n".join(f"group_{n}" for n in range(20)),
        **{
            f"{part}.bin": b"".join(bytes([n, 90 + n]) + r.tobytes() for n, r in enumerate(chosen))
            for part, chosen in rows.items()
        },
    }


def cifar100_python():
    def part(rows):
        numbers = list(range(len(rows)))
        fine = [90 + n for n in numbers]
        return python2({"fine_labels": fine, "coarse_labels": numbers, "data": rows})

    return {
        "meta": python2(
            {
                "fine_label_names": [f"kind_{n}" for n in range(100)],
                "coarse_label_names": [f"group_{n}" for n in range(20)],
            }
        ),
        "train": part(ROWS[:3]),
        "test": part(ROWS[3:5]),
    }


@pytest.mark.parametrize("form", ["binary", "python"])
def test_cifar100_has_kinds_and_groups(tmp_path, form):
    files = cifar100_binary() if form == "binary" else cifar100_python()
    folder = lay(tmp_path / "c" / f"cifar-100-{form}", files)
    summary = builders.prepare("cifar100", folder.parent, tmp_path / "d")
    record = records(summary, "train")["train/00002.png"]
    assert (record["label"], record["coarse_label"]) == (92, 2)
    assert np.array_equal(decode(record["image"])[..., 2].ravel(), ROWS[2, 2048:])
    assert class_names(summary)[92] == "kind_92"
    assert class_names(summary, "coarse_label")[2] == "group_2"


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


# Lists of lists: 2**60 numbers in 60 of them, if they were written out.
SHARED = [0, 0]
for _ in range(60):
    SHARED = [SHARED, SHARED]


def batch(**changes):
    return python2({"labels": [1, 2], "data": ROWS[:2], **changes})


# Sets an attribute of what stands for a function: {"x": encode with the attribute y = 1}.
CHANGED_NAME = b"\x80\x02}U\x01xc_codecs\nencode\n}U\x01yK\x01sbs."


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data_batch_2", batch(labels=Call(os.system, "touch ran")), r"names (posix|nt)\.system"),
        ("data_batch_2", batch(extra=Call(eval, "open('ran', 'w')")), "names .*eval"),
        ("data_batch_2", batch(data=ROWS[:2].astype(np.int16)), "array of 'i2'"),
        ("data_batch_2", batch(data=np.array([None])), "array of 'O8'"),
        ("data_batch_2", batch(data=ROWS[:2, :99]), "3,072 values a picture"),
        ("data_batch_2", batch(labels=[1]), "no list 'labels' with a number a picture"),
        ("data_batch_2", batch(labels=[1, "2"]), "no list 'labels' with a number a picture"),
        ("data_batch_2", batch(labels=[1, 10]), "label 10 of picture 1 is none of the 10"),
        ("data_batch_2", batch(labels=[-1, 1]), "label -1 of picture 0 is none of the 10"),
        ("data_batch_2", CHANGED_NAME, "damaged pickle"),
        ("data_batch_2", batch(labels=SHARED), "no list 'labels' with a number a picture"),
        ("data_batch_2", batch()[:500], "damaged pickle"),
        ("data_batch_2", python2([1]), "no pickled dictionary"),
        ("data_batch_2", None, "has no data_batch_2"),
        ("batches.meta", python2({"label_names": [*TEN[:9], "bird"]}), "'bird' occurs twice"),
        ("batches.meta", python2({"names": TEN}), "no list of names 'label_names'"),
    ],
)
def test_malformed_pickles(tmp_path, monkeypatch, name, content, said):
    monkeypatch.chdir(tmp_path)
    files = cifar10_python() | {f"cifar-10-batches-py/{name}": content}
    source = lay(tmp_path / "c", {name: data for name, data in files.items() if data is not None})
    with pytest.raises(UserError, match=said):
        builders.prepare("cifar10", source, tmp_path / "d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]  # nothing ran or was written


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data_batch_3.bin", bytes(3073 * 2 - 1), "has 6,145 bytes, .* records of 3,073"),
        ("data_batch_3.bin", b"", "has 0 bytes"),
        ("data_batch_3.bin", bytes(3073) + b"\x0a" + bytes(3072), "label 10 of picture 1"),
        ("data_batch_3.bin", None, r"has no data_batch_3\.bin(.|\n)*wget"),
        ("batches.meta.txt", None, r"has no batches\.meta\.txt"),
    ],
)
def test_malformed_binary_files(tmp_path, name, content, said):
    files = cifar10_binary() | {f"cifar-10-batches-bin/{name}": content}
    source = lay(tmp_path / "c", {name: data for name, data in files.items() if data is not None})
    with pytest.raises(UserError, match=said):
        builders.prepare("cifar10", source, tmp_path / "d")


def test_cifar10_in_class_folders_keeps_the_files(tmp_path):
    files = {
        f"cifar10/{split}/{name}/0000.jpg": picture(n)
        for split in ("train", "test")
        for n, name in enumerate(TEN)
    }
    source = lay(tmp_path / "c", {"cifar10-jpeg.tar.gz": packed(files, "w:gz")})
    summary = builders.prepare("cifar10", source, tmp_path / "d")
    record = records(summary, "train")["train/bird/0000.jpg"]
    assert record == {"image": picture(2), "file": "train/bird/0000.jpg", "label": 2}
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="no cifar10"):
        builders.prepare("cifar10", tmp_path / "other", tmp_path / "d", overwrite=True)


# Listed by number as in the development kit, which is not the order of the names.
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
    summary = builders.prepare("imagenet2012", source, tmp_path / "d")
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
    assert summary.warnings == [
        "train has 4 pictures; 1,281,167 were published",
        "validation has 2 pictures; 50,000 were published",
    ]


def test_a_part_of_imagenet_keeps_the_labels_of_the_list(tmp_path):
    files = {
        "synset_words.txt": "".join(f"{name} word\n" for name in CLASSES),
        "train/n02119789/n02119789_1.JPEG": picture(1),
    }
    summary = builders.prepare("imagenet2012", lay(tmp_path / "i", files), tmp_path / "d")
    (record,) = records(summary, "train").values()
    assert record["label"] == 2


HEAP = {"val/ILSVRC2012_val_00000001.JPEG": picture(), "val/ILSVRC2012_val_00000003.JPEG": b"x"}
TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


@pytest.mark.parametrize(
    ("files", "said"),
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
            "pictures of n01440764, which its list",
        ),
        ({"train/n01440764.tar": packed(train_pictures()["n01440764"])[:700]}, "damaged|not one"),
        ({"train/n01440764.tar": os.urandom(2000)}, r"n01440764\.tar is damaged"),
    ],
)
def test_malformed_imagenet(tmp_path, files, said):
    with pytest.raises(UserError, match=said):
        builders.prepare("imagenet2012", lay(tmp_path / "i", files), tmp_path / "d")


def test_members_that_point_outside_and_pictures_without_truth_are_reported(tmp_path):
    bad = {"../out.JPEG": picture(), "n01440764_1.JPEG": picture(1)}
    files = HEAP | devkit() | {"ILSVRC2012_img_train.tar": packed({"n01440764.tar": packed(bad)})}
    summary = builders.prepare("imagenet2012", lay(tmp_path / "i", files), tmp_path / "d")
    assert list(records(summary, "train")) == ["train/n01440764/n01440764_1.JPEG"]
    left_out = ledger(summary)
    outside = "ILSVRC2012_img_train.tar:n01440764.tar:../out.JPEG"
    assert left_out.keys() == {outside, "val/ILSVRC2012_val_00000003.JPEG"}
    assert "points outside" in left_out[outside]
    assert "ground truth does not have it" in left_out["val/ILSVRC2012_val_00000003.JPEG"]
    assert not list(tmp_path.rglob("out.JPEG"))


def own(count=30):
    return {
        f"{name}/deep/{n}.jpg" if n == 3 else f"{name}/{n}.jpg": picture(n)
        for name in ("cat", "dog")
        for n in range(count)
    }


def test_own_class_folders_without_splits(tmp_path):
    files = {f"mine/{name}": data for name, data in own().items()}
    source = lay(tmp_path / "own", files | {"mine/stray.jpg": picture(), "mine/notes.txt": "x"})
    summary = builders.prepare("my_classes", source, tmp_path / "d")
    assert class_names(summary) == ["cat", "dog"]
    assert summary.splits.keys() == {"train", "validation"}
    train, validation = records(summary, "train"), records(summary, "validation")
    assert {**train, **validation} == {
        file: {"file": file, "image": data, "label": int(file.startswith("dog"))}
        for file, data in own().items()
    }
    assert ledger(summary) == {"stray.jpg": "it lies in no folder of a class"}
    more = lay(tmp_path / "more", own(60))
    again = builders.prepare("more_classes", more, tmp_path / "d")
    assert records(again, "validation").keys() & own().keys() == validation.keys()


def test_own_class_folders_with_splits(tmp_path):
    files = {
        "Train/cat/1.jpg": picture(1),
        "Train/dog/1.jpg": picture(2),
        "val/dog/1.jpg": picture(3)[:100],
        "val/dog/2.jpg": picture(3),
        "test/eel/1.png": PNG,
    }
    summary = builders.prepare("my_classes", lay(tmp_path / "own", files), tmp_path / "d")
    assert class_names(summary) == ["cat", "dog", "eel"]
    assert summary.splits == {
        "train": {"pictures": 2, "classes": 2},
        "validation": {"pictures": 1, "classes": 1},
        "test": {"pictures": 1, "classes": 1},
    }
    assert records(summary, "test")["test/eel/1.png"]["label"] == 2
    assert ledger(summary).keys() == {"val/dog/1.jpg"}
    assert summary.warnings == []


def test_one_folder_of_pictures_is_no_class(tmp_path):
    source = lay(tmp_path / "own", {"pictures/a.jpg": picture(), "pictures/b.jpg": picture()})
    with pytest.raises(UserError, match=r"nor pictures in a folder for each class \(2 pictures"):
        builders.prepare("my_classes", source, tmp_path / "d")


def test_captions_win_over_folders(tmp_path):
    source = lay(tmp_path / "own", own(3) | {"c.csv": "file,caption\ncat/1.jpg,x\ndog/1.jpg,y\n"})
    summary = builders.prepare("my_pictures", source, tmp_path / "d")
    assert sum(counts["captions"] for counts in summary.splits.values()) == 2


def test_real_mnist(real_data, tmp_path):
    summary = builders.prepare("mnist", real_data / "mnist", tmp_path)
    assert summary.warnings == []
    train = records(summary, "train")
    assert [train[f"train/{n:05d}.png"]["label"] for n in range(5)] == [5, 0, 4, 1, 9]
    counts = collections.Counter(record["label"] for record in train.values())
    assert [counts[n] for n in range(10)] == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    raw = gzip.decompress((real_data / "mnist/train-images-idx3-ubyte.gz").read_bytes())
    last = np.frombuffer(raw[-784:], np.uint8).reshape(28, 28)
    assert np.array_equal(decode(train["train/59999.png"]["image"])[..., 0], last)


def test_real_cifar10(real_data, tmp_path):
    summary = builders.prepare("cifar10", real_data / "cifar10", tmp_path)
    assert (summary.warnings, summary.left_out) == ([], 0)
    assert class_names(summary) == TEN
    counts = collections.Counter(record["label"] for record in records(summary, "test").values())
    assert counts == dict.fromkeys(range(10), 1000)
