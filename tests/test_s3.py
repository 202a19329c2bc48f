"""Images, weights, indexes and outputs on S3, by moto's server.

Needs s3fs and moto, which are no part of the tests' environment: aiobotocore asks for an older
python-dateutil than `constraints.txt` pins. `pip install s3fs 'moto[s3]' flask flask-cors`.
"""

import json

import numpy as np
import pytest
from calling import call
from PIL import Image

from jaxtag.errors import UserError
from jaxtag.storage import atomic_file, transfer
from jaxtag.storage.growing_file import GrowingFile
from jaxtag.storage.paths import make_path
from jaxtag.weights import safetensors_io

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def s3():
    """A bucket that s3fs reaches."""
    import fsspec

    server = moto_server.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        make_path("s3://bucket/x")
        fsspec.filesystem("s3").mkdir("bucket")
        yield make_path("s3://bucket/folder")
    server.stop()


def test_files(s3):
    atomic_file.write_text(s3 / "a.json", "{}")
    assert (s3 / "a.json").read_text() == "{}"
    file = GrowingFile(s3 / "m.jsonl")
    file.write(b"1\n")
    file.close()
    assert set(transfer.list_objects(s3)) == {"a.json", "m.jsonl"}
    tensors = {"x": np.arange(3.0, dtype=np.float32)}
    safetensors_io.write(s3 / "w.safetensors", tensors, {})
    np.testing.assert_array_equal(safetensors_io.Tensors(s3 / "w.safetensors")["x"], tensors["x"])
    transfer.remove_folder(s3)
    assert not transfer.list_objects(s3)
    with pytest.raises(UserError, match="there is no bucket s3://none"):
        atomic_file.AtomicFile("s3://none/a.jsonl")


def test_images_and_an_index(s3, tmp_path):
    for number in range(4):
        Image.new("RGB", (20, 20), (60 * number, 10, 10)).save(tmp_path / f"{number}.png")
        transfer.upload(tmp_path / f"{number}.png", s3 / "photos" / f"{number}.png")
    index, photos = s3 / "index", s3 / "photos"
    done = call("index", "build", f"--index={index}", "--pixels=4", "--tag=red", photos)
    assert done.status == 0, done.err
    done = call("index", "search", f"--index={index}", f"{photos}/2.png")
    assert done.last["nearest"][0]["file"] in (f"{photos}/1.png", f"{photos}/3.png")
    done = call("annotate", f"--index={index}", f"--output={s3}/out.jsonl", f"{photos}/*.png")
    assert done.status == 0, done.err
    rows = [json.loads(line) for line in (s3 / "out.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == [f"{photos}/{n}.png" for n in range(4)]
    assert {row["tags"][0]["tag"] for row in rows} == {"red"}


def test_work_directories_and_data_sets_are_refused(s3):
    done = call("train", "--config=shapes_caption", f"--workdir={s3}/run")
    assert done.status == 2 and "Orbax writes and reads no checkpoints there" in done.err
    assert len(done.err.splitlines()) == 1
    done = call("prepare", "--dataset=shapes_captions", f"--data_dir={s3}/data")
    assert done.status == 2 and "ArrayRecord reads no records there" in done.err
    assert len(done.err.splitlines()) == 1
