"""Each kind of damage to a folder is found and named."""

import json
import shutil
import zlib

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


def test_each_process_sums_its_own_files_and_nobody_reads_them_again(tmp_path, monkeypatch):
    root = tmp_path / "7"
    for process in range(2):
        own = root / "state.orbax-checkpoint-tmp-3" / f"ocdbt.process_{process}" / "d"
        own.mkdir(parents=True)
        (own / "0a").write_bytes(bytes([process]) * 1000)
        checkpoint_manifest.sum_own_files(root, process)
    (root / "state.orbax-checkpoint-tmp-3").rename(root / "state")
    (root / "state" / "manifest.ocdbt").write_bytes(b"merged")
    summed, sums = [], checkpoint_manifest._size_and_checksum
    monkeypatch.setattr(
        checkpoint_manifest,
        "_size_and_checksum",
        lambda path, kind: summed.append(path.name) or sums(path, kind),
    )
    checkpoint_manifest.write(root, {})
    assert summed == ["manifest.ocdbt"]
    assert set(checkpoint_manifest.verify(root).files) == {
        "state/manifest.ocdbt",
        "state/ocdbt.process_0/d/0a",
        "state/ocdbt.process_1/d/0a",
    }
    assert not list(root.glob("jaxtag_sums*"))


def test_the_shares_of_processes_are_all_files_once(folder):
    manifest = checkpoint_manifest.read(folder)
    files = {f"{n}": (1000 * (n % 7), 0) for n in range(50)} | dict(manifest.files)
    shares = checkpoint_manifest._shares(files, 4)
    assert sorted(name for share in shares for name in share) == sorted(files)
    sizes = [sum(files[name][0] for name in share) for share in shares[1:]]
    assert max(sizes) - min(sizes) <= 6000


def test_a_process_finds_the_damage_in_its_share(folder):
    _flip(folder)
    manifest = checkpoint_manifest.read(folder)
    damages = []
    for process in range(3):
        try:
            checkpoint_manifest.verify_share(folder, manifest, process, 3)
        except checkpoint_manifest.DamagedCheckpointError as damage:
            damages.append(str(damage))
    assert damages == ["state/d/0a1b does not hold the bytes that were written"]


def test_the_sums_are_those_that_stores_list(folder):
    import google_crc32c

    manifest = checkpoint_manifest.read(folder)
    assert manifest.checksum == "crc32c"
    data = (folder / "state/d/0a1b").read_bytes()
    assert manifest.files["state/d/0a1b"] == (len(data), google_crc32c.value(data))


def test_a_manifest_of_an_older_version_is_verified(folder):
    body = {"files": {}, "notes": {"CIDEr": 0.5}}
    for name in checkpoint_manifest.read(folder).files:
        data = (folder / name).read_bytes()
        body["files"][name] = [len(data), zlib.crc32(data)]
    text = json.dumps({"crc": zlib.crc32(json.dumps(body, sort_keys=True).encode()), **body})
    (folder / checkpoint_manifest.NAME).write_text(text)
    assert checkpoint_manifest.verify(folder).checksum == "crc32"
    _flip(folder)
    with pytest.raises(checkpoint_manifest.DamagedCheckpointError, match="0a1b does not hold"):
        checkpoint_manifest.verify(folder)
