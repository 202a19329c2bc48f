"""Calls from XLA's compiled programs into Python functions, on the arrays where they lie.

XLA's foreign function interface (`xla/ffi/api/c_api.h`, delivered with jaxlib) hands a C function
a frame of pointers. `ctypes` makes the C function, so that nothing has to be compiled; it holds the
interpreter's lock only between the calls of C libraries that the function makes.
"""

import ctypes
import re
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import jax

# The version of the interface that the structures below are of. XLA refuses a function of a later
# one than its own; in the others that are known nothing was added before the end of a structure.
_MAJOR, _MINOR = 0, 1
KNOWN_VERSIONS = ((0, 1), (0, 2), (0, 3))

_EXECUTE = 3  # XLA_FFI_ExecutionStage_EXECUTE
_METADATA = 1  # XLA_FFI_Extension_Metadata
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL

Callback = Callable[[bytes, list[int], list[int]], None]


class _Struct(ctypes.Structure):
    """Every structure of the interface begins so."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = (
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
    )


class _Version(_Struct):
    _fields_ = (("major", ctypes.c_int), ("minor", ctypes.c_int))


class _ErrorArguments(_Struct):
    _fields_ = (("message", ctypes.c_char_p), ("code", ctypes.c_int))


_ErrorCreate = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_ErrorArguments))


class _Api(_Struct):
    _fields_ = (("version", _Version), ("internal", ctypes.c_void_p), ("new_error", _ErrorCreate))


class _Buffer(_Struct):
    _fields_ = (("dtype", ctypes.c_int), ("data", ctypes.c_void_p))  # and more


class _Buffers(_Struct):
    _fields_ = (
        ("size", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("values", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    )


class _Bytes(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Attributes(_Struct):
    _fields_ = (
        ("size", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("names", ctypes.c_void_p),
        ("values", ctypes.POINTER(ctypes.POINTER(_Bytes))),
    )


class _Frame(_Struct):
    _fields_ = (
        ("api", ctypes.POINTER(_Api)),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    )


class _Metadata(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("version", _Version))  # and more


class _Extension(_Struct):
    # After its size XLA's has the type, where others have a pointer.
    _fields_ = (("next", ctypes.c_void_p), ("metadata", ctypes.POINTER(_Metadata)))


_Handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Frame))


def api_version() -> tuple[int, int] | None:
    """(major, minor) of the interface of the installed jaxlib, or None where its header is gone."""
    try:
        header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    except OSError:
        return None
    numbers = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", header))
    if len(numbers) < 2:
        return None
    return int(numbers["MAJOR"]), int(numbers["MINOR"])


def register(name: str, callback: Callback) -> None:
    """Makes `callback` a target of `jax.ffi.ffi_call` on CPU with one attribute, a string.

    Args:
        name: of the target.
        callback: called with the string, the addresses of the arguments and those of the results;
            what it raises ends the program with its text. One thread makes all calls, in turn.
    """
    _callbacks().register(name, callback)


class _Callbacks:
    """The C functions that XLA holds pointers to, and the thread that their callbacks run in.

    One thread for all: OpenMP keeps as many threads as there are cores for each thread that calls
    it.
    """

    def __init__(self) -> None:
        self._handlers: list[Any] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="onednn")

    def register(self, name: str, callback: Callback) -> None:
        """See `register`."""

        def handle(frame: Any) -> int | None:
            call = frame.contents
            if call.extension:
                _describe(call.extension)
                return None
            if call.stage != _EXECUTE:
                return None
            try:
                attribute = call.attributes.values[0].contents
                spec = ctypes.string_at(attribute.data, attribute.size)
                addresses = _addresses(call.arguments), _addresses(call.results)
                self._thread.submit(callback, spec, *addresses).result()
            # ctypes would print it, and XLA take the result for complete.
            except BaseException as error:
                trace = "".join(traceback.format_exception(error))
                return _error(
                    call.api.contents, f"{name}: {type(error).__name__}: {error}\n{trace}"
                )
            return None

        handler = _Handler(handle)
        self._handlers.append(handler)
        address = ctypes.cast(handler, ctypes.c_void_p)
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")


@cache
def _callbacks() -> _Callbacks:
    return _Callbacks()


def _addresses(buffers: _Buffers) -> list[int]:
    return [buffers.values[i].contents.data for i in range(buffers.size)]


def _describe(address: int) -> None:
    """Writes the version of the interface where XLA asks for it."""
    extension = ctypes.cast(address, ctypes.POINTER(_Extension)).contents
    if (extension.extension or 0) & 0xFFFFFFFF == _METADATA:
        version = extension.metadata.contents.version
        version.major, version.minor = _MAJOR, _MINOR


def _error(api: _Api, text: str) -> int:
    arguments = _ErrorArguments(message=text.encode("utf-8", "backslashreplace"), code=_INTERNAL)
    arguments.struct_size = ctypes.sizeof(arguments)
    return api.new_error(ctypes.byref(arguments))
