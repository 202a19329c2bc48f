"""MNIST, CIFAR-10 and CIFAR-100: official layouts, malformed files, to the records."""

import collections
import gzip
import io
import os
import pickle
import struct
from typing import ClassVar

import numpy as np
import pytest
from labelled import class_names, lay, packed, picture, records
from PIL import Image

from jaxtag import datasets
from jaxtag.data.decode import decode
from jaxtag.errors import UserError

RNG = np.random.default_rng(0)


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
    summary = datasets.prepare("mnist", lay(tmp_path / "mnist", files), tmp_path / "d")
    assert summary.splits == {
        "train": {"pictures": 7, "classes": 6},
        "test": {"pictures": 3, "classes": 3},
    }
    assert "train has 7 images; 60,000 were published" in str(summary)
    assert sum("is not as it was published: its MD5" in one for one in summary.warnings) == 4
    records_by_file = records(summary, "train")
    assert records_by_file["train/00000.png"].keys() == {"image", "file", "label"}
    assert class_names(summary) == list("0123456789")
    for number in range(7):
        record = records_by_file[f"train/{number:05d}.png"]
        assert record["label"] == NUMBERS[number]
        assert np.array_equal(decode(record["image"])[..., 1], DIGITS[number])
        assert Image.open(io.BytesIO(record["image"])).mode == "L"


ANY_LABELS = "train-labels-idx1-ubyte"
ANY_IMAGES = "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (ANY_IMAGES, idx(DIGITS)[:-1], r"7 x 28 x 28 bytes, but there are 5,487"),
        (ANY_IMAGES, idx(DIGITS) + b"x", r"but there are 5,489"),
        (ANY_IMAGES, b"\0\0\x08", r"cut short \(3 bytes\)"),
        (ANY_IMAGES, idx(DIGITS[0]), r"starts with 0x00000802 instead of 0x00000803"),
        (ANY_IMAGES, idx(DIGITS[:0]), "is empty"),
        (ANY_IMAGES, idx(DIGITS[:6]), "has 6 images, but .*labels-idx1-ubyte has 7 labels"),
        (ANY_IMAGES, gzip.compress(idx(DIGITS))[:-20], "cut short"),
        (ANY_IMAGES, gzip.compress(idx(DIGITS))[:20] + bytes(90), "damaged|cut short"),
        (ANY_LABELS, idx(NUMBERS + 1), r"label 10 \(number 4\) is no digit"),
        (ANY_LABELS, None, r"has no train-labels-idx1-ubyte(.|\n)*wget"),
    ],
)
def test_malformed_mnist(tmp_path, name, content, message):
    files = mnist() | {name: content}
    source = lay(tmp_path / "m", {name: data for name, data in files.items() if data is not None})
    with pytest.raises(UserError, match=message):
        datasets.prepare("mnist", source, tmp_path / "d")
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
    summary = datasets.prepare("cifar10", source, tmp_path / "d")
    assert {split: n["pictures"] for split, n in summary.splits.items()} == {"train": 10, "test": 2}
    assert class_names(summary) == TEN
    records_by_file = {**records(summary, "train"), **records(summary, "test")}
    for number in range(12):
        file = f"train/{number:05d}.png" if number < 10 else f"test/{number - 10:05d}.png"
        assert records_by_file[file]["label"] == KINDS[number]
        red, green, blue = ROWS[number].reshape(3, 32, 32)
        assert np.array_equal(
            decode(records_by_file[file]["image"]), np.stack([red, green, blue], -1)
        )


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
    summary = datasets.prepare("cifar100", folder.parent, tmp_path / "d")
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
    ("name", "content", "message"),
    [
        ("data_batch_2", batch(labels=Call(os.system, "touch ran")), r"names (posix|nt)\.system"),
        ("data_batch_2", batch(extra=Call(eval, "open('ran', 'w')")), "names .*eval"),
        ("data_batch_2", batch(data=ROWS[:2].astype(np.int16)), "array of 'i2'"),
        ("data_batch_2", batch(data=np.array([None])), "array of 'O8'"),
        ("data_batch_2", batch(data=ROWS[:2, :99]), "3,072 values an image"),
        ("data_batch_2", batch(labels=[1]), "no list 'labels' with a number an image"),
        ("data_batch_2", batch(labels=[1, "2"]), "no list 'labels' with a number an image"),
        ("data_batch_2", batch(labels=[1, 10]), "label 10 of image 1 is none of the 10"),
        ("data_batch_2", batch(labels=[-1, 1]), "label -1 of image 0 is none of the 10"),
        ("data_batch_2", CHANGED_NAME, "damaged pickle"),
        ("data_batch_2", b"c" + b"x" * 9000 + b"\ny\n.", r"names x{80}\.y, which .{,200}$"),
        ("data_batch_2", batch(labels=SHARED), "no list 'labels' with a number an image"),
        ("data_batch_2", batch()[:500], "damaged pickle"),
        ("data_batch_2", python2([1]), "no pickled dictionary"),
        ("data_batch_2", None, "has no data_batch_2"),
        ("batches.meta", python2({"label_names": [*TEN[:9], "bird"]}), "'bird' occurs twice"),
        ("batches.meta", python2({"names": TEN}), "no list of names 'label_names'"),
    ],
)
def test_malformed_pickles(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    files = cifar10_python() | {f"cifar-10-batches-py/{name}": content}
    source = lay(tmp_path / "c", {name: data for name, data in files.items() if data is not None})
    with pytest.raises(UserError, match=message):
        datasets.prepare("cifar10", source, tmp_path / "d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]  # nothing ran or was written


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_3.bin", bytes(3073 * 2 - 1), "has 6,145 bytes, .* records of 3,073"),
        ("data_batch_3.bin", b"", "has 0 bytes"),
        ("data_batch_3.bin", bytes(3073) + b"\x0a" + bytes(3072), "label 10 of image 1"),
        ("data_batch_3.bin", None, r"has no data_batch_3\.bin(.|\n)*wget"),
        ("batches.meta.txt", None, r"has no batches\.meta\.txt"),
    ],
)
def test_malformed_binary_files(tmp_path, name, content, message):
    files = cifar10_binary() | {f"cifar-10-batches-bin/{name}": content}
    source = lay(tmp_path / "c", {name: data for name, data in files.items() if data is not None})
    with pytest.raises(UserError, match=message):
        datasets.prepare("cifar10", source, tmp_path / "d")


def test_cifar10_in_class_folders_keeps_the_files(tmp_path):
    files = {
        f"cifar10/{split}/{name}/0000.jpg": picture(n)
        for split in ("train", "test")
        for n, name in enumerate(TEN)
    }
    source = lay(tmp_path / "c", {"cifar10-jpeg.tar.gz": packed(files, "w:gz")})
    summary = datasets.prepare("cifar10", source, tmp_path / "d")
    record = records(summary, "train")["train/bird/0000.jpg"]
    assert record == {"image": picture(2), "file": "train/bird/0000.jpg", "label": 2}
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="no cifar10"):
        datasets.prepare("cifar10", tmp_path / "other", tmp_path / "d", overwrite=True)


# Listed by number as in the development kit, which is not the order of the names.


@pytest.mark.slow
def test_real_mnist(real_data, tmp_path):
    summary = datasets.prepare("mnist", real_data / "mnist", tmp_path)
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


@pytest.mark.slow
def test_real_cifar10(real_data, tmp_path):
    summary = datasets.prepare("cifar10", real_data / "cifar10", tmp_path)
    assert (summary.warnings, summary.left_out) == ([], 0)
    assert class_names(summary) == TEN
    counts = collections.Counter(record["label"] for record in records(summary, "test").values())
    assert counts == dict.fromkeys(range(10), 1000)
