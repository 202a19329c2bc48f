"""Data sources, prepared and own: random access, in workers too, and messages that help."""

import io
import json
import pickle
import shutil

import grain
import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds
from PIL import Image

from jaxtag import datasets
from jaxtag.data import sources
from jaxtag.data.labels import LabelNames
from jaxtag.data.pipeline import ExampleSpec, eval_batches, train_batches
from jaxtag.data.targets import ClassLabel, MultiHot
from jaxtag.data.transforms import CenterCrop, RandomResizedCrop, Resize
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


@pytest.mark.parametrize(
    "split", ["train", "train[3:8]", "validation+train", "train[:3]+train[6:]"]
)
def test_neighbors_are_read_in_ranges(folder, split):
    source = datasets.open_split("source_probe_labelled", split, folder)
    count = len(source)
    for start, stop in [(0, 2), (1, count), (count - 1, count)]:
        assert source.read_range(start, stop) == source.__getitems__(range(start, stop))
    assert source.first(2).read_range(0, 2) == source.read_range(0, 2)


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


@pytest.fixture
def own_copy(folder, tmp_path):
    """A copy of a data set, to damage, as its folder of data sets and its own."""
    copy = tmp_path / "source_probe" / "1.2.0"
    shutil.copytree(folder / "source_probe" / "1.2.0", copy)
    return tmp_path, copy


def test_damaged_records_are_told(own_copy):
    root, copy = own_copy
    path = next(copy.glob("*train*"))
    data = bytearray(path.read_bytes())
    data[1000:] = bytes(len(data) - 1000)
    path.write_bytes(data)
    source = datasets.open_split("source_probe", "train", root)
    for read in (lambda: source[0], lambda: list(source.iter_fields(["file"]))):
        with pytest.raises(UserError, match=r"source_probe.*cannot be read.*prepare the data"):
            read()


def test_records_of_another_description_are_told(own_copy):
    root, copy = own_copy
    description = json.loads((copy / "features.json").read_text())
    image = description["featuresDict"]["features"].pop("image")
    description["featuresDict"]["features"]["photo"] = image
    (copy / "features.json").write_text(json.dumps(description))
    source = datasets.open_split("source_probe", "train", root)
    with pytest.raises(UserError, match=r"not as features\.json describes it"):
        source[0]


def test_a_split_without_records_is_told(own_copy):
    root, copy = own_copy
    path = copy / "dataset_info.json"
    info = json.loads(path.read_text())
    for split in info["splits"]:
        split["shardLengths"] = ["0"]
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match="no records"):
        datasets.open_split("source_probe", "train", root)
    with pytest.raises(UserError, match="0 examples"):
        datasets.open_split("source_probe", "train[:1]", root)


def test_where_data_sets_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "named"))
    assert datasets.data_dir() == tmp_path / "named"
    assert datasets.data_dir(tmp_path) == tmp_path
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert datasets.data_dir().name == "tensorflow_datasets"


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
OWN = [
    {"image": PIXELS[i], "label": ("cat", "dog", "ant")[i % 3], "captions": [f"image {i}"]}
    for i in range(6)
]


class Own:
    """What a user writes: a length and records by their indices."""

    def __init__(self, records=OWN):
        self.records = records

    def __len__(self):
        return len(self.records)

    def __getitems__(self, indices):
        return [self.records[index] for index in indices]


class NamedOwn(Own):
    """The same, with names of its own for numbers."""

    def class_names(self, feature):
        return {"label": ["first", "second", "third"]}[feature]


FORMS = {
    "list": lambda: OWN,
    "object": Own,
    "map dataset": lambda: grain.MapDataset.source(OWN).map(lambda record: dict(record)),
}


@pytest.mark.parametrize("form", FORMS)
def test_own_records_in_any_form(form):
    source = sources.as_data_source(FORMS[form]())
    assert isinstance(source, sources.DataSource)
    assert len(source) == 6
    assert [r["captions"] for r in source.__getitems__(np.array([3, 0]))] == [
        ["image 3"],
        ["image 0"],
    ]
    assert source.class_names() == ["ant", "cat", "dog"]
    assert set(source.features) == {"image", "label", "captions"}
    names = LabelNames.from_source(source)
    assert sources.read_labels(source, names).tolist() == [1, 2, 0, 1, 2, 0]
    assert [x.tolist() for x in sources.indices_by_class(source, "label")] == [
        [2, 5],
        [0, 3],
        [1, 4],
    ]
    assert list(sources.iter_captions(source))[5] == ["image 5"]
    assert list(sources.iter_tags(source))[1] == ("1", ["dog"])
    assert sources.as_data_source(source) is source


@pytest.mark.parametrize("form", FORMS)
def test_the_first_records_of_own_ones(form):
    first = sources.as_data_source(FORMS[form]()).first(4)
    assert len(first) == 4 and len(first.first(9)) == 4
    assert list(sources.iter_captions(first)) == [[f"image {i}"] for i in range(4)]
    assert first.class_names() == ["ant", "cat", "dog"]
    assert first[1]["label"] == "dog"


def test_the_first_records_of_a_prepared_split(folder):
    source = datasets.open_split("source_probe_labelled", "train", folder)
    first = source.first(4)
    assert len(first) == 4
    assert list(sources.iter_captions(first)) == list(sources.iter_captions(source))[:4]
    assert (sources.read_labels(first) == sources.read_labels(source)[:4]).all()
    assert first.class_names() == source.class_names()


@pytest.mark.parametrize(("form", "num_workers"), [*((form, 0) for form in FORMS), ("object", 1)])
def test_own_records_as_batches(form, num_workers):
    source = sources.as_data_source(FORMS[form]())
    targets = {"label": ClassLabel(LabelNames.from_source(source))}
    options = {"example": ExampleSpec(Resize(8), targets), "batch_size": 3}
    batches = list(eval_batches(source, **options, num_workers=num_workers))
    np.testing.assert_array_equal(np.concatenate([b["image"] for b in batches]), PIXELS)
    assert np.concatenate([b["label"] for b in batches]).tolist() == [1, 2, 0, 1, 2, 0]
    assert all(batch["mask"].all() for batch in batches)
    training = train_batches(source, **options, seed=0)
    batch = next(training)
    training.close()
    np.testing.assert_array_equal(batch["image"], PIXELS[batch["index"]])


def test_arrays_are_resized_and_cropped_like_images_in_files():
    pixels = PIXELS[0].repeat(4, 0).repeat(4, 1)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    records = [{"image": pixels}, {"image": png.getvalue()}]
    for transform in (Resize(12), CenterCrop(12, 0.7), RandomResizedCrop(12)):
        (batch,) = eval_batches(Own(records), example=ExampleSpec(transform), batch_size=2)
        if transform.random:
            assert batch["image"].any((1, 2, 3)).all()
        else:
            np.testing.assert_array_equal(batch["image"][0], batch["image"][1])


def test_names_come_from_the_user_where_given():
    numbered = [record | {"label": i % 3} for i, record in enumerate(OWN)]
    assert sources.as_data_source(numbered).class_names() == ["0", "1", "2"]
    assert sources.as_data_source(NamedOwn(numbered)).class_names() == ["first", "second", "third"]
    source = sources.as_data_source(OWN, {"label": ["dog", "cat", "ant", "never"]})
    names = LabelNames.from_source(source)
    assert sources.read_labels(source, names).tolist() == [1, 0, 2, 1, 0, 2]


def test_tags_by_name_or_by_number():
    named = [
        {"image": PIXELS[0], "tags": ["sky", "sea"]},
        {"image": PIXELS[1], "tags": [], "unknown_tags": ["sun"]},
    ]
    source = sources.as_data_source(named)
    names = LabelNames.from_source(source, "tags")
    assert names.names == ("sea", "sky", "sun")
    numbered = [
        {"image": PIXELS[0], "tags": np.array([1, 0])},
        {"image": PIXELS[1], "tags": (), "unknown_tags": [2]},
    ]
    for records in (source, sources.as_data_source(numbered)):
        assert sources.tag_counts(records, names).tolist() == [1, 1, 0]
        tags, known = MultiHot("tags", names), MultiHot("unknown_tags", names, inverted=True)
        assert [tags(record, None).tolist() for record in records] == [[1, 1, 0], [0, 0, 0]]
        assert [known(record, None).tolist() for record in records] == [[1, 1, 1], [1, 1, 0]]
    with pytest.raises(UserError, match=r"no label is called 'see' \(did you mean sea"):
        MultiHot("tags", names)({"tags": ["see"]}, None)
    with pytest.raises(UserError, match="label 3 is none of the 3"):
        MultiHot("tags", names)({"tags": [3]}, None)
    with pytest.raises(UserError, match="a record has no 'tags'"):
        MultiHot("tags", names)({"image": b""}, None)


def test_values_of_tfds_become_those_of_python():
    record = {"image": PIXELS[0], "label": np.int64(2), "captions": np.array([b"\xc3\xbcn", b"x"])}
    assert sources.as_data_source([record])[0]["captions"] == ["ün", "x"]
    assert type(sources.as_data_source([record])[0]["label"]) is int


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (7, "int is no data source"),
        ("a folder", "str is no data source"),
        ({"image": []}, "dict is no data source"),
        ([{"picture": b""}], "record 0 of the data source list is a dict with picture"),
        ([(PIXELS[0], 1)], "record 0 of the data source list is a tuple"),
        ([{"image": PIXELS[0], "label": "a"}, {"image": PIXELS[0], "label": 1}], "by name and by"),
        ([{"image": PIXELS[0]}], "has no label .a record holds: image"),
    ],
)
def test_what_is_no_source_is_explained(records, message):
    with pytest.raises(UserError, match=message):
        sources.as_data_source(records).class_names()


@pytest.mark.parametrize("image", [PIXELS[0, ..., 0], PIXELS[0] / 255.0])
def test_arrays_of_another_kind_are_refused(image):
    with pytest.raises(UserError, match=r"give encoded bytes or a uint8 array \[H, W, 3\]"):
        list(eval_batches(Own([{"image": image}]), example=ExampleSpec(Resize(8)), batch_size=1))
