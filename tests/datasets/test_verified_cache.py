"""A preparation that was stopped goes on: what was found sound is not decoded again."""

import pytest
from labelled import lay, ledger, picture, records

from jaxtag import datasets
from jaxtag.datasets import verify, write
from jaxtag.datasets.verify import VerifiedCache


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
        stopped.setattr(write, "_put_in_place", lambda *_: 1 / 0)
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
