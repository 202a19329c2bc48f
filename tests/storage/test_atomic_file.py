"""Files that appear when they are complete, or not at all; errors that name them."""

import pytest

from jaxtag.errors import UserError
from jaxtag.storage import atomic_file
from jaxtag.storage.atomic_file import AtomicFile, replacing, write_bytes, write_text


def test_a_growing_file_takes_its_name_when_it_is_finished(tmp_path):
    path = tmp_path / "lines.jsonl"
    file = AtomicFile(path, "--output")
    file.write("one\n")
    assert not path.exists()
    assert atomic_file.partial_path(path).read_text() == "one\n"
    file.finish()
    assert path.read_text() == "one\n"
    assert [p.name for p in tmp_path.iterdir()] == ["lines.jsonl"]


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
