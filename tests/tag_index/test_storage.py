"""The files of a tag index: what is written holds, whenever the process was killed."""

import os

import numpy as np
import pytest

from jaxtag.errors import UserError
from jaxtag.tag_index import IndexStorage


def vectors(count, seed=0):
    return np.random.RandomState(seed).randn(count, 3).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    made = IndexStorage.create(tmp_path / "index", {"dimension": 3})
    made.add(["a", "b"], vectors(2), [["sea", "sky"], ["sky"]])
    made.add(["c"], vectors(1, 1), [[]])
    return made


def state(store):
    return (
        {p.file: p.tags for p in store.entries if p},
        store.tag_names,
        store.tags().toarray().tolist(),
        np.concatenate(list(store.vectors())).tolist(),
    )


def test_what_is_written_is_read_again(store):
    store.tag("surfer", ["c", "a"])
    store.untag("sky", ["b"])
    store.remove(["a"])
    again = IndexStorage(store.folder)
    assert state(again) == state(store)
    assert again.entries[0] is None and again.files == {"b": 1, "c": 2}
    assert again.tag_names == ["sea", "sky", "surfer"]
    np.testing.assert_array_equal(again.tags().toarray(), [[0, 0, 0], [0, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(np.concatenate(list(again.vectors()))[:2], vectors(2))


def test_a_tag_removed_from_all_is_gone(store):
    store.untag("sky")
    assert store.tag_names == IndexStorage(store.folder).tag_names == ["sea"]
    with pytest.raises(UserError, match="has no tag 'sky'"):
        store.untag("sky")


def test_compacting_erases_what_was_removed(store):
    store.remove(["a"])
    store.compact()
    assert state(store) == state(IndexStorage(store.folder))
    assert store.files == {"b": 0, "c": 1} and store.tag_names == ["sea", "sky"]
    np.testing.assert_array_equal(
        np.concatenate(list(store.vectors())), np.concatenate([vectors(2)[1:], vectors(1, 1)])
    )
    kept = b"".join(path.read_bytes() for path in store.folder.iterdir())
    assert vectors(2)[0].tobytes() not in kept and vectors(2)[1].tobytes() in kept
    store.add(["a"], vectors(1), [["sea"]])
    assert IndexStorage(store.folder).files == {"b": 0, "c": 1, "a": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.add(["d", "a"], vectors(2), [[], []]), "a is in the index already"),
        (lambda s: s.add(["d", "d"], vectors(2), [[], []]), "d is in the index already"),
        (lambda s: s.remove(["a", "z"]), "z is not in the index"),
        (lambda s: s.tag("sea", ["z"]), "z is not in the index"),
    ],
)
def test_a_change_that_cannot_be_made_changes_nothing(store, change, message):
    before = state(store)
    with pytest.raises(UserError, match=message):
        change(store)
    assert state(store) == state(IndexStorage(store.folder)) == before


def test_half_a_line_does_not_count(store):
    journal = store.folder / "journal-1.jsonl"
    before = state(store)
    journal.write_bytes(journal.read_bytes() + b'{"do": "remove", "ro')
    cut = IndexStorage(store.folder)
    assert state(cut) == before
    cut.tag("new", ["a"])
    assert IndexStorage(store.folder).tag_names == ["sea", "sky", "new"]


def test_damage_is_told(store):
    journal = store.folder / "journal-1.jsonl"
    journal.write_bytes(b"{}\n" + journal.read_bytes())
    with pytest.raises(UserError, match=r"journal-1\.jsonl, line 1: damaged"):
        IndexStorage(store.folder)
    (store.folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        IndexStorage(store.folder)
    with pytest.raises(UserError, match="holds no index"):
        IndexStorage(store.folder / "elsewhere")


def test_vectors_that_are_none_are_told(store):
    for path in store.folder.glob("vectors-*"):
        path.write_bytes(b"no array")
    with pytest.raises(UserError, match="missing or damaged"):
        list(IndexStorage(store.folder).vectors())


def test_another_process_must_have_finished(store):
    other = IndexStorage(store.folder)
    other.tag("new", ["a"])
    with pytest.raises(UserError, match="another process has changed"):
        store.tag("newer", ["a"])


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
            made = IndexStorage.create(folder, {"dimension": 3})
            made.add(["a", "b", "c"], vectors(3), [["sea"], ["sky"], []])
            before = {p.file: p.tags for p in made.entries if p}
            status = _killed_at(moment, folder, change)
            found = IndexStorage(folder)
            after = {p.file: p.tags for p in found.entries if p}
            allowed = {
                "add": [before, {**before, "d": ("new",)}],
                "remove": [before, {"a": ("sea",), "c": ()}],
                "compact": [before, {"b": ("sky",), "c": ()}],
            }[name]
            assert after in allowed, (name, moment)
            rows = np.concatenate(list(found.vectors()))
            expected = dict(zip("abcd", np.concatenate([vectors(3), vectors(1, 2)]), strict=True))
            for file, row in found.files.items():
                np.testing.assert_array_equal(rows[row], expected[file])
            found.tag("later", ["c"])  # it goes on
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
