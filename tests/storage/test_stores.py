"""What jaxtag keeps on an object store appears whole, survives faults, and has one writer."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest
from fake_gcs import Fault

from jaxtag.errors import StorageError, UserError
from jaxtag.storage import atomic_file, mirror, store_errors, store_lock, transfer
from jaxtag.storage.growing_file import GrowingFile
from jaxtag.storage.lock import LOCK
from jaxtag.storage.paths import make_path
from jaxtag.storage.store_lock import StoreLock


@pytest.fixture
def quick_retries(monkeypatch):
    """Retries without pauses, of the client (asyncio) and ours."""
    import gcsfs.retry

    async def skip(_):
        return None

    monkeypatch.setattr(gcsfs.retry.asyncio, "sleep", skip)
    monkeypatch.setattr(store_errors, "_PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture
def folder(gcs):
    return make_path("gs://bucket/run")


# --- whole files


def test_a_file_appears_when_it_is_complete(gcs, folder):
    with atomic_file.replacing(folder / "a.json") as partial:
        partial.write_text("{}")
        assert gcs.names() == []
    assert gcs.read("run/a.json") == b"{}"
    with pytest.raises(RuntimeError), atomic_file.replacing(folder / "a.json") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert gcs.read("run/a.json") == b"{}"


def test_a_growing_text_file_appears_when_it_is_finished(gcs, folder):
    file = atomic_file.AtomicFile(folder / "a.jsonl")
    file.write("1\n")
    assert gcs.names() == []
    file.finish()
    assert gcs.names() == ["run/a.jsonl"] and gcs.read("run/a.jsonl") == b"1\n"


def test_an_unfinished_file_keeps_another_name_and_can_be_resumed(gcs, folder):
    file = atomic_file.AtomicFile(folder / "a.jsonl", resume=True)
    file.write("1\n")
    file.close()
    (name,) = gcs.names()
    assert name.endswith(".partial") and gcs.read(name) == b"1\n"
    file = atomic_file.AtomicFile(folder / "a.jsonl", resume=True)
    assert file.resumed
    file.write("2\n")
    file.finish()
    assert gcs.names() == ["run/a.jsonl"] and gcs.read("run/a.jsonl") == b"1\n2\n"


def test_an_absent_bucket_is_named(gcs):
    with pytest.raises(UserError, match="there is no bucket gs://none") as refused:
        atomic_file.write_text("gs://none/a.json", "{}", "--output")
    assert refused.value.exit_status == 1


# --- files that grow


def test_a_growing_file_is_uploaded_when_it_must_survive(gcs, folder):
    gcs.write("run/m.jsonl", b"1\n")
    file = GrowingFile(folder / "m.jsonl")
    file.write(b"2\n")
    file.flush()
    assert gcs.read("run/m.jsonl") == b"1\n2\n"
    uploads = gcs.requests["POST upload"]
    file.flush()
    assert gcs.requests["POST upload"] == uploads  # nothing new
    file.write(b"3\n")
    file.close()
    assert gcs.read("run/m.jsonl") == b"1\n2\n3\n"
    with pytest.raises(FileExistsError):
        GrowingFile(folder / "m.jsonl", new=True)


# --- faults


@pytest.mark.parametrize("kind", [503, 429, 500, "cut", "lost"])
def test_a_fault_that_passes_is_not_noticed(gcs, folder, quick_retries, tmp_path, kind):
    data = os.urandom(7_000_000)  # uploaded and read in parts
    gcs.faults = [Fault(kind, nth=frozenset({2, 4, 7, 9}))]
    atomic_file.write_bytes(folder / "big", data)
    assert gcs.read("run/big") == data
    transfer.download(folder / "big", tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == data
    assert gcs.requests[f"fault {kind}"] >= 2


def test_a_fault_that_lasts_is_one_line_that_restarts_may_mend(gcs, folder, quick_retries):
    gcs.faults = [Fault(503, rate=1.0)]
    with pytest.raises(
        StorageError, match="--output=gs://bucket/run/a cannot be written"
    ) as failed:
        atomic_file.write_text(folder / "a", "x", "--output")
    assert failed.value.exit_status == 70 and "\n" not in str(failed.value)


def test_what_is_forbidden_is_not_tried_again(gcs, folder, quick_retries):
    gcs.faults = [Fault(403, rate=1.0)]
    with pytest.raises(UserError, match="Forbidden") as failed:
        atomic_file.write_text(folder / "a", "x")
    assert failed.value.exit_status == 1
    assert gcs.requests["fault 403"] == 1


def test_removing_a_folder_that_is_listed_in_pages(gcs, folder):
    gcs.page_size = 3
    for number in range(10):
        gcs.write(f"run/x/{number}", b"")
    gcs.write("run/xy", b"")
    assert len(transfer.list_objects(folder / "x")) == 10
    transfer.remove_folder(folder / "x")
    assert gcs.names() == ["run/xy"]
    transfer.remove_folder(folder / "x")


# --- locks

HOLD = """
    import sys
    from jaxtag.storage.paths import make_path
    from jaxtag.storage.store_lock import StoreLock
    with StoreLock(make_path("gs://bucket/run")):
        print("held", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def holder(gcs):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_with_the_name_of_the_first(gcs, folder, holder):
    with pytest.raises(
        UserError, match=rf"in use by process {holder.pid} on {socket.gethostname()}"
    ):
        StoreLock(folder, "--workdir").acquire()
    holder.communicate("")
    assert gcs.names() == []
    with StoreLock(folder):
        assert json.loads(gcs.read(f"run/{LOCK}"))["pid"] == os.getpid()
    assert gcs.names() == []


def test_the_lock_of_a_killed_process_of_this_host_is_taken_at_once(gcs, folder, holder):
    holder.kill()
    holder.wait()
    assert gcs.names() == [f"run/{LOCK}"]
    with StoreLock(folder):
        pass


def test_of_two_processes_that_come_at_once_one_wins(gcs, folder):
    first, second = StoreLock(folder), StoreLock(folder)
    first.acquire()
    with pytest.raises(UserError, match="in use"):
        second.acquire()
    # As if both had found no lock: writing at "none" fails where there is one.
    second._holder = {"token": "other"}
    assert not second._write(b"\2")
    first.release()


def test_a_holder_elsewhere_is_gone_after_a_minute_without_a_sign(gcs, folder, monkeypatch):
    holder = {"host": "elsewhere", "pid": 1, "token": "x"}
    gcs.write(f"run/{LOCK}", json.dumps({**holder, "beat": 0.0}).encode())
    with StoreLock(folder):
        pass
    monkeypatch.setattr(store_lock, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(store_lock, "_STALE_SECONDS", 0.1)
    gcs.write(f"run/{LOCK}", json.dumps(holder).encode())
    with StoreLock(folder):
        pass
    monkeypatch.setattr(store_lock, "_STALE_SECONDS", 10.0)
    gcs.write(f"run/{LOCK}", json.dumps(holder).encode())
    beats = iter(range(100))

    def beat(_):  # the holder writes its lock again
        gcs.write(f"run/{LOCK}", json.dumps({**holder, "beat": next(beats)}).encode())

    monkeypatch.setattr(store_lock.time, "sleep", beat)
    with pytest.raises(UserError, match="in use by process 1 on elsewhere"):
        StoreLock(folder).acquire()


def test_a_holder_learns_that_its_lock_was_taken(gcs, folder, monkeypatch):
    monkeypatch.setattr(store_lock, "_BEAT_SECONDS", 0.01)
    with StoreLock(folder) as lock:
        gcs.write(f"run/{LOCK}", json.dumps({"host": "elsewhere", "token": "x"}).encode())
        lock._heart.join(10)
        with pytest.raises(StorageError, match="taken over by another run"):
            store_lock.check_held()
    store_lock.check_held()
    assert json.loads(gcs.read(f"run/{LOCK}"))["host"] == "elsewhere"


@pytest.mark.parametrize("kind", [503, "lost", "cut"])
def test_locking_passes_over_faults(gcs, folder, kind):
    gcs.faults = [Fault(kind, nth=frozenset({2}), path="lock.json")]
    with StoreLock(folder):
        assert gcs.requests[f"fault {kind}"] == 1
    assert gcs.names() == []


# --- copies


def test_changes_of_a_local_copy_go_back(gcs, folder):
    gcs.write("run/i/manifest.json", b"1")
    gcs.write("run/i/old", b"1")
    gcs.write("run/i/same", b"1")
    generation = gcs.objects["bucket", "run/i/same"].generation
    with mirror.local_copy(folder / "i", "--index", last="manifest.json") as local:
        (local / "manifest.json").write_text("22")
        (local / "new").write_text("3")
        (local / "old").unlink()
        with pytest.raises(UserError, match="in use"):
            StoreLock(folder / "i").acquire()
    assert gcs.names() == ["run/i/manifest.json", "run/i/new", "run/i/same"]
    assert gcs.read("run/i/manifest.json") == b"22"
    assert gcs.objects["bucket", "run/i/same"].generation == generation
    generations = [
        gcs.objects["bucket", f"run/i/{name}"].generation for name in ("new", "manifest.json")
    ]
    assert generations == sorted(generations)  # the file that names the others comes last


def test_errors_of_a_local_copy_name_the_store(gcs, folder):
    with (
        pytest.raises(UserError, match="gs://bucket/run/i/x is damaged"),
        mirror.local_copy(folder / "i", "--index", last="m", write=False) as local,
    ):
        raise UserError(f"{local}/x is damaged")
