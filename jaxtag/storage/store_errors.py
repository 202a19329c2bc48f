"""Errors of object stores: retried while they may pass, then told in one line.

The clients (gcsfs, s3fs, TensorStore, array_record) retry each request for half a minute or more by
themselves; here a whole operation is tried again after that, and what remains becomes a
`StorageError`, with which launchers start a run again.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from absl import logging

from jaxtag.errors import StorageError, UserError
from jaxtag.storage.paths import is_store

# What TensorStore and array_record say of where it happened.
_STORE = re.compile(r"gs://|s3://|\"gcs\"|storage\.googleapis|Retry policy exhausted")

T = TypeVar("T")

_PAUSES = (2.0, 10.0, 30.0)  # seconds before the second, third and last attempt
# Modules of the clients' exceptions, none of which is an OSError with a number.
_CLIENT = re.compile(r"(gcsfs|s3fs|aiobotocore|botocore|aiohttp|requests|fsspec|google)(\.|$)")
# What is not mended by trying again. TensorStore and array_record have the code in their text.
_PERMANENT = re.compile(
    r"\b(Forbidden|PERMISSION_DENIED|UNAUTHENTICATED|Unauthorized|InvalidAccessKeyId|AccessDenied)\b"
    r"|\bHTTP (response code: )?40[0134]\b|NoSuchBucket|DefaultCredentials"
)
_STATUS = re.compile(
    r"\b(UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED|INTERNAL|DATA_LOSS|kUnavailable)\b"
    r"|HTTP response code: (429|5\d\d)|Retry policy exhausted|retries? exhausted|libcurl|CURL error"
)


def retry(call: Callable[[], T], path: str | os.PathLike[str]) -> T:
    """Calls `call`, again where it fails for a reason of the store at `path` that may pass."""
    for pause in _PAUSES:
        try:
            return call()
        except Exception as error:
            if not (is_store(path) and is_transient(error)):
                raise
            logging.warning("%s: %s; trying again in %g s", path, first_line(error), pause)
            time.sleep(pause)
    return call()


def is_transient(error: BaseException) -> bool:
    """Whether an error is one of a store or of the way to it, and may pass."""
    code = getattr(error, "code", None)
    if isinstance(code, int) and 400 <= code < 500 and code not in (408, 429):
        return False
    return is_store_error(error) and not _PERMANENT.search(f"{type(error).__name__} {error}")


def is_store_error(error: BaseException) -> bool:
    """Whether an error comes from a client of an object store."""
    if any(_CLIENT.match(kind.__module__) for kind in type(error).__mro__):
        return True
    if isinstance(error, OSError):  # gcsfs: 403; s3fs: whatever it was
        return error.errno is None and not isinstance(error, FileNotFoundError | FileExistsError)
    return bool(_STATUS.search(str(error)) or _PERMANENT.search(str(error))) and not isinstance(
        error, UserError
    )


def as_user_error(
    error: BaseException, path: str | os.PathLike[str], setting: str = "", verb: str = "read"
) -> UserError | None:
    """The line for a store's error at `path`; None for any other error.

    Its kind is `StorageError` where starting again may mend it.
    """
    if not is_store(path):
        return None
    name = f"{setting}={os.fspath(path)}" if setting else os.fspath(path)
    if isinstance(error, FileNotFoundError):
        bucket = "/".join(os.fspath(path).split("/")[:3])
        reason = f"there is no bucket {bucket}" if verb == "written" else "it does not exist"
        return UserError(f"{name} cannot be {verb}: {reason}")
    if not is_store_error(error):
        return None
    kind = StorageError if is_transient(error) else UserError
    return kind(f"{name} cannot be {verb}: {first_line(error)}")


@contextlib.contextmanager
def named(path: str | os.PathLike[str], setting: str = "", verb: str = "read") -> Iterator[None]:
    """A context in which the errors of a store become a UserError that names a path."""
    try:
        yield
    except Exception as error:
        if (line := as_user_error(error, path, setting, verb)) is None:
            raise
        raise line from error


def unexpected_error(error: BaseException | None) -> StorageError | None:
    """The line for an error that a client of a store caused somewhere, and that may pass."""
    while error is not None:
        is_client = any(_CLIENT.match(kind.__module__) for kind in type(error).__mro__)
        is_store_text = _STATUS.search(str(error)) and _STORE.search(str(error))
        if (is_client or is_store_text) and is_transient(error):
            return StorageError(f"an object store failed: {first_line(error)}; start again")
        error = error.__cause__ or error.__context__
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without what only its library's developers need."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].partition(" [tensorstore_spec=")[0].partition(" [source locations=")[0]
