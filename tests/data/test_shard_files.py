"""Tars of WebDataset and Parquet files read where they lie: records, labels, exact resumption."""

import io
import json
import pickle
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import simplejpeg

from jaxtag.config.schema import DataConfig
from jaxtag.data import sources
from jaxtag.data.pipeline import ExampleSpec, train_batches
from jaxtag.data.samplers import BlockShuffleSampler
from jaxtag.data.shard_files import open_shard_files
from jaxtag.data.targets import ClassLabel
from jaxtag.data.transforms import Resize
from jaxtag.errors import UserError
from jaxtag.training import run_data

COUNT = 10


def image(number):
    return simplejpeg.encode_jpeg(np.full((8, 8, 3), 20 * number, np.uint8))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def tars(tmp_path):
    """Two tars with classes, the second with captions in JSON too."""
    members = [
        (f"ü/{n:03}.{ending}", data)
        for n in range(COUNT)
        for ending, data in [("jpg", image(n)), ("cls", str(n % 3).encode()), ("seg.bin", b"x")]
    ]
    write_tar(tmp_path / "train-0.tar", members[: 3 * 6])
    caption = json.dumps({"caption": "a field", "url": "…"}).encode()
    write_tar(tmp_path / "train-1.tar", [*members[3 * 6 :], ("ü/009.json", caption)])
    return f"tar:{tmp_path}/{{split}}-*.tar"


@pytest.fixture
def parquet(tmp_path):
    """Two files with row groups of 3, described as Hugging Face's data sets are."""
    info = {"info": {"features": {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}
    schema = pyarrow.schema(
        [
            ("image", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])),
            ("label", pyarrow.int64()),
            ("text", pyarrow.string()),
        ],
        metadata={"huggingface": json.dumps(info)},
    )
    rows = [
        {"image": {"bytes": image(n), "path": None}, "label": n % 3, "text": f"number {n}"}
        for n in range(COUNT)
    ]
    for number, part in enumerate((rows[:6], rows[6:])):
        table = pyarrow.Table.from_pylist(part, schema)
        path = tmp_path / f"train-{number}.parquet"
        pyarrow.parquet.write_table(table, path, row_group_size=3)
    return f"parquet:{tmp_path}/{{split}}-*.parquet"


@pytest.fixture(params=["tars", "parquet"])
def dataset(request):
    return request.getfixturevalue(request.param)


def test_records_are_read_by_number(dataset):
    source = open_shard_files(dataset, "train")
    assert len(source) == COUNT
    records = source.__getitems__([9, 0, 6, 5])
    assert [record["label"] for record in records] == [0, 0, 0, 2]
    assert [record["image"] for record in records] == [image(n) for n in (9, 0, 6, 5)]
    assert source.read_range(4, 8) == source.__getitems__(range(4, 8))
    copy = pickle.loads(pickle.dumps(source))
    assert copy[7] == source[7]


def test_labels_and_captions_are_read_without_images(dataset, monkeypatch):
    source = open_shard_files(dataset, "train")
    assert sources.read_labels(source).tolist() == [n % 3 for n in range(COUNT)]
    assert "image" not in next(source.iter_fields(["label"]))
    if dataset.startswith("tar"):
        assert source[9]["captions"] == ["a field"]
        assert source.class_names() == ["0", "1", "2"]
        with pytest.raises(UserError, match=r"train-0\.tar/ü/000 of .* has no captions"):
            list(sources.iter_captions(source))
    else:
        assert list(sources.iter_captions(source))[7] == ["number 7"]
        assert source.class_names() == source.declared_names("label") == ["a", "b", "c"]


@pytest.mark.parametrize("blocks", [False, True])
def test_training_batches_resume_exactly(dataset, blocks):
    source, example = (
        open_shard_files(dataset, "train"),
        ExampleSpec(Resize(8), {"label": ClassLabel()}),
    )

    def batches():
        sampler = BlockShuffleSampler(COUNT, batch_size=4, block_size=2, buffer_size=8, seed=1)
        sampler = sampler if blocks else None
        return train_batches(source, example=example, batch_size=4, seed=1, sampler=sampler)

    iterator = batches()
    expected = [next(iterator) for _ in range(5)]
    iterator.close()
    for batch in expected:
        np.testing.assert_array_equal(batch["label"], batch["index"] % 3)
        np.testing.assert_allclose(batch["image"][:, 0, 0, 0], 20 * batch["index"], atol=2)
    resumed = batches()
    resumed.set_state({"batches": 4})
    np.testing.assert_array_equal(next(resumed)["index"], expected[4]["index"])
    resumed.close()


def test_the_index_of_a_tar_is_kept_until_it_changes(tars, tmp_path, cache, monkeypatch):
    open_shard_files(tars, "train")
    assert len(list((cache / "jaxtag/tar").iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", lambda *_: pytest.fail("scanned again"))
        assert len(open_shard_files(tars, "train")) == COUNT
    before = open_shard_files(tars, "train").fingerprint()
    write_tar(tmp_path / "train-1.tar", [("a.jpg", image(3)), ("a.cls", b"dog")])
    changed = open_shard_files(tars, "train")
    assert len(changed) == 7 and changed[6]["label"] == "dog"
    assert changed.fingerprint() != before


def test_mistakes_are_one_line(tmp_path, tars, parquet):
    with pytest.raises(UserError, match=r"no file matches for 'test'"):
        run_data.open_or_prepare(DataConfig(dataset=tars, train_split="test"))
    (tmp_path / "train-0.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"train-0\.parquet: damaged, or of another kind"):
        open_shard_files(parquet, "train")
    (tmp_path / "train-0.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"train-0\.tar cannot be read as a tar"):
        open_shard_files(tars, "train")
    write_tar(tmp_path / "empty.tar", [("a.txt", b"x")])
    with pytest.raises(UserError, match="hold no images"):
        open_shard_files(f"tar:{tmp_path}/empty.tar", "train")
    assert open_shard_files("coco_captions", "train") is None
    assert open_shard_files("my.module:Name", "train") is None
