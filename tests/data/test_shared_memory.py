"""Data workers that would not fit into /dev/shm are refused by name, before SIGBUS kills them."""

import os

import pytest

from jaxtag.data import shared_memory
from jaxtag.errors import TransientError, UserError

MEBIBYTE = 1 << 20


@pytest.fixture
def room(monkeypatch):
    """Makes /dev/shm hold so many MiB, of which so many are free."""

    def room(size: int, free: int) -> None:
        blocks = [1, 1, size * MEBIBYTE, free * MEBIBYTE, free * MEBIBYTE, 0, 0, 0, 0, 255]
        monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(blocks))

    return room


def test_a_containers_64_mebibytes_are_too_few(room):
    room(64, 64)
    with pytest.raises(UserError, match=r"need 231 MiB .* /dev/shm has 64 MiB: mount more") as e:
        shared_memory.check_room(231 * MEBIBYTE)
    assert e.value.exit_status == 1


def test_room_that_another_run_takes_may_become_free(room):
    room(512, 100)
    with pytest.raises(TransientError, match=r"/dev/shm has 100 MiB left of 512 MiB"):
        shared_memory.check_room(231 * MEBIBYTE)


def test_enough(room):
    room(512, 231)
    shared_memory.check_room(231 * MEBIBYTE)
