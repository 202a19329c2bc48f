"""XLA calls a Python function in the middle of a compiled program, on the arrays where they lie.

XLA's foreign function interface (`xla/ffi/api/c_api.h`, delivered with jaxlib) hands a C function
a frame of pointers. `ctypes` makes the C function, so that nothing has to be compiled; it holds the
interpreter's lock only between the calls of C libraries that the function makes.
"""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import jax

# The interface that the structures below are of; XLA refuses a function of a later one.
_MAJOR, _MINOR = 0, 1
_EXECUTE = 3  # XLA_FFI_ExecutionStage_EXECUTE
_METADATA = 1  # XLA_FFI_Extension_Metadata
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL

_kept: list[object] = []  # what XLA holds pointers to

Work = Callable[[bytes, list[int], list[int]], None]


class _Struct(ctypes.Structure):
    """All of them begin so."""

    _fields_ = (("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p))


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


def register(name: str, work: Work) -> None:
    """Makes `work` a target of `jax.ffi.ffi_call` on CPU, which has one attribute, a string.

    Args:
      name: of the target.
      work: is called with the string, the addresses of the arguments and those of the results;
        what it raises ends the program with its text. One thread makes all calls, in turn.
    """

    @_Handler
    def handler(frame: "ctypes._Pointer[_Frame]") -> int | None:
        call = frame.contents
        if call.extension:
            return _describe(call.extension)
        if call.stage != _EXECUTE:
            return None
        try:
            attribute = call.attributes.values[0].contents
            spec = ctypes.string_at(attribute.data, attribute.size)
            given = spec, _addresses(call.arguments), _addresses(call.results)
            _thread().submit(work, *given).result()
        except BaseException as error:  # ctypes would print it, and XLA take the result for whole
            return _error(call.api.contents, f"{name}: {type(error).__name__}: {error}")
        return None

    _kept.append(handler)
    address = ctypes.cast(handler, ctypes.c_void_p)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")


@cache
def _thread() -> ThreadPoolExecutor:
    """One for all: OpenMP keeps as many threads as there are cores for each that calls it."""
    return ThreadPoolExecutor(1, thread_name_prefix="onednn")


def _addresses(buffers: _Buffers) -> list[int]:
    return [buffers.values[i].contents.data for i in range(buffers.size)]


def _describe(address: int) -> None:
    extension = ctypes.cast(address, ctypes.POINTER(_Extension)).contents
    if (extension.extension or 0) & 0xFFFFFFFF == _METADATA:
        version = extension.metadata.contents.version
        version.major, version.minor = _MAJOR, _MINOR


def _error(api: _Api, text: str) -> int:
    arguments = _ErrorArguments(message=text.encode(), code=_INTERNAL)
    arguments.struct_size = ctypes.sizeof(arguments)
    return api.new_error(ctypes.byref(arguments))
