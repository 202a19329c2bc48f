"""Errors that a user can put right: shown as one clear message, without a traceback."""

import difflib
import errno
import os
import signal
import unicodedata
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right (a missing file, damaged data). Exit status 1."""

    exit_status = 1


class UsageError(UserError):
    """A command called wrongly (an unknown flag or field, a value of a wrong type). Status 2."""

    exit_status = 2


class TransientError(UserError):
    """What starting again may mend: a late peer, a device or a port in use. Exit status 70."""

    exit_status = os.EX_SOFTWARE


class ProcessLostError(TransientError):
    """Another process of the job is gone, late or hangs."""


class StorageError(TransientError):
    """Storage that failed by itself (an I/O error, a lost mount, a network)."""


# Errors of the file system that the same call meets again: full, forbidden, or a wrong path.
_DETERMINISTIC = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
    errno.ENXIO,
}


def storage_error_kind(number: int | None) -> type[UserError]:
    """The kind of an OSError by its number: `StorageError` where starting again may mend it."""
    return UserError if number in _DETERMINISTIC else StorageError


def exit_status(error: BaseException) -> int:
    """The status with which a command ends over `error`; launchers restart on 70 and 75 alone."""
    if isinstance(error, UserError):
        return error.exit_status
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1 if error.code else 0
    if isinstance(error, OSError) and error.errno is not None:
        return storage_error_kind(error.errno).exit_status
    return TransientError.exit_status


def write_error(path: str | os.PathLike[str], error: OSError, setting: str = "") -> UserError:
    """One line for a file that cannot be written, with the exit status of its kind.

    Args:
        path: The file.
        error: What happened.
        setting: The flag that names it: "--output".
    """
    name = f"{setting}={os.fspath(path)}" if setting else os.fspath(path)
    kind = storage_error_kind(error.errno)
    return kind(f"{name} cannot be written: {error.strerror or error}")


# Characters that reorder what follows them: embeddings, overrides, isolates.
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    r"""A text as a terminal may show it, names of files and tags in it.

    Control characters, which could move the cursor, hide text or set the clipboard, and those that
    turn the direction of writing are spelled `\x1b`; so is half a surrogate pair. Line feeds and
    tabs stay.
    """
    return "".join(
        char
        if char in "\n\t" or (unicodedata.category(char) not in ("Cc", "Cs") and char not in _BIDI)
        else char.encode("unicode_escape").decode()
        for char in text
    )


def nearest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The nearest of `names` to a misspelled one; None where none is near."""
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, names: Iterable[str], cutoff: float = 0.5) -> str:
    """` (did you mean …?)` with the nearest of `names`, or all of them where none is near."""
    names = sorted(names)
    close = nearest(name, names, cutoff)
    return f" (did you mean {close}?)" if close else f" (there are: {', '.join(names)})"
