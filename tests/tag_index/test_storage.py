"""The files of a tag index: what is written holds, whenever the process was killed."""

import contextlib
import errno
import os
import resource

import numpy as np
import pytest

from jaxtag.errors import UserError
from jaxtag.tag_index import IndexStorage


def vectors(count, seed=0):
    return np.random.RandomState(seed).randn(count, 3).astype(np.float32)


@pytest.fixture
def storage(tmp_path):
    storage = IndexStorage.create(tmp_path / "index", {"dimension": 3})
    storage.add(["a", "b"], vectors(2), [["sea", "sky"], ["sky"]])
    storage.add(["c"], vectors(1, 1), [[]])
    return storage


def state(storage):
    return (
        {p.file: p.tags for p in storage.entries if p},
        storage.tag_names,
        storage.tags().toarray().tolist(),
        np.concatenate(list(storage.vectors())).tolist(),
    )


def test_what_is_written_is_read_again(storage):
    storage.tag("surfer", ["c", "a"])
    storage.untag("sky", ["b"])
    storage.remove(["a"])
    again = IndexStorage(storage.folder)
    assert state(again) == state(storage)
    assert again.entries[0] is None and again.files == {"b": 1, "c": 2}
    assert again.tag_names == ["sea", "sky", "surfer"]
    np.testing.assert_array_equal(again.tags().toarray(), [[0, 0, 0], [0, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(np.concatenate(list(again.vectors()))[:2], vectors(2))


def test_an_unfinished_index_goes_on(tmp_path):
    first = IndexStorage.create(tmp_path, {"dimension": 3}, building=True)
    first.add(["a"], vectors(1), [["sea"]])
    with pytest.raises(UserError, match="unfinished index of other vectors"):
        IndexStorage.create(tmp_path, {"dimension": 4}, building=True)
    with pytest.raises(UserError, match="holds an index already"):
        IndexStorage.create(tmp_path, {"dimension": 3})
    second = IndexStorage.create(tmp_path, {"dimension": 3}, building=True)
    assert second.files == {"a": 0}
    second.add(["b"], vectors(1, 1), [[]])
    second.finish_building()
    with pytest.raises(UserError, match="holds an index already"):
        IndexStorage.create(tmp_path, {"dimension": 3}, building=True)
    second.tag("sky", ["b"])
    assert state(IndexStorage(tmp_path)) == state(second)


def test_a_change_that_could_not_be_synced_has_not_happened(storage, monkeypatch):
    before = state(storage)

    def fails(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(UserError, match="cannot be written: Input/output error"):
        storage.remove(["a"])
    monkeypatch.undo()
    assert state(storage) == state(IndexStorage(storage.folder)) == before
    storage.remove(["a"])


def test_a_tag_removed_from_all_is_gone(storage):
    storage.untag("sky")
    assert storage.tag_names == IndexStorage(storage.folder).tag_names == ["sea"]
    with pytest.raises(UserError, match="has no tag 'sky'"):
        storage.untag("sky")


def test_compacting_erases_what_was_removed(storage):
    storage.remove(["a"])
    storage.compact()
    assert state(storage) == state(IndexStorage(storage.folder))
    assert storage.files == {"b": 0, "c": 1} and storage.tag_names == ["sea", "sky"]
    np.testing.assert_array_equal(
        np.concatenate(list(storage.vectors())), np.concatenate([vectors(2)[1:], vectors(1, 1)])
    )
    content = b"".join(path.read_bytes() for path in storage.folder.iterdir())
    assert vectors(2)[0].tobytes() not in content and vectors(2)[1].tobytes() in content
    storage.add(["a"], vectors(1), [["sea"]])
    assert IndexStorage(storage.folder).files == {"b": 0, "c": 1, "a": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.add(["d", "a"], vectors(2), [[], []]), "a is in the index already"),
        (lambda s: s.add(["d", "d"], vectors(2), [[], []]), "d is in the index already"),
        (lambda s: s.remove(["a", "z"]), "z is not in the index"),
        (lambda s: s.tag("sea", ["z"]), "z is not in the index"),
    ],
)
def test_a_change_that_cannot_be_made_changes_nothing(storage, change, message):
    before = state(storage)
    with pytest.raises(UserError, match=message):
        change(storage)
    assert state(storage) == state(IndexStorage(storage.folder)) == before


def test_half_a_line_does_not_count(storage):
    journal = storage.folder / "journal-1.jsonl"
    before = state(storage)
    journal.write_bytes(journal.read_bytes() + b'{"do": "remove", "ro')
    cut = IndexStorage(storage.folder)
    assert state(cut) == before
    cut.tag("new", ["a"])
    assert IndexStorage(storage.folder).tag_names == ["sea", "sky", "new"]


def test_damage_is_told(storage):
    journal = storage.folder / "journal-1.jsonl"
    journal.write_bytes(b"{}\n" + journal.read_bytes())
    with pytest.raises(UserError, match=r"journal-1\.jsonl, line 1: damaged"):
        IndexStorage(storage.folder)
    (storage.folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        IndexStorage(storage.folder)
    with pytest.raises(UserError, match="holds no index"):
        IndexStorage(storage.folder / "elsewhere")


def test_vectors_that_are_none_are_told(storage):
    for path in storage.folder.glob("vectors-*"):
        path.write_bytes(b"no array")
    with pytest.raises(UserError, match="missing or damaged"):
        list(IndexStorage(storage.folder).vectors())


def test_damaged_vectors_are_told(storage):
    """A bit that flipped anywhere in them; a number that is none."""
    path = sorted(storage.folder.glob("vectors-*"))[0]
    data = path.read_bytes()
    for position in range(len(data) - 3 * 4, len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        with pytest.raises(UserError, match="is damaged: its checksum differs"):
            list(IndexStorage(storage.folder).vectors())
    path.write_bytes(data)
    nan = np.full((1, 3), np.nan, np.float32)
    storage.add(["nan"], nan, [[]])
    with pytest.raises(UserError, match="is damaged: it holds NaN"):
        list(IndexStorage(storage.folder).vectors())


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "3",
        '{"do": 3}',
        '{"do": "remove", "rows": [-1]}',
        '{"do": "remove", "rows": [9]}',
        '{"do": "remove", "rows": "0"}',
        '{"do": "remove", "rows": [1.0]}',
        '{"do": "tag", "tag": null, "rows": [0]}',
        '{"do": "tag", "tag": ["x"], "rows": [0]}',
        '{"do": "untag", "tag": "absent", "rows": null}',
        '{"do": "add", "vectors": "../v.npy", "pictures": []}',
        '{"do": "add", "vectors": 3, "pictures": []}',
        '{"do": "add", "vectors": "vectors-1.npy", "pictures": [["a", ["sea"]]]}',
        '{"do": "add", "vectors": "vectors-1.npy", "pictures": [["x", "sea"]]}',
        '{"do": "add", "vectors": "vectors-1.npy", "pictures": ["xy"]}',
        '{"do": "add", "vectors": "vectors-1.npy", "pictures": [[{}, []]]}',
        '{"do": "name", "tags": [[]]}',
        '{"do": ' + "[" * 100_000,
        '{"do": "remove", "rows": [' + "9" * 5000 + "]}",
    ],
)
def test_a_line_that_is_none_of_ours_is_told(storage, line):
    journal = storage.folder / "journal-1.jsonl"
    journal.write_bytes(journal.read_bytes() + line.encode() + b"\n")
    with pytest.raises(UserError, match=r"journal-1\.jsonl, line 3: damaged"):
        IndexStorage(storage.folder)


def test_no_damage_of_journal_or_manifest_is_a_crash(storage):
    storage.remove(["b"])
    storage.tag("new", ["a"])
    random = np.random.RandomState(0)
    for name in ("journal-1.jsonl", "manifest.json"):
        path = storage.folder / name
        data = path.read_bytes()
        for _ in range(150):
            changed = bytearray(data)
            for _ in range(random.randint(1, 4)):
                start = random.randint(len(changed))
                changed[start : start + random.randint(3)] = random.bytes(random.randint(3))
            path.write_bytes(changed)
            with contextlib.suppress(UserError):
                index = IndexStorage(storage.folder)
                index.tags()
        path.write_bytes(data)


def test_a_full_disk_says_why_and_the_index_is_as_before(storage):
    before = state(storage)
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (8000, 600, 100):  # in the vectors, in the journal, in the first bytes
        count = 1000 if limit == 8000 else 20
        names = [f"{n:030}" for n in range(count)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(UserError, match="cannot be written: File too large"):
                storage.add(names, vectors(count), [[]] * count)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert state(IndexStorage(storage.folder)) == before
    storage.tag("later", ["a"])
    assert IndexStorage(storage.folder).tag_names == ["sea", "sky", "later"]


def test_another_process_must_have_finished(storage):
    other = IndexStorage(storage.folder)
    other.tag("new", ["a"])
    with pytest.raises(UserError, match="another process has changed"):
        storage.tag("newer", ["a"])


def test_killed_at_any_moment_it_is_before_or_after(tmp_path):
    """At every call that changes what is on disk."""
    changes = {
        "add": lambda s: s.add(["d"], vectors(1, 2), [["new"]]),
        "remove": lambda s: s.remove(["b"]),
        "compact": lambda s: (s.remove(["a"]), s.compact()),
    }
    for name, change in changes.items():
        for moment in range(1, 40):
            folder = tmp_path / f"{name}-{moment}"
            storage = IndexStorage.create(folder, {"dimension": 3})
            storage.add(["a", "b", "c"], vectors(3), [["sea"], ["sky"], []])
            before = {p.file: p.tags for p in storage.entries if p}
            status = _killed_at(moment, folder, change)
            index = IndexStorage(folder)
            after = {p.file: p.tags for p in index.entries if p}
            allowed = {
                "add": [before, {**before, "d": ("new",)}],
                "remove": [before, {"a": ("sea",), "c": ()}],
                "compact": [before, {"b": ("sky",), "c": ()}],
            }[name]
            assert after in allowed, (name, moment)
            rows = np.concatenate(list(index.vectors()))
            expected = dict(zip("abcd", np.concatenate([vectors(3), vectors(1, 2)]), strict=True))
            for file, row in index.files.items():
                np.testing.assert_array_equal(rows[row], expected[file])
            index.tag("later", ["c"])  # it goes on
            assert not list(folder.glob("*.partial"))
            if status == 0:
                break
        assert status == 0 and moment > 1


def _killed_at(moment, folder, change):
    """Runs `change` in a fork that ends, as if killed, at its `moment`-th call of the system."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    calls = 0

    def counted(function):
        def call(*arguments, **fields):
            nonlocal calls
            calls += 1
            if calls == moment:
                os._exit(9)
            return function(*arguments, **fields)

        return call

    for name in ("fsync", "rename", "replace", "unlink", "open"):
        setattr(os, name, counted(getattr(os, name)))
    try:
        change(IndexStorage(folder))
    except BaseException:
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize("position", [8, 9, 12, 40, 60])
def test_a_damaged_header_of_vectors_is_told(storage, position):
    """NumPy reads a header as Python's source, and so raises errors of its tokenizer too."""
    path = next(storage.folder.glob("vectors-*.npy"))
    sound = path.read_bytes()
    for junk in (b"(((", b"\0\0", b'"' * 3, b"\n(", b"\xff\xff"):
        path.write_bytes(sound[:position] + junk + sound[position + len(junk) :])
        with pytest.raises(UserError, match=r"vectors-\w+\.npy is "):
            list(IndexStorage(storage.folder).vectors())
