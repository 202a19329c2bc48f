"""Checks that /dev/shm, through which data workers hand over their batches, has room for them.

A worker that writes beyond its end is killed by SIGBUS. Containers get 64 MiB unless told
otherwise.
"""

import os

from jaxtag.errors import TransientError, UserError

_FOLDER = "/dev/shm"
_REMEDY = (
    "mount more (Kubernetes: an emptyDir of medium Memory; Docker: --shm-size), or set "
    "config.data.num_workers=0 or a smaller batch"
)


def check_room(num_bytes: int) -> None:
    """Checks that `num_bytes` fit.

    Raises:
        UserError: /dev/shm is smaller.
        TransientError: It is large enough, but in use.
    """
    size, free = _size_and_free()
    needed = f"the data workers need {_mebibytes(num_bytes)} of shared memory"
    if num_bytes > size:
        raise UserError(f"{needed}, and {_FOLDER} has {_mebibytes(size)}: {_REMEDY}")
    if num_bytes > free:
        raise TransientError(
            f"{needed}, and {_FOLDER} has {_mebibytes(free)} left of {_mebibytes(size)}: end what "
            f"uses it, {_REMEDY}"
        )


def describe() -> str:
    """How much room there is, for a message."""
    size, free = _size_and_free()
    return f"{_FOLDER} has {_mebibytes(free)} left of {_mebibytes(size)}"


def _size_and_free() -> tuple[int, int]:
    """Bytes of /dev/shm, and those of them that are free."""
    status = os.statvfs(_FOLDER)
    return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize


def _mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
