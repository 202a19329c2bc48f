"""A preparation that was stopped goes on: what was found sound is not decoded again."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from labelled import lay, ledger, picture, records
from PIL import Image

from jaxtag import datasets
from jaxtag.data.decode import decode
from jaxtag.data.image_reader import DecodeError
from jaxtag.datasets import verify, write
from jaxtag.datasets.base import ImageRecord
from jaxtag.datasets.verify import ImageVerifier, PrepareReport, VerifiedCache


@pytest.fixture
def decoded(monkeypatch):
    """The pictures that are decoded, as they come."""
    seen = []
    real = verify.decode
    monkeypatch.setattr(verify, "decode", lambda data: seen.append(data) or real(data))
    return seen


def own(tmp_path, count=8):
    table = "file,tags,split\n" + "".join(f"{n}.jpg,x,train\n" for n in range(count))
    files = {f"{n}.jpg": picture(10 * n) for n in range(count)} | {"3.jpg": picture()[:90]}
    return lay(tmp_path / "own", {"t.csv": table, **files})


def test_a_stopped_preparation_goes_on(tmp_path, monkeypatch, capsys, decoded):
    source, folder = own(tmp_path), tmp_path / "d/mine"
    with monkeypatch.context() as stopped:
        stopped.setattr(write, "put_in_place", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            datasets.prepare("mine", source, tmp_path / "d")
    assert len(decoded) == 8
    assert sorted(path.name for path in folder.iterdir()) == [".examined", ".lock"]
    decoded.clear()
    (source / "5.jpg").write_bytes(picture(200))  # changed since
    summary = datasets.prepare("mine", source, tmp_path / "d")
    assert decoded[0] in (picture(200), picture()[:90])
    assert len(decoded) == 2
    assert "going on: 7 images were verified before" in capsys.readouterr().err
    assert ledger(summary).keys() == {"3.jpg"}
    records_by_file = records(summary, "train")
    assert records_by_file.keys() == {f"{n}.jpg" for n in range(8)} - {"3.jpg"}
    assert records_by_file["5.jpg"]["image"] == picture(200)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "1.0.0"]
    decoded.clear()
    datasets.prepare("mine", source, tmp_path / "d", overwrite=True)
    assert len(decoded) == 8


def test_what_a_killed_process_wrote_counts_up_to_the_last_whole_digest(tmp_path):
    path = tmp_path / "list"
    digests = [VerifiedCache.digest(bytes([n])) for n in range(3)]
    path.write_bytes(b"".join(digests)[:-5])
    with VerifiedCache(path) as examined:
        assert [digest in examined for digest in digests] == [True, True, False]
        examined.add(digests[2])
        examined.add(digests[0])
    assert path.read_bytes() == b"".join(digests)


def test_it_is_written_on_the_way(tmp_path):
    path = tmp_path / "list"
    examined = VerifiedCache(path)
    for n in range(1000):
        examined.add(VerifiedCache.digest(str(n).encode()))
    assert len(VerifiedCache(path)) > 700  # though nobody closed the first
    examined.delete()
    assert not path.exists()


def test_what_is_appended_to_a_jpeg_does_not_change_how_it_is_judged():
    """libjpeg-turbo warns of some damage only where few bytes follow it."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=60)
    sound, num_hidden = buffer.getvalue(), 0
    for position in range(len(sound) - 200, len(sound) - 2):
        changed = sound[:position] + b"\xfe" + sound[position + 1 :]
        data = changed + b"\xff" * 20_000
        try:
            pixels = decode(data)
        except DecodeError:
            continue
        check = ImageVerifier(PrepareReport(), VerifiedCache(Path("absent")), num_threads=1)
        ((_, stored),) = check("train", [ImageRecord("x", lambda data=data: data)])
        np.testing.assert_array_equal(decode(stored), pixels)
        num_hidden += stored.startswith(b"\x89PNG")
    assert num_hidden


def test_contents_are_told_by_a_digest(tmp_path):
    """Other pictures, names or labels of as many bytes have another one; the same have the same."""
    files = {f"{label}/{n}.png": picture(9 * n, "BMP") for n in range(3) for label in ("a", "b")}
    kinds = {
        "same": files,
        "same again": files,
        "other pixels": files | {"a/1.png": picture(200, "BMP")},
        "other name": {n.replace("1", "7"): data for n, data in files.items()},
        "other class": {n.replace("a/2", "b/8"): data for n, data in files.items()},
    }
    digests = {}
    for number, (kind, content) in enumerate(kinds.items()):
        source = lay(tmp_path / str(number) / "src", content)
        summary = datasets.prepare("mine", source, tmp_path / str(number) / "d")
        stored = json.loads((summary.folder / "summary.json").read_text())["contents"]
        assert stored.keys() == summary.splits.keys()
        digests[kind] = stored["train"]
        source = datasets.open_split("mine", "train[:50%]", tmp_path / str(number) / "d")
        assert source.fingerprint()["contents"] == stored["train"]
    assert digests["same"] == digests["same again"]
    assert len(set(digests.values())) == 4
