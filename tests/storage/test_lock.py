"""One process at a time writes to a folder, and who that is can be read."""

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest

from jaxtag.errors import UserError
from jaxtag.storage import lock
from jaxtag.storage.lock import LOCK, FolderLock


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder until its stdin ends."""
    script = """
        import sys
        from jaxtag.storage.lock import FolderLock
        with FolderLock(sys.argv[1]):
            print("held", flush=True)
            sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path, holder):
    with pytest.raises(UserError) as refused:
        FolderLock(tmp_path, "--workdir").acquire()
    message = rf"--workdir={tmp_path} is in use by process {holder.pid} on \S+, since \d+-"
    assert re.match(message, str(refused.value)) and "\n" not in str(refused.value)
    holder.communicate("")
    assert not (tmp_path / LOCK).exists()
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_the_lock_of_a_killed_process_is_stale(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with FolderLock(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_a_second_lock_of_the_same_process_is_refused(tmp_path):
    with FolderLock(tmp_path), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        FolderLock(tmp_path / ".").acquire()
    with FolderLock(tmp_path):  # the refusal has freed nothing, and holds nothing
        pass


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The lock of a process on another host, on a file system that passes no locks on."""
    monkeypatch.setattr(lock, "_POLL_SECONDS", 0.01)
    (tmp_path / LOCK).write_text('{"host": "elsewhere", "pid": 7}')
    return tmp_path / LOCK


def test_a_holder_on_another_host_that_shows_no_life_is_gone(elsewhere, monkeypatch):
    monkeypatch.setattr(lock, "_STALE_SECONDS", 0.05)
    with FolderLock(elsewhere.parent):
        pass


def test_a_holder_on_another_host_that_lives_is_refused(elsewhere, monkeypatch):
    real_sleep = lock.time.sleep

    def beat(seconds):
        os.utime(elsewhere)
        real_sleep(seconds)

    monkeypatch.setattr(lock.time, "sleep", beat)
    with pytest.raises(UserError, match="in use by process 7 on elsewhere"):
        FolderLock(elsewhere.parent).acquire()
    monkeypatch.undo()
    assert elsewhere.exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot be written: No such file"):
        FolderLock(tmp_path / "none").acquire()
