"""Text becomes a local path or one of a store; anything else is refused at once, in one line."""

import importlib.util
from pathlib import Path

import pytest

from jaxtag.errors import UsageError
from jaxtag.storage.paths import absolute, is_store, make_path


@pytest.mark.parametrize(
    "text", ["runs/a", "/runs/a", "~/runs", "a:b.jpg", "c:/x", "dir/gs://x", "photos:/x", "."]
)
def test_local_paths_stay_as_they_are(text):
    path = make_path(text)
    assert path == Path(text) and isinstance(path, Path) and not is_store(path)


def test_a_url_becomes_a_path_of_a_store():
    pytest.importorskip("gcsfs")
    path = make_path("gs://bucket/runs/a")
    assert str(path) == "gs://bucket/runs/a" and is_store(path) and make_path(path) == path
    assert str(path / "b.json") == "gs://bucket/runs/a/b.json"
    assert absolute(path) == path and absolute(Path("a")) == Path("a").absolute()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "gs:/bucket/x",
            r"--workdir=gs:/bucket/x names no bucket \(did you mean gs://bucket/x\?\)",
        ),
        ("gs://", r"--workdir=gs:// names no bucket \(did you mean gs://bucket\?\)"),
        ("gs:///x", "names no bucket"),
        ("gcs://bucket/x", "gcs: is not supported: give a local path, or gs://bucket/… or s3://"),
        ("https://host/x", "https: is not supported"),
        ("foo://bucket/x", "foo: is not supported"),
    ],
)
def test_anything_else_is_refused(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message) as refused:
        make_path(text, "--workdir")
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


def test_a_missing_package_is_named(monkeypatch):
    from jaxtag.storage import paths

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    paths._set_up.cache_clear()
    with pytest.raises(UsageError, match=r"s3://b/x needs s3fs: pip install 'jaxtag\[s3\]'"):
        make_path("s3://b/x")
    paths._set_up.cache_clear()
