"""Columns beside the records: the same fields, without reading an image."""

import shutil

import numpy as np
import pyarrow.parquet
import pytest
import simplejpeg
import tensorflow_datasets as tfds

from jaxtag.data import columns, sources
from jaxtag.data.sources import PreparedSource
from jaxtag.errors import UserError

COUNT = 11


class ColumnsProbe(tfds.core.GeneratorBasedBuilder):
    """Records with a field of each kind, the first ones without captions or tags."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        label = tfds.features.ClassLabel(names=["a", "b", "c"])
        features = {
            "image": tfds.features.Image(),
            "file": text,
            "captions": tfds.features.Sequence(text),
            "tags": tfds.features.Sequence(label),
            "label": label,
            "score": tfds.features.Scalar(np.float32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(COUNT), "test": self._generate_examples(4)}

    def _generate_examples(self, count):
        image = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))
        for i in range(count):
            fields = {"captions": [f"ünï {i}", "🐶"][: i % 3], "tags": [0, 2][: i % 3]}
            yield i, {"image": image, "file": f"{i}.jpg", "label": i % 3, "score": i, **fields}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    tfds.disable_progress_bar()
    builder = ColumnsProbe(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    config = tfds.download.DownloadConfig(num_shards=3)
    builder.download_and_prepare(download_config=config)
    return builder.data_path


@pytest.fixture(scope="module")
def folder(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns") / "1.0.0"
    shutil.copytree(plain, folder)
    columns.write_columns(folder)
    return folder


@pytest.mark.parametrize("split", ["train", "train[2:9]", "test+train[:4]"])
def test_columns_hold_what_the_records_hold(plain, folder, split):
    expected, source = PreparedSource(plain, split), PreparedSource(folder, split)
    fields = ["captions", "tags", "label", "file"]
    rows = list(source.iter_fields(fields))
    assert rows == list(expected.iter_fields(fields))
    assert list(rows[0]) == fields
    assert list(source.first(2).iter_fields(["label"])) == [{"label": r["label"]} for r in rows[:2]]


def test_no_record_is_read_where_there_are_columns(folder, plain, monkeypatch):
    expected = list(sources.iter_captions(PreparedSource(plain, "train")))
    source = PreparedSource(folder, "train")
    records = type(source._open()[0])
    monkeypatch.setattr(records, "__getitems__", lambda *_: pytest.fail("records were read"))
    assert list(sources.iter_captions(source)) == expected
    assert sources.tag_counts(source, 3).tolist() == [7, 0, 3]
    assert sources.read_labels(source).tolist() == [
        r["label"] for r in source.iter_fields(["label"])
    ]


def test_fields_without_a_column_are_read_from_the_records(plain, folder):
    rows = list(PreparedSource(folder, "train").iter_fields(["score", "label"]))
    records = PreparedSource(plain, "train").__getitems__(range(COUNT))
    assert [row["score"] for row in rows] == [record["score"] for record in records]


def test_a_shard_without_its_columns_is_read_from_the_records(plain, folder, tmp_path):
    copy = tmp_path / "1.0.0"
    shutil.copytree(folder, copy)
    next((copy / "columns").glob("*train*1-of*")).unlink()
    rows = list(PreparedSource(copy, "train").iter_fields(["label"]))
    assert rows == list(PreparedSource(plain, "train").iter_fields(["label"]))


def test_a_file_beside_each_shard(folder):
    names = sorted(path.name for path in (folder / "columns").iterdir())
    assert len(names) == 6 and names[3].endswith("train.array_record-00000-of-00003.parquet")
    schema = pyarrow.parquet.read_schema(folder / "columns" / names[3])
    assert sorted(schema.names) == ["captions", "file", "label", "tags"]


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_damaged_columns_are_one_line_that_names_the_file(folder, tmp_path, damage):
    copy = tmp_path / "1.0.0"
    shutil.copytree(folder, copy)
    for path in (copy / "columns").iterdir():
        data = path.read_bytes()
        footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        cut, overwritten = data[:-9], data[:4] + b"x" * (footer - 4) + data[footer:]
        path.write_bytes(cut if damage == "cut" else overwritten)
    with pytest.raises(UserError, match=r"\.parquet: damaged, or of another kind: .*; delete"):
        list(PreparedSource(copy, "test").iter_fields(["captions"]))
