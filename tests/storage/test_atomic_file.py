"""Files that appear when they are complete, or not at all; errors that name them."""

import os
import stat
import subprocess
import sys

import pytest

from jaxtag.errors import UserError
from jaxtag.storage import atomic_file
from jaxtag.storage.atomic_file import AtomicFile, replacing, write_bytes, write_text


def test_a_growing_file_takes_its_name_when_it_is_finished(tmp_path):
    path = tmp_path / "lines.jsonl"
    file = AtomicFile(path, "--output")
    file.write("one\n")
    assert not path.exists()
    (partial,) = atomic_file.stale_partials(path)
    assert partial.read_text() == "one\n"
    file.finish()
    assert path.read_text() == "one\n"
    assert [p.name for p in tmp_path.iterdir()] == ["lines.jsonl"]


@pytest.mark.parametrize("name", ["x" * 251 + ".csv", "é" * 125 + ".csv", "x" * 200, "x" * 201])
def test_names_may_be_as_long_as_the_file_system_allows(tmp_path, name):
    path = tmp_path / name
    growing = AtomicFile(path)
    growing.write("one\n")
    (partial,) = atomic_file.stale_partials(path)
    assert partial.read_text() == "one\n"
    assert atomic_file.stale_partials(tmp_path / f"{name[:-1]}y") == []  # of a name as long
    growing.finish()
    assert path.read_text() == "one\n"
    atomic_file.write_text(path, "two\n")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "two\n")]


def test_one_process_at_a_time_writes_a_file(tmp_path):
    path = tmp_path / "lines.jsonl"
    first = AtomicFile(path, "--output")
    first.write("one\n")
    writer = (
        "import sys; from jaxtag.storage.atomic_file import AtomicFile; AtomicFile(sys.argv[1])"
    )
    other = subprocess.run([sys.executable, "-c", writer, path], capture_output=True, text=True)
    assert f"{path} is in use by process {os.getpid()} on " in other.stderr
    with pytest.raises(UserError, match=rf"^--output={path} is in use by process {os.getpid()} "):
        AtomicFile(path, "--output")
    first.write("two\n")
    first.finish()
    assert path.read_text() == "one\ntwo\n"
    second = AtomicFile(path)  # the lock went with its holder
    second.close()  # unfinished: the file is as it was
    assert path.read_text() == "one\ntwo\n"
    AtomicFile(path).finish()
    assert [p.name for p in tmp_path.iterdir()] == ["lines.jsonl"]  # nor is a partial left
    assert path.read_text() == ""


def test_temporary_names_are_new_files_that_nobody_foresees(tmp_path):
    path, precious = tmp_path / "a.txt", tmp_path / "precious"
    precious.write_text("precious")
    path.with_name("a.txt.partial").symlink_to(precious)
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        assert first.stat().st_size == 0 and not first.is_symlink()
        first.write_text("1")
        second.write_text("2")
    AtomicFile(path).finish()
    assert precious.read_text() == "precious"
    old = os.umask(0o027)
    try:
        write_text(path, "mine")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / "a.txt", tmp_path / "disk" / "target.txt"
    link.symlink_to(target)
    for content in ("first", "second"):
        write_text(link, content)
        assert link.is_symlink() and target.read_text() == content
    file = AtomicFile(link)
    file.write("third")
    file.finish()
    assert link.is_symlink() and target.read_text() == "third"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.txt", "disk", "target.txt"]


def test_what_is_no_plain_file_is_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=r"pipe cannot be written: not a regular file$"):
        write_text(pipe, "text")
    with pytest.raises(UserError, match="pipe cannot be written: not a regular file, and nobody"):
        AtomicFile(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    file = AtomicFile(pipe)
    file.write("to a reader\n")
    file.finish()
    assert os.read(reader, 99) == b"to a reader\n"
    os.close(reader)
    file = AtomicFile("/dev/null")
    file.write("nowhere")
    file.finish()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"^--output=/dev/full cannot be written: No space left"):
        AtomicFile("/dev/full", "--output").write("line\n")
    path = tmp_path / "a.txt"
    write_text(path, "old")
    full = (os.open("/dev/full", os.O_WRONLY), tmp_path / "a.txt.partial")
    monkeypatch.setattr(atomic_file, "_create_partial", lambda _: full)
    file = AtomicFile(path)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        file.write("new\n")
    file.close()
    assert path.read_text() == "old"


def test_whole_files_replace_what_was_there_and_create_folders(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "ünï \udcff")
    assert path.read_text(encoding="utf-8") == "ünï \\udcff"
    write_bytes(path, b"\0\1", sync=True)
    assert path.read_bytes() == b"\0\1"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ValueError, match="mine"), replacing(path) as partial:
        partial.write_text("half of the new")
        raise ValueError("mine")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("setting", ["", "--output"])
def test_errors_name_the_file_and_its_setting(tmp_path, setting):
    name = f"{setting}={tmp_path}" if setting else str(tmp_path)
    with pytest.raises(UserError, match=f"{name} cannot be written: Is a directory"):
        write_text(tmp_path, "text", setting)
    with pytest.raises(UserError, match=f"{name} cannot be written: Is a directory"):
        AtomicFile(tmp_path, setting)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: "):
        write_text(tmp_path / "file" / "a.txt", "text", setting)
    with pytest.raises(UserError, match="cannot be written: No such file"):
        AtomicFile(tmp_path / "absent" / "a.txt", setting)
