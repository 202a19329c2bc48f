"""Reads the pickles of PyTorch's checkpoints without executing anything.

A pickle is a program that may call any function of any module. This interpreter imports nothing: a
few names of PyTorch stand for values of its own (`TensorView`, `Storage`), each other name is
refused, and what it may build are dictionaries, lists, tuples, texts and numbers. A module of
TorchScript (`torch.jit.save`), whose class is named `__torch__…`, is the dictionary of its
attributes; its code is not read.
"""

import dataclasses
import math
import pickletools
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from jaxtag.errors import printable

MAX_BYTES = 64 << 20  # of a pickle's opcodes; those of the largest published models have 10 MB
_MAX_OPCODES = 4_000_000
_MAX_DIMENSIONS = 32

# PyTorch's storage classes and the NumPy names of their numbers.
_STORAGES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}


class PickleError(Exception):
    """The pickle is damaged, or holds something other than tensors in dictionaries."""


class ForeignNameError(PickleError):
    """The pickle names a class or function that is no part of a tensor."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """Numbers in a row, in the file.

    Attributes:
        key: its name there.
        dtype: NumPy's name, such as "bfloat16".
        numel: how many numbers.
        offset: of the first number in the storage `key`, where this is a part of it.
    """

    key: str
    dtype: str
    numel: int
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class TensorView:
    """A tensor: a strided view of a storage, checked to lie inside it.

    Attributes:
        offset: of the first element in the storage, in numbers, as `strides`.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Name:
    """A name that pickles of tensors use; calling it is `apply`, with the arguments in a tuple."""

    name: str
    apply: Callable[[Sequence[Any]], Any] | None = None


class _ScriptModule(dict[Any, Any]):
    """The attributes of a module of TorchScript."""


class _Mark:
    """Where a group of values on the stack begins."""


def load(file: BinaryIO) -> Any:
    """The value of the pickle at the position of `file`, which is left behind it.

    Raises:
        ForeignNameError: names the first class or function that is no part of a tensor.
        PickleError: it is damaged, too large, or of another kind.
    """
    return _Machine().run(file)


class _BoundedFile:
    """A file of which `pickletools` reads at most `MAX_BYTES`: lengths in a pickle may lie."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._left = MAX_BYTES

    def read(self, size: int) -> bytes:
        return self._count(self._file.read(size)) if size <= self._left else self._refuse()

    def readline(self) -> bytes:
        return self._count(self._file.readline(self._left + 1))

    def tell(self) -> int:
        return self._file.tell()

    def _count(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data if self._left >= 0 else self._refuse()

    def _refuse(self) -> bytes:
        raise PickleError(f"its pickle is longer than {MAX_BYTES >> 20} MB")


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:
        try:
            opcodes = pickletools.genops(_BoundedFile(file))  # type: ignore[arg-type]
            for number, (opcode, argument, _) in enumerate(opcodes):
                if opcode.name == "STOP":
                    return self._take()
                if number == _MAX_OPCODES:
                    raise PickleError(f"its pickle has more than {_MAX_OPCODES:,} opcodes")
                self._step(opcode.name, argument)
        except PickleError:
            raise
        except (ValueError, IndexError, KeyError, UnicodeError, OverflowError) as error:
            raise PickleError(f"its pickle is damaged ({printable(str(error))[:200]})") from error
        raise PickleError("its pickle is cut off")

    def _step(self, name: str, argument: Any) -> None:
        if name in _IGNORED:
            return
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            self._stack.append(argument)
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self._stack.append(tuple(reversed([self._take() for _ in range(_TUPLES[name])])))
        elif name in _PUTS:
            self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]
        elif name in _GETS:
            self._stack.append(self._memo[argument])
        elif method := getattr(self, f"_{name.lower()}", None):
            method(argument)
        else:
            raise PickleError(f"its pickle has the opcode {name}, which tensors do not need")

    def _take(self) -> Any:
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise PickleError("its pickle is damaged (a mark in place of a value)")
        return value

    def _take_group(self) -> list[Any]:
        for position in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[position], _Mark):
                values = self._stack[position + 1 :]
                del self._stack[position:]
                return values
        raise PickleError("its pickle is damaged (no mark)")

    def _mark(self, _: Any) -> None:
        self._stack.append(_Mark())

    def _pop(self, _: Any) -> None:
        self._take()

    def _pop_mark(self, _: Any) -> None:
        self._take_group()

    def _dup(self, _: Any) -> None:
        value = self._take()
        self._stack += [value, value]

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._take_group()))

    def _list(self, _: Any) -> None:
        self._stack.append(self._take_group())

    def _dict(self, _: Any) -> None:
        values = self._take_group()
        self._stack.append({})
        self._set_items(values)

    def _append(self, _: Any) -> None:
        self._extend([self._take()])

    def _appends(self, _: Any) -> None:
        self._extend(self._take_group())

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise PickleError("its pickle is damaged (values are appended to no list)")
        target.extend(values)

    def _setitem(self, _: Any) -> None:
        value, key = self._take(), self._take()
        self._set_items([key, value])

    def _setitems(self, _: Any) -> None:
        self._set_items(self._take_group())

    def _set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise PickleError("its pickle is damaged (items are set in no dictionary)")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, (str, int, float, bytes, type(None))):
                raise PickleError(f"its pickle has a {type(key).__name__} as a key")
            target[key] = value

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(_resolve(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self._take(), self._take()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("its pickle names a class by something that is no text")
        self._stack.append(_resolve(module, name))

    def _inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._call(_resolve(module, name), tuple(self._take_group()))

    def _obj(self, _: Any) -> None:
        callee, *arguments = self._take_group()
        self._call(callee, tuple(arguments))

    def _newobj(self, _: Any) -> None:
        arguments, callee = self._take(), self._take()
        self._call(callee, arguments)

    def _reduce(self, _: Any) -> None:
        arguments, callee = self._take(), self._take()
        self._call(callee, arguments)

    def _call(self, callee: Any, arguments: Any) -> None:
        if not isinstance(callee, _Name) or callee.apply is None:
            shown = callee.name if isinstance(callee, _Name) else f"a {type(callee).__name__}"
            raise PickleError(f"its pickle calls {shown}, which is no function of tensors")
        if not isinstance(arguments, tuple):
            raise PickleError(f"its pickle calls {callee.name} without arguments")
        self._stack.append(callee.apply(arguments))

    def _build(self, _: Any) -> None:
        state = self._take()  # such as the `_metadata` of a state_dict: versions of its modules
        if isinstance(self._stack[-1], _ScriptModule):
            if not isinstance(state, dict):
                raise PickleError("its pickle has a module whose attributes have no names")
            self._stack[-1].update(state)
        elif not isinstance(self._stack[-1], (dict, TensorView)):
            raise PickleError("its pickle sets attributes of what is neither tensor nor dictionary")

    def _binpersid(self, _: Any) -> None:
        self._stack.append(_storage(self._take()))

    def _ext1(self, argument: int) -> None:
        raise ForeignNameError(f"extension {argument} of copyreg's registry")

    _ext2 = _ext4 = _ext1


_IGNORED = {"PROTO", "FRAME"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}


def _resolve(module: str, name: str) -> _Name:
    """What stands for a name. Raises ForeignNameError for one that is no part of a tensor."""
    if module.split(".")[0] == "__torch__":
        return _Name(f"{module}.{name}", _script_module)
    stand_in = _NAMES.get((module, name))
    if stand_in is None:
        raise ForeignNameError(printable(f"{module}.{name}")[:200])
    return stand_in


def _ordered_dict(arguments: Sequence[Any]) -> dict[Any, Any]:
    if arguments:
        raise PickleError("its pickle makes an OrderedDict of values, which PyTorch does not")
    return {}


def _script_module(arguments: Sequence[Any]) -> _ScriptModule:
    if arguments:
        raise PickleError("its pickle makes a module of values, which TorchScript does not")
    return _ScriptModule()


def _first(arguments: Sequence[Any]) -> Any:
    """A list of TorchScript, whose type is named beside it."""
    if not arguments:
        raise PickleError("its pickle has a list without values")
    return arguments[0]


def _storage(identity: Any) -> Storage:
    """The storage of a persistent id: ("storage", class, key, device, numel[, part of it])."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise PickleError("its pickle refers to something that is no storage of a tensor")
    _, kind, key, _, numel, *part = identity
    dtype = _STORAGES.get(kind.name.rpartition(".")[2]) if isinstance(kind, _Name) else None
    if dtype is None or not isinstance(key, str) or not _is_count(numel):
        raise PickleError("its pickle has a storage of an unknown kind")
    if not part or part[0] is None:
        return Storage(key, dtype, numel)
    view = part[0]
    if not isinstance(view, tuple) or len(view) != 3 or not all(map(_is_count, view[1:])):
        raise PickleError("its pickle has a damaged part of a storage")
    _, offset, size = view
    if offset + size > numel:
        raise PickleError("a part of a storage reaches beyond its end")
    return Storage(key, dtype, size, offset)


def _tensor(arguments: Sequence[Any]) -> TensorView:
    """The tensor of `_rebuild_tensor(_v2)`: storage, offset, shape, strides and what has no use."""
    if len(arguments) < 4:
        raise PickleError("its pickle has a tensor without a shape")
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage) or not _is_count(offset):
        raise PickleError("its pickle has a tensor without a storage")
    for numbers in (shape, strides):
        is_shape = isinstance(numbers, tuple) and len(numbers) <= _MAX_DIMENSIONS
        if not is_shape or not all(map(_is_count, numbers)):
            raise PickleError("its pickle has a tensor of a damaged shape")
    if len(shape) != len(strides):
        raise PickleError("its pickle has a tensor with a stride too few or too many")
    size = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if size and (last >= storage.numel or size > storage.numel):
        raise PickleError(
            f"a tensor {list(shape)} reaches beyond its storage of {storage.numel} numbers"
        )
    return TensorView(storage, offset, shape, strides)


def _parameter(arguments: Sequence[Any]) -> TensorView:
    if not arguments or not isinstance(arguments[0], TensorView):
        raise PickleError("its pickle has a parameter that is no tensor")
    return arguments[0]


def _size(arguments: Sequence[Any]) -> tuple[Any, ...]:
    if len(arguments) != 1 or not isinstance(arguments[0], tuple):
        raise PickleError("its pickle has a damaged torch.Size")
    return arguments[0]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


_NAMES: dict[tuple[str, str], _Name] = {
    ("collections", "OrderedDict"): _Name("collections.OrderedDict", _ordered_dict),
    ("torch", "Size"): _Name("torch.Size", _size),
    **{("torch", name): _Name(f"torch.{name}") for name in _STORAGES},
    ("torch.storage", "UntypedStorage"): _Name("torch.storage.UntypedStorage"),
}
for _name in ("intlist", "doublelist", "boollist", "tensorlist"):
    _NAMES["torch.jit._pickle", f"build_{_name}"] = _Name(f"torch.jit._pickle.{_name}", _first)
_NAMES["torch.jit._pickle", "restore_type_tag"] = _Name("torch.jit._pickle.type_tag", _first)
for _name, _function in {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter,
}.items():
    _NAMES["torch._utils", _name] = _Name(f"torch._utils.{_name}", _function)
