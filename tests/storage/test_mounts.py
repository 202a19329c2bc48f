"""A bucket that is mounted as a folder is noticed before a run writes there."""

import errno
from pathlib import Path

import pytest

from jaxtag.errors import UserError
from jaxtag.storage import mounts

MOUNTS = """overlay / overlay rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
bucket /mnt/my\\040bucket fuse.gcsfuse rw,nosuid 0 0
server:/x /mnt/my\\040bucket/nfs nfs4 rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/mnt/my bucket", "fuse.gcsfuse"),
        ("/mnt/my bucket/runs/a", "fuse.gcsfuse"),
        ("/mnt/my bucket/nfs/a", "nfs4"),
        ("/mnt/my bucket2", "overlay"),
        ("/dev/shm/x", "tmpfs"),
    ],
)
def test_the_innermost_mount_counts(tmp_path, path, kind):
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)
    assert mounts.file_system(path, str(table)) == kind


def test_without_a_table_nothing_is_known(tmp_path):
    assert mounts.file_system("/x", str(tmp_path / "none")) == ""


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    monkeypatch.setattr(mounts, "file_system", lambda path: "fuse.gcsfuse")
    return tmp_path


def test_a_flat_bucket_is_refused_and_left_as_it_was(bucket, monkeypatch):
    def rename(self, target):
        raise OSError(errno.EMFILE, "Too many open files")  # as gcsfuse answers

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(UserError, match=r"--workdir=.* mounted by gcsfuse that cannot rename"):
        mounts.check_folder_renames(bucket, "--workdir")
    assert not list(bucket.iterdir())


def test_a_bucket_with_folders_is_accepted(bucket):
    mounts.check_folder_renames(bucket, "--workdir")
    assert not list(bucket.iterdir())
