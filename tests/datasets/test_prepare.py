"""Official layouts and users' own, malformed members included, through to the records."""

import io
import json
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxtag import datasets
from jaxtag.datasets.base import ImageRecord, hold_out
from jaxtag.datasets.strip_metadata import MetadataError, strip_jpeg
from jaxtag.errors import UsageError, UserError


def jpeg(shade=100, **save):
    rows = np.tile(np.arange(16, dtype=np.uint8) * 4, (8, 1)) + np.uint8(shade % 100)
    buffer = io.BytesIO()
    Image.fromarray(np.stack([rows] * 3, -1)).save(buffer, "JPEG", **save)
    return buffer.getvalue()


def lay(folder, files):
    """Writes {path: bytes, text or something for JSON} below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, str | bytes):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def coco_json(entries):
    """{id: (file name, captions)} in COCO's form."""
    return {
        "images": [{"id": key, "file_name": file} for key, (file, _) in entries.items()],
        "annotations": [
            {"image_id": key, "id": 1, "caption": caption}
            for key, (_, captions) in entries.items()
            for caption in captions
        ],
    }


def records(data_dir, dataset, split):
    """file -> record, read from the folder alone."""
    (version,) = (path for path in (data_dir / dataset).iterdir() if path.is_dir())
    reader = tfds.builder_from_directory(str(version))
    source = reader.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    return {record["file"].decode(): record for record in source}


def ledger(summary):
    lines = (summary.folder / "ledger.jsonl").read_text().splitlines()
    return {entry["file"]: entry["reason"] for entry in map(json.loads, lines)}


def coco_2017():
    train = {1: ("000000000001.jpg", ["a dog\n", "  the  dog "]), 2: ("000000000002.jpg", ["a"])}
    val = {3: ("000000000003.jpg", ["a cat"]), 4: ("000000000004.jpg", ["broken"])}
    return {
        "annotations/captions_train2017.json": coco_json(train),
        "annotations/captions_val2017.json": coco_json(val),
        "train2017/000000000001.jpg": jpeg(1),
        "val2017/000000000003.jpg": jpeg(3),
        "val2017/000000000004.jpg": jpeg(4)[:300],
        "test2017/000000000009.jpg": jpeg(9),
    }


@pytest.mark.parametrize("form", ["unpacked", "zips", "nested"])
def test_coco_2017(tmp_path, form):
    source = tmp_path / "coco"
    if form == "zips":
        source.mkdir()
        packed = {}
        for name, content in coco_2017().items():
            top = name.split("/")[0].replace("annotations", "annotations_trainval2017")
            packed.setdefault(top, {})[name] = content
        for top, files in packed.items():
            with zipfile.ZipFile(source / f"{top}.zip", "w") as archive:
                for name, content in files.items():
                    raw = content if isinstance(content, bytes) else json.dumps(content)
                    archive.writestr(name, raw)
    else:
        lay(source / ("deep/images" if form == "nested" else ""), coco_2017())
    summary = datasets.prepare("coco_captions", source, tmp_path / "data")
    assert summary.variant == "COCO 2017"
    assert summary.splits == {
        "train": {"pictures": 1, "captions": 2},
        "validation": {"pictures": 1, "captions": 1},
        "test": {"pictures": 1, "captions": 0},
    }
    left_out = ledger(summary)
    assert left_out.keys() == {"train2017/000000000002.jpg", "val2017/000000000004.jpg"}
    assert "missing" in left_out["train2017/000000000002.jpg"]
    assert (summary.left_out, summary.damaged) == (2, 1)
    (record,) = records(tmp_path / "data", "coco_captions", "train").values()
    assert record["image"] == jpeg(1)
    assert record["image_id"] == b"1"
    assert list(record["captions"]) == [b"a dog", b"the dog"]
    (record,) = records(tmp_path / "data", "coco_captions", "test").values()
    assert len(record["captions"]) == 0
    assert record["image_id"] == b"9"


def karpathy(*images):
    return {
        "images": [
            {
                "filepath": folder,
                "filename": f"COCO_{folder}_{number:012d}.jpg",
                "cocoid": number,
                "split": split,
                "sentences": [{"raw": f"caption of {number}", "tokens": []}],
            }
            for folder, number, split in images
        ],
        "dataset": "coco",
    }


def test_coco_karpathy_split_wins_and_finds_pictures_of_either_year(tmp_path):
    entries = [
        ("train2014", 1, "train"),
        ("val2014", 2, "restval"),
        ("val2014", 3, "val"),
        ("val2014", 4, "test"),
    ]
    files = {
        "dataset_coco.json": karpathy(*entries),
        "train2014/COCO_train2014_000000000001.jpg": jpeg(),
        "val2014/COCO_val2014_000000000002.jpg": jpeg(),
        "val2014/COCO_val2014_000000000003.jpg": jpeg(),
        "train2017/000000000004.jpg": jpeg(),
        "annotations/captions_train2017.json": coco_json({4: ("000000000004.jpg", ["x"])}),
    }
    source = lay(tmp_path / "coco", files)
    data = tmp_path / "data"
    summary = datasets.prepare("coco_captions", source, data)
    assert {split: n["pictures"] for split, n in summary.splits.items()} == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }
    assert summary.left_out == 0
    assert set(records(data, "coco_captions", "test")) == {"val2014/COCO_val2014_000000000004.jpg"}
    other = datasets.prepare("coco_captions_2017", source, data)
    assert other.splits == {"train": {"pictures": 1, "captions": 1}}
    with pytest.raises(UserError, match=r"captions_\{train,val\}2014(.|\n)*train2014\.zip"):
        datasets.prepare("coco_captions_2014", source, data)
    assert not (data / "coco_captions_2014").exists()


@pytest.mark.parametrize(
    "field",
    [{"cocoid": "x"}, {"cocoid": [1]}, {"cocoid": -1}, {"cocoid": 10**30}, {"cocoid": True},
     {"filename": 3}, {"filepath": []}, {"sentences": [{"raw": {}}]}, {"sentences": [{"raw": 5}]}],
)  # fmt: skip
def test_a_split_file_of_karpathy_with_values_of_other_kinds_is_refused(tmp_path, field):
    content = karpathy(("train2014", 1, "train"))
    content["images"][0] |= field
    files = {"dataset_coco.json": content, "train2014/COCO_train2014_000000000001.jpg": jpeg()}
    with pytest.raises(UserError, match=r"dataset_coco\.json is not a split file of Karpathy"):
        datasets.prepare("coco_captions", lay(tmp_path / "coco", files), tmp_path / "data")


def test_flickr8k_official_files_with_their_faults(tmp_path):
    tokens = (
        "1_a.jpg#0\tA dog .\n1_a.jpg#1\tThe dog .\n2_b.jpg#0\tA cat .\n"
        "3_c.jpg.1#0\tmalformed name\n4_d.jpg#0\tin no list\n5_e.jpg#0\tno picture\n"
    )
    files = {
        "Flickr8k_text/Flickr8k.token.txt": tokens,
        "Flickr8k_text/Flickr_8k.trainImages.txt": "1_a.jpg\n5_e.jpg\n",
        "Flickr8k_text/Flickr_8k.devImages.txt": "2_b.jpg\n",
        "Flicker8k_Dataset/1_a.jpg": jpeg(1),
        "Flicker8k_Dataset/2_b.jpg": jpeg(2),
    }
    summary = datasets.prepare("flickr8k_captions", lay(tmp_path / "f", files), tmp_path / "d")
    assert summary.splits == {
        "train": {"pictures": 1, "captions": 2},
        "validation": {"pictures": 1, "captions": 1},
    }
    left_out = ledger(summary)
    assert len(left_out) == 3
    assert "malformed" in left_out["Flickr8k_text/Flickr8k.token.txt, line 4"]
    assert "no list" in left_out["4_d.jpg"]
    assert "missing" in left_out["5_e.jpg"]
    (record,) = records(tmp_path / "d", "flickr8k_captions", "train").values()
    assert record["image_id"] == b"1_a"


def test_flickr8k_in_cocos_form(tmp_path):
    files = {
        "captions_flickr8k_train.json": coco_json({7: ("1_a.jpg", ["x"])}),
        "captions_flickr8k_val.json": coco_json({8: ("2_b.jpg", ["y"])}),
        "Flicker8k_Dataset/1_a.jpg": jpeg(1),
        "Flicker8k_Dataset/2_b.jpg": jpeg(2),
    }
    summary = datasets.prepare("flickr8k_captions", lay(tmp_path / "f", files), tmp_path / "d")
    assert {split: n["pictures"] for split, n in summary.splits.items()} == {
        "train": 1,
        "validation": 1,
    }


CSV = 'file,caption,split\na.jpg,A dog,train\na.jpg,"A dog, running",train\nb.jpg,A cat,val\n'
OWN = {
    "captions.csv": CSV,
    "captions.tsv": "image\ttext\tsplit\na.jpg\tA dog\ttrain\na.jpg\tA dog, running\ttrain\n"
    "b.jpg\tA cat\tval\n",
    "semicolons.csv": CSV.replace(",", ";").replace("dog; running", "dog, running"),
    "captions.jsonl": '{"file_name": "./sub\\\\a.jpg", "captions": ["A dog", "A dog, running"]}\n\n'
    '{"path": "b.jpg", "caption": "A cat", "split": "dev"}\n',
    "captions.json": [
        {"file": "a.jpg", "captions": ["A dog", "A dog, running"], "split": "training"},
        {"file": "b.jpg", "caption": "A cat", "split": "validation"},
    ],
}


@pytest.mark.parametrize("table", OWN)
def test_own_data_in_each_form(tmp_path, table):
    files = {table: OWN[table], "sub/a.jpg": jpeg(1), "sub/deeper/b.jpg": jpeg(2)}
    summary = datasets.prepare("my_pictures", lay(tmp_path / "own", files), tmp_path / "d")
    assert summary.splits == {
        "train": {"pictures": 1, "captions": 2},
        "validation": {"pictures": 1, "captions": 1},
    }
    assert summary.left_out == 0
    (record,) = records(tmp_path / "d", "my_pictures", "train").values()
    assert list(record["captions"]) == [b"A dog", b"A dog, running"]


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        (
            "c.csv",
            "fiel,caption\na.jpg,x\n",
            r"c\.csv: no column 'file'.*'fiel' \(did you mean 'file",
        ),
        ("c.csv", "file,captoin\na.jpg,x\n", r"'captoin' \(did you mean 'caption'"),
        (
            "c.csv",
            "file,caption\na.jpg,x\na.jpg,y, z\n",
            r"c\.csv, line 3: 3 fields.*double quotes",
        ),
        ("c.csv", 'file,caption\na.jpg,"x\n', r"c\.csv, line 2"),
        ("c.csv", b"file,caption\na.jpg,caf\xe9\n", r"c\.csv, line 2: not UTF-8"),
        ("c.csv", "file,caption,split\na.jpg,x,trian\n", r"line 2: split 'trian'"),
        ("c.csv", "file,caption,split\na.jpg,x,train\na.jpg,y,val\n", r"line 3: a\.jpg.*line 2"),
        ("c.csv", "", r"c\.csv: no column 'file'; there is nothing"),
        ("c.jsonl", '{"file": "a.jpg", "caption": "x"}\n{oops\n', r"c\.jsonl, line 2: no JSON"),
        ("c.jsonl", '{"file": "a.jpg", "caption": 3}\n', r"c\.jsonl, line 1.*caption"),
        ("c.json", '{\n"images": [\n', r"c\.json, line 3: no JSON"),
        ("c.json", {"pictures": []}, r'c\.json: not in COCO.s form: it has no "images"'),
        ("c.json", {"images": [{"id": 1}]}, r"c\.json: images\[0\]"),
        ("c.csv", "file,caption\nnowhere.jpg,x\n", r"not one image(.|\n)*nowhere\.jpg.*missing"),
        ("c.csv", "file,caption\nsame.jpg,x\n", r"line 2: same\.jpg may be p/same\.jpg or q/same"),
    ],
)
def test_mistakes_in_own_data_name_file_line_and_column(tmp_path, table, content, message):
    files = {table: content, "a.jpg": jpeg(), "p/same.jpg": jpeg(), "q/same.jpg": jpeg()}
    with pytest.raises(UserError, match=message):
        datasets.prepare("my_pictures", lay(tmp_path / "own", files), tmp_path / "d")
    assert not list((tmp_path / "d").glob("my_pictures/[!.]*"))


def test_own_data_without_or_with_too_many_caption_files(tmp_path):
    source = lay(tmp_path / "own", {"a.jpg": jpeg()})
    with pytest.raises(UserError, match=r"no file of captions or tags.*1 images"):
        datasets.prepare("my_pictures", source, tmp_path / "d")
    table = "file,caption\na.jpg,x\n"
    lay(source, {"one.csv": table, "two.csv": table})
    with pytest.raises(UserError, match=r"one\.csv, two\.csv.*--source=FILE"):
        datasets.prepare("my_pictures", source, tmp_path / "d")
    summary = datasets.prepare("my_pictures", source / "two.csv", tmp_path / "d")
    assert summary.splits["train"]["pictures"] == 1


def test_a_zip_of_own_data(tmp_path):
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        archive.writestr("mine/captions.csv", "file,caption\na.jpg,x\nb.jpg,y\n")
        archive.writestr("mine/pictures/a.jpg", jpeg(1))
        archive.writestr("mine/pictures/b.jpg", jpeg(2))
    summary = datasets.prepare("my_pictures", tmp_path / "own.zip", tmp_path / "d")
    assert {split: n["pictures"] for split, n in summary.splits.items()} == {
        "train": 1,
        "validation": 1,
    }


def test_held_out_pictures_stay_when_others_come():
    def pictures(count):
        return [ImageRecord(f"{n}.jpg", bytes) for n in range(count)]

    few, many = hold_out(pictures(200)), hold_out(pictures(2000))
    assert 140 <= len(many["validation"]) <= 260
    first = {picture.file for picture in few["validation"]}
    held_out_below_200 = {p.file for p in many["validation"] if int(p.file[:-4]) < 200}
    assert first == held_out_below_200
    assert len(many["train"]) + len(many["validation"]) == 2000
    for count in (2, 3):
        assert all(hold_out(pictures(count)).values())


def with_metadata(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825)[1] = "N"
    return jpeg(50, exif=exif.tobytes(), comment=b"SecretNote", quality=90)


@pytest.mark.parametrize("orientation", [1, 6])
def test_metadata_go_and_pixels_stay(orientation):
    data = with_metadata(orientation) + b"SecretTrailer"
    xmp = b"http://ns.adobe.com/xap/1.0/\0SecretXmp"
    data = data[:2] + b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp + data[2:]
    stripped = strip_jpeg(data)
    assert b"Secret" not in stripped
    before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(stripped))
    assert np.array_equal(np.asarray(before), np.asarray(after))
    assert after.getexif().get(0x0112, 1) == orientation
    assert set(after.getexif()) <= {0x0112}
    assert strip_jpeg(stripped) == stripped or orientation != 1


def test_what_has_no_metadata_is_untouched():
    plain = jpeg()
    assert strip_jpeg(plain) is plain
    assert strip_jpeg(b"\x89PNG whatever") == b"\x89PNG whatever"
    with pytest.raises(MetadataError):
        strip_jpeg(plain[:30])
    progressive = jpeg(3, progressive=True, comment=b"x")  # several scans
    pixels = [np.asarray(Image.open(io.BytesIO(d))) for d in (progressive, strip_jpeg(progressive))]
    assert np.array_equal(*pixels)


@pytest.mark.parametrize("keep", [False, True])
def test_prepare_strips_metadata_unless_told(tmp_path, keep):
    files = {"c.csv": "file,caption,split\na.jpg,x,train\n", "a.jpg": with_metadata(6)}
    source = lay(tmp_path / "own", files)
    datasets.prepare("mine", source, tmp_path / "d", keep_exif=keep)
    (record,) = records(tmp_path / "d", "mine", "train").values()
    assert (b"Secret" in record["image"]) is keep


def test_names_and_sources_are_checked(tmp_path):
    for name in ("My-Pictures", "1x", "", "a/b", "../x"):
        with pytest.raises(UsageError):
            datasets.prepare(name, tmp_path, tmp_path / "d")
    with pytest.raises(UsageError, match="--source"):
        datasets.prepare("coco_captions", None, tmp_path / "d")
    with pytest.raises(UsageError, match="no --source"):
        datasets.prepare("shapes_captions", tmp_path, tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("dataset", [*datasets.NAMES, "my_pictures"])
def test_how_to_get_ends_in_the_command_that_prepares(dataset):
    text = datasets.download_instructions(dataset, "DATA")
    assert f"python -m jaxtag.prepare --dataset={dataset}" in text
    assert "--data_dir=DATA" in text
    assert "{" not in text
    if dataset != "shapes_captions":
        assert "--config=shapes_caption" in text.splitlines()[0]


def test_real_coco_and_flickr8k(real_data, tmp_path):
    summary = datasets.prepare("coco_captions", real_data / "coco_mini", tmp_path)
    assert summary.splits == {
        "train": {"pictures": 80, "captions": 400},
        "validation": {"pictures": 79, "captions": 395},
        "test": {"pictures": 80, "captions": 0},
    }
    assert summary.left_out == 0
    table = real_data / "flickr8k" / "captions_flickr8k_val.json"
    own = datasets.prepare("flickr_dev", table, tmp_path)
    assert sum(counts["pictures"] for counts in own.splits.values()) == 1000
    with datasets.builder_class("flickr8k_captions").open_listing(
        real_data / "flickr8k"
    ) as listing:
        assert {split: len(images) for split, images in listing.splits.items()} == {
            "train": 6000,
            "validation": 1000,
        }
        assert len(listing.problems) == 93
