"""Reads JSON that a user, a download or a damaged disk may have changed, with errors in one line.

Python's reader ends with a RecursionError where values are nested deeply, and with a ValueError of
its own for an integer of more digits than it converts; both are damage here as a syntax error is.
"""

import json
from pathlib import Path
from typing import Any

from jaxtag.errors import UserError
from jaxtag.storage.paths import make_path

_MAX_DEPTH = 64  # of lists and objects in each other; what walks the values is recursive
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read(path: str | Path) -> Any:
    """The value of a JSON file in UTF-8. Raises UserError naming the file where it is damaged."""
    try:
        data = make_path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if is_lfs_pointer(data):
        raise lfs_pointer_error(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: no UTF-8 text (byte {error.start})") from error
    return parse(text, path)


def parse(text: str, where: str | Path) -> Any:
    """The value of JSON text. Raises UserError naming `where` where it is damaged."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise _nested(where) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is damaged: {error}") from error
    except ValueError as error:  # Python's limit of digits
        raise UserError(f"{where} is damaged: an integer has thousands of digits") from error
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [item for container in level for item in _items(container)]
        if not level:
            return value
    raise _nested(where)


def is_lfs_pointer(data: bytes) -> bool:
    """Whether a file that begins with `data` only points to what Git LFS keeps elsewhere."""
    return data.startswith(_LFS_POINTER)


def lfs_pointer_error(path: str | Path) -> UserError:
    """What to say of a pointer of Git LFS."""
    return UserError(
        f"{path} is a pointer of Git LFS, a few lines of text in place of the file itself: "
        "fetch it with `git lfs pull`, or download the file"
    )


def _items(value: Any) -> list[Any]:
    """The lists and objects directly inside a list or an object."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return []
    return [item for item in value if isinstance(item, (dict, list))]


def _nested(where: str | Path) -> UserError:
    return UserError(f"{where} is damaged: its values are nested too deeply")
