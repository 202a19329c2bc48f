"""Parquet and Arrow files as Hugging Face's `datasets` writes them."""

import json

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from labelled import lay, list_own, listed, picture, records

from jaxtag import datasets
from jaxtag.datasets import embedded_images
from jaxtag.errors import UserError

IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
CLASSES = {"names": ["dog", "red cat"], "_type": "ClassLabel"}


def table(first, count, features=None, paths=True, **columns):
    """A table of images with the schema that `datasets` keeps beside it."""
    images = [
        {"bytes": picture(first + n), "path": f"{n}.jpg" if paths else None} for n in range(count)
    ]
    columns = {"image": pyarrow.array(images, IMAGE), **columns}
    features = {"image": {"_type": "Image"}, **(features or {})}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pyarrow.table(columns).replace_schema_metadata(metadata)


def parquet(content, **options):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(content, sink, **options)
    return sink.getvalue().to_pybytes()


def stream(content):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, content.schema) as writer:
        writer.write_table(content, max_chunksize=2)
    return sink.getvalue().to_pybytes()


def test_parquet_with_classes(tmp_path):
    """https://huggingface.co/docs/datasets/image_dataset: data/train-00000-of-00002.parquet"""
    features = {"label": CLASSES}
    files = {
        "README.md": "---\ndataset_info: x\n---",
        "data/train-00000-of-00002.parquet": parquet(
            table(0, 40, features, label=[n % 2 for n in range(40)]), row_group_size=20
        ),
        "data/train-00001-of-00002.parquet": parquet(table(40, 2, features, False, label=[1, 0])),
        "data/test-00000-of-00001.parquet": parquet(table(50, 2, features, label=[-1, 1])),
    }
    source = lay(tmp_path / "own", files)
    summary = datasets.prepare("mine", source, tmp_path / "d")
    assert {split: counts["pictures"] for split, counts in summary.splits.items()} == {
        "train": 42 - summary.splits["validation"]["pictures"],
        "validation": summary.splits["validation"]["pictures"],
        "test": 1,
    }
    stored = records(summary, "train") | records(summary, "validation")
    names = datasets.open_split("mine", "train", tmp_path / "d").class_names("label")
    for n in range(40):
        record = stored[f"data/train-00000-of-00002/{n}.jpg"]
        assert names[record["label"]] == CLASSES["names"][n % 2]
        assert bytes(record["image"]) == picture(n)
    assert bytes(stored["data/train-00001-of-00002/00000000.jpg"]["image"]) == picture(40)


def test_parquet_with_captions_or_tags_and_rows_without_images(tmp_path):
    images = [{"bytes": picture(n), "path": None} for n in range(5)] + [None]
    columns = {"image": pyarrow.array(images, IMAGE), "text": ["A sea."] * 6}
    content = pyarrow.table({**columns, "objects": [{"category": [0]}] * 6})
    listing = list_own(lay(tmp_path / "a", {"mine.parquet": parquet(content)}))
    assert len(listed(listing)) == 5
    assert ("mine.parquet, row 5", "it has no image") in listing.problems
    features = {"tags": {"feature": CLASSES, "_type": "List"}}
    content = table(0, 3, features, tags=[[0, 1], [], [1]])
    listing = list_own(lay(tmp_path / "b", {"train.parquet": parquet(content)}))
    assert [value for _, _, value in sorted(listed(listing), key=lambda e: e[1])] == [
        ["dog", "red cat"],
        [],
        ["red cat"],
    ]
    both = table(0, 2, text=["a", "b"], label=[1, 0])
    with pytest.raises(UserError, match=r"--as=parquet:captions or --as=parquet:tags"):
        list_own(lay(tmp_path / "c", {"train.parquet": parquet(both)}))


def test_metadata_in_parquet(tmp_path):
    """https://huggingface.co/docs/datasets/image_dataset: metadata.parquet beside the images"""
    content = pyarrow.table({"file_name": ["a.jpg", "b.jpg"], "text": ["A sea.", "A dog."]})
    files = {"metadata.parquet": parquet(content), "a.jpg": picture(1), "b.jpg": picture(2)}
    listing = list_own(lay(tmp_path, files))
    assert listing.form.startswith("a Hugging Face imagefolder (metadata.parquet)")
    assert sorted(value for *_, value in listed(listing)) == [["A dog."], ["A sea."]]


def test_a_saved_dataset(tmp_path):
    """https://huggingface.co/docs/datasets/process#save"""
    files = {"dataset_dict.json": json.dumps({"splits": ["train", "validation"]})}
    for number, split in enumerate(("train", "validation")):
        content = table(10 * number, 5, {"label": CLASSES}, label=[0, 1, 0, 1, 1])
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": split}
        files |= {
            f"{split}/data-00000-of-00001.arrow": stream(content),
            f"{split}/cache-1f2e.arrow": b"x",
            f"{split}/state.json": json.dumps(state),
            f"{split}/dataset_info.json": json.dumps({"features": {}}),
        }
    source = lay(tmp_path / "own", files)
    listing = list_own(source)
    assert listing.form.startswith("a saved dataset of Hugging Face (train/data-00000-of-00001.ar")
    assert [value for *_, value in listed(listing)] == 2 * [
        ["dog"], ["red cat"], ["dog"], ["red cat"], ["red cat"]
    ]  # fmt: skip
    summary = datasets.prepare("mine", source, tmp_path / "d")
    stored = records(summary, "validation")
    assert bytes(stored["validation/data-00000-of-00001/3.jpg"]["image"]) == picture(13)


def test_a_saved_dataset_of_an_odd_split_or_damaged(tmp_path):
    content = table(0, 2, {"label": CLASSES}, label=[0, 1])
    source = lay(tmp_path / "a", {"unsupervised/data-0.arrow": stream(content)} | {
        "train/data-0.arrow": stream(content)
    })  # fmt: skip
    with pytest.raises(UserError, match="split 'unsupervised' is none of train, validation, test"):
        list_own(source)
    source = lay(tmp_path / "b", {"train/data-0.arrow": stream(content)[:-600]})
    with pytest.raises(UserError, match=r"data-0\.arrow: damaged, or of another kind"):
        list_own(source)
    source = lay(tmp_path / "c", {"train.parquet": parquet(content)[:-60]})
    with pytest.raises(UserError, match=r"train\.parquet: damaged, or of another kind"):
        list_own(source)


def test_bombs_in_parquet_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_images, "_FREE_GROWTH", 1 << 16)
    content = pyarrow.table({"image": [bytes(1 << 20)] * 4, "label": [1, 2, 1, 2]})
    files = {"train.parquet": parquet(content, use_dictionary=False, compression="zstd")}
    with pytest.raises(UserError, match="refused as a decompression bomb"):
        list_own(lay(tmp_path, files), "parquet")
    monkeypatch.setattr(embedded_images, "_MAX_GROUP_BYTES", 1 << 10)
    with pytest.raises(UserError, match=r"a row group has 0\.0 GB: write it with smaller ones"):
        list_own(tmp_path, "parquet")
