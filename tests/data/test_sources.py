"""Prepared data sets: random access, in workers too, and messages that help where they fail."""

import pickle

import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds

from jaxtag import datasets
from jaxtag.data import sources
from jaxtag.errors import UserError

CAPTIONS = [[f"picture {i} ünï 🐶", "another one"][: i % 3] for i in range(9)]


def jpeg(number):
    return simplejpeg.encode_jpeg(np.full((8, 8, 3), number, np.uint8))


class SourceProbe(tfds.core.GeneratorBasedBuilder):
    """Records as the captioning builders store them."""

    VERSION = tfds.core.Version("1.2.0")
    EXTRA = ()

    def _info(self):
        text = tfds.features.Text()
        features = {
            "image": tfds.features.Image(),
            "file": text,
            "captions": tfds.features.Sequence(text),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features | dict(self.EXTRA))
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "validation": self._generate_examples(2)}

    def _generate_examples(self, count=9):
        for i in range(count):
            record = {"image": jpeg(i), "file": f"{i}.jpg", "captions": CAPTIONS[i]}
            yield i, record | {name: i for name, _ in self.EXTRA}


class SourceProbeLabelled(SourceProbe):
    """The same with classes."""

    EXTRA = (
        ("label", tfds.features.ClassLabel(names=[f"class {i}" for i in range(9)])),
        ("number", tfds.features.Scalar(np.int64)),
    )


class SourceProbeMixed(SourceProbeLabelled):
    """The same with a feature that only tfds knows how to read."""

    EXTRA = (*SourceProbeLabelled.EXTRA, ("weight", tfds.features.Scalar(np.float32)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    for builder in (SourceProbe, SourceProbeLabelled, SourceProbeMixed):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.mark.parametrize("dataset", ["source_probe", "source_probe_labelled", "source_probe_mixed"])
def test_records_are_read_by_index(folder, dataset):
    source = datasets.open_split(dataset, "train", folder)
    assert len(source) == 9
    records = source.__getitems__([4, 0, 4])
    assert records[0]["file"] == records[2]["file"] == source[4]["file"]
    for record in source.__getitems__(range(9)):
        number = int(record["file"].removesuffix(".jpg"))
        assert record["image"] == jpeg(number)
        assert record["captions"] == CAPTIONS[number]
        assert isinstance(record["captions"], list)
        if dataset != "source_probe":
            assert record["label"] == record["number"] == number
        if dataset == "source_probe_labelled":  # read directly, as plain numbers
            assert type(record["label"]) is type(record["number"]) is int
        if dataset == "source_probe_mixed":
            assert record["weight"] == number


def test_names_of_classes(folder):
    source = datasets.open_split("source_probe_labelled", "train", folder)
    assert source.class_names() == [f"class {i}" for i in range(9)]
    with pytest.raises(UserError, match=r"no class labels 'number' \(class labels: label"):
        source.class_names("number")
    with pytest.raises(UserError, match=r"no class labels 'label' \(class labels: none"):
        datasets.open_split("source_probe", "train", folder).class_names()


def test_it_pickles_as_an_address_also_when_open(folder):
    source = datasets.open_split("source_probe", "train", folder)
    record = source[3]
    data = pickle.dumps(source)
    assert len(data) < 1000
    assert pickle.loads(data)[3] == record


def test_captions_come_without_the_pictures(folder):
    source = datasets.open_split("source_probe", "train", folder)
    expected = [record["captions"] for record in source.__getitems__(range(9))]
    assert list(sources.iter_captions(source)) == expected
    assert sorted(expected) == sorted(CAPTIONS)


def test_versions_and_slices(folder):
    assert len(datasets.open_split("source_probe:1.2.0", "validation", folder)) == 2
    assert len(datasets.open_split("source_probe", "train[:4]", folder)) == 4
    with pytest.raises(UserError, match=r"holds 1\.2\.0"):
        datasets.open_split("source_probe:9.0.0", "train", folder)


def test_an_absent_data_set_says_how_to_get_it(folder):
    with pytest.raises(UserError) as error:
        datasets.open_split("coco_captions", "train", folder)
    message = str(error.value)
    assert "coco_captions is not prepared" in message
    assert str(folder) in message
    assert "jaxtag.prepare" in message
    assert "shapes_caption" in message


def test_an_absent_split_names_those_that_are_there(folder):
    with pytest.raises(UserError, match="train, validation"):
        datasets.open_split("source_probe", "test", folder)


@pytest.mark.parametrize("damage", ["shard", "features", "info"])
def test_damage_is_named(folder, tmp_path, damage):
    copy = tmp_path / "source_probe" / "1.2.0"
    copy.mkdir(parents=True)
    for file in (folder / "source_probe" / "1.2.0").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    if damage == "shard":
        next(copy.glob("*train*")).unlink()
    else:
        name = {"features": "features.json", "info": "dataset_info.json"}[damage]
        (copy / name).write_text('{"name": ')
    with pytest.raises(UserError, match="prepare"):
        datasets.open_split("source_probe", "train", tmp_path)


def test_where_data_sets_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "named"))
    assert datasets.data_dir() == tmp_path / "named"
    assert datasets.data_dir(tmp_path) == tmp_path
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert datasets.data_dir().name == "tensorflow_datasets"
