"""Each kind of damage to a folder is found and named."""

import json
import shutil

import pytest

from jaxtag.training import checkpoint_manifest


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "7"
    (root / "state" / "d").mkdir(parents=True)
    (root / "config").mkdir()
    (root / "state" / "d" / "0a1b").write_bytes(bytes(range(256)) * 100)
    (root / "state" / "manifest.ocdbt").write_bytes(b"x" * 50)
    (root / "config" / "metadata").write_text('{"seed": 1}')
    (root / "state" / "empty").write_bytes(b"")
    checkpoint_manifest.write(root, {"CIDEr": 0.5})
    return root


def test_whole(folder):
    manifest = checkpoint_manifest.verify(folder)
    assert manifest.notes == {"CIDEr": 0.5}
    assert set(manifest.files) == {
        "state/d/0a1b",
        "state/manifest.ocdbt",
        "config/metadata",
        "state/empty",
    }
    assert manifest.files["state/d/0a1b"][0] == 25600
    assert checkpoint_manifest.check_sizes(folder) == checkpoint_manifest.read(folder) == manifest


def test_file_written_by_orbax_afterwards_is_no_damage(folder):
    (folder / "commit_success.txt").write_text("committed")
    checkpoint_manifest.verify(folder)


def _truncate(folder):
    with (folder / "state/d/0a1b").open("r+b") as file:
        file.truncate(25599)


def _flip(folder):
    path = folder / "state/d/0a1b"
    data = bytearray(path.read_bytes())
    data[12345] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "truncated": (_truncate, "state/d/0a1b holds 25599 bytes instead of 25600"),
    "grown": (
        lambda f: (f / "config/metadata").write_text('{"seed": 11}'),
        "config/metadata holds 12 bytes instead of 11",
    ),
    "one bit": (_flip, "state/d/0a1b does not hold the bytes"),
    "missing file": (lambda f: (f / "state/manifest.ocdbt").unlink(), "manifest.ocdbt is missing"),
    "empty file": (
        lambda f: (f / "config/metadata").write_bytes(b""),
        "config/metadata holds 0 bytes",
    ),
    "missing item": (lambda f: shutil.rmtree(f / "state"), "state/d/0a1b is missing"),
    "no manifest": (
        lambda f: (f / checkpoint_manifest.NAME).unlink(),
        f"{checkpoint_manifest.NAME} is missing",
    ),
    "empty manifest": (
        lambda f: (f / checkpoint_manifest.NAME).write_bytes(b""),
        r"damaged|not readable",
    ),
    "cut manifest": (
        lambda f: (f / checkpoint_manifest.NAME).write_bytes(
            (f / checkpoint_manifest.NAME).read_bytes()[:-30]
        ),
        r"damaged|not readable",
    ),
    "strange manifest": (
        lambda f: (f / checkpoint_manifest.NAME).write_text("[1, 2]"),
        r"damaged|not readable",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(folder, damage):
    spoil, message = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(checkpoint_manifest.DamagedCheckpointError, match=message):
        checkpoint_manifest.verify(folder)


def test_changed_manifest_is_found(folder):
    path = folder / checkpoint_manifest.NAME
    loaded = json.loads(path.read_text())
    loaded["notes"]["CIDEr"] = 9.9
    path.write_text(json.dumps(loaded))
    with pytest.raises(checkpoint_manifest.DamagedCheckpointError, match="was changed"):
        checkpoint_manifest.check_sizes(folder)


@pytest.mark.parametrize("content", ["[" * 5000, "[[" * 99 + "]]" * 99, "", "[]", "3", "9" * 5000])
def test_a_damaged_manifest_is_found(folder, content):
    (folder / checkpoint_manifest.NAME).write_text(content)
    with pytest.raises(checkpoint_manifest.DamagedCheckpointError, match=r"damaged|readable"):
        checkpoint_manifest.read(folder)


def test_sizes_alone_do_not_read_the_files(folder):
    _flip(folder)
    checkpoint_manifest.check_sizes(folder)
