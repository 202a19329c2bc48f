"""Folders, zips and tars read alike, and nothing in them can do harm."""

import io
import os
import tarfile
import zipfile

import pytest

from jaxtag.datasets import archives
from jaxtag.datasets.archives import ReadError
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import UserError

FILES = {"top.txt": b"top", "a/b/c.jpg": b"picture", "a/ünï code.txt": "ü".encode()}


def fill_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def fill_tar(path, files, mode):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_every_form_reads_alike(tmp_path, kind):
    source = tmp_path / f"data.{kind}"
    if kind == "folder":
        for name, data in FILES.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
    elif kind == "zip":
        fill_zip(source, FILES)
    else:
        packing = {"tgz": "gz"}.get(kind, kind.removeprefix("tar").removeprefix("."))
        fill_tar(source, FILES, f"w:{packing}")
    with SourceFiles(source) as store:
        assert store.names() == sorted(FILES)
        assert {name: store.read(name) for name in store.names()} == FILES
        assert store.size("a/b/c.jpg") == 7
        assert store.find("b/c.jpg") == store.find("c.jpg") == ["a/b/c.jpg"]
        assert store.find("x/c.jpg") == store.find("../c.jpg") == store.find("") == []
        assert store.folder("b") == {"c.jpg": "a/b/c.jpg"}


def test_archives_at_the_top_of_a_folder_are_read_and_unpacked_files_win(tmp_path):
    fill_zip(tmp_path / "one.zip", {"train/a.jpg": b"packed", "train/b.jpg": b"packed"})
    fill_zip(tmp_path / "other.zip", {"train/c.jpg": b"unwanted"})
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.jpg").write_bytes(b"unpacked")
    with SourceFiles(tmp_path, lambda name: name != "other.zip") as store:
        assert store.names() == ["train/a.jpg", "train/b.jpg"]
        assert store.read("train/a.jpg") == b"unpacked"
        assert store.where("train/b.jpg") == "one.zip:train/b.jpg"


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/etc/passwd", "C:\\x", "..\\x"])
def test_a_member_that_points_outside_is_refused_and_named(tmp_path, name):
    fill_tar(tmp_path / "bad.tar", {name: b"x", "good.txt": b"y"}, "w:")
    with SourceFiles(tmp_path) as store:
        assert store.names() == ["good.txt"]
        assert [member for member, _ in store.refused] == [f"bad.tar:{name}"]


def test_links_in_a_tar_are_no_files(tmp_path):
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with SourceFiles(tmp_path) as store:
        assert store.names() == []


def test_a_folder_link_that_leads_back_ends(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.txt").write_bytes(b"x")
    os.symlink(tmp_path, tmp_path / "a/loop")
    with SourceFiles(tmp_path) as store:
        assert store.names() == ["a/x.txt"]


def test_reading_is_bounded(tmp_path):
    fill_zip(tmp_path / "bomb.zip", {"zeros": bytes(1 << 20)})
    with SourceFiles(tmp_path) as store, pytest.raises(ReadError, match="larger"):
        store.read("zeros", limit=1000)


def test_a_compressed_tar_that_grows_without_end_is_refused(tmp_path, monkeypatch):
    fill_tar(tmp_path / "bomb.tar.gz", {"zeros": bytes(4 << 20)}, "w:gz")
    monkeypatch.setattr(archives, "MAX_GROWTH", 2)
    monkeypatch.setattr(archives, "_FREE_GROWTH", 1 << 20)
    with pytest.raises(UserError, match=r"bomb\.tar\.gz.*bomb"):
        SourceFiles(tmp_path)


@pytest.mark.parametrize("name", ["half.zip", "half.tar", "half.tar.gz", "half.tar.xz"])
def test_a_cut_archive_is_named(tmp_path, name):
    path = tmp_path / name
    if name.endswith("zip"):
        fill_zip(path, {"a": os.urandom(40000)})
    else:
        fill_tar(path, {"a": os.urandom(40000)}, f"w:{name[8:].lstrip('.')}")
    path.write_bytes(path.read_bytes()[:20000])
    try:
        with SourceFiles(tmp_path) as store, pytest.raises(ReadError):
            store.read("a")
    except UserError as error:
        assert name in str(error)


def test_a_damaged_or_encrypted_member_gives_its_reason(tmp_path):
    path = tmp_path / "x.zip"
    fill_zip(path, {"a.txt": b"hello hello hello"})
    data = bytearray(path.read_bytes())
    data[38] ^= 0xFF  # inside of the compressed bytes
    path.write_bytes(data)
    with SourceFiles(tmp_path) as store, pytest.raises(ReadError, match="cannot be read"):
        store.read("a.txt")
    data[38] ^= 0xFF
    for mark in (b"PK\x03\x04", b"PK\x01\x02"):  # the flag "encrypted" in both headers
        data[data.index(mark) + (6 if mark == b"PK\x03\x04" else 8)] |= 1
    path.write_bytes(data)
    with SourceFiles(tmp_path) as store, pytest.raises(ReadError, match="encrypted"):
        store.read("a.txt")


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        SourceFiles(tmp_path / "absent")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(UserError, match="neither"):
        SourceFiles(tmp_path / "x.txt")
    with SourceFiles(tmp_path) as store, pytest.raises(ReadError, match="missing"):
        store.read("y.txt")


def test_a_zip_of_an_unknown_version_is_refused(tmp_path):
    path = tmp_path / "x.zip"
    fill_zip(path, {"a.txt": b"hello"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 251  # the version that is needed to read it
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.zip is damaged .*version 25\.1"):
        SourceFiles(tmp_path)


def test_a_long_name_makes_no_long_message(tmp_path):
    path = tmp_path / "x.zip"
    fill_zip(path, {"a" * 50_000: b"hello"})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"a" * 9, b"b" * 9, 1))  # the name before the member alone
    with SourceFiles(tmp_path) as store, pytest.raises(ReadError) as raised:
        store.read("a" * 50_000)
    assert len(str(raised.value)) < 400
