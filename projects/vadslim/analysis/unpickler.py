"""An unpickler that runs nothing, for the headers of torch's files, which are pickles.

A pickle is a program. This one's machine knows plain data, and has a stand-in for all else: what a file names is a
``Name``, what it calls becomes a ``Thing`` or a ``Tensor``. The file's own objects never meet Python's methods, and
what it builds, copies or nests is bounded by its length.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .headers import MOST_DIMS, SIZES

_TORCH = {
    'Double': 'F64', 'Float': 'F32', 'Half': 'F16', 'BFloat16': 'BF16', 'Long': 'I64', 'Int': 'I32', 'Short': 'I16',
    'Char': 'I8', 'Byte': 'U8', 'Bool': 'BOOL', 'ComplexFloat': 'C64', 'ComplexDouble': 'C128', 'QInt8': 'I8',
    'QUInt8': 'U8', 'QInt32': 'I32', 'Untyped': 'U8',
}  # fmt: skip
_DTYPES = {
    'float64': 'F64', 'double': 'F64', 'float32': 'F32', 'float': 'F32', 'float16': 'F16', 'half': 'F16',
    'bfloat16': 'BF16', 'int64': 'I64', 'long': 'I64', 'int32': 'I32', 'int': 'I32', 'int16': 'I16', 'short': 'I16',
    'int8': 'I8', 'uint8': 'U8', 'uint16': 'U16', 'uint32': 'U32', 'uint64': 'U64', 'bool': 'BOOL',
    'complex64': 'C64', 'cfloat': 'C64', 'complex128': 'C128', 'cdouble': 'C128', 'float8_e4m3fn': 'F8_E4M3',
    'float8_e5m2': 'F8_E5M2', 'float8_e4m3fnuz': 'F8_E4M3FNUZ', 'float8_e5m2fnuz': 'F8_E5M2FNUZ',
    'float8_e8m0fnu': 'F8_E8M0',
}  # fmt: skip
LONGEST_NAME = 2000  # characters of a tensor or a class
MOST_MARKS = 10_000  # containers begun and not done, of a pickle
_KEPT = 4096  # of a bytes object


# --- what stands on the machine's stack --------------------------------------------------------------------


class Refused(pickle.UnpicklingError):
    """What a pickle must not do, or cannot do here."""


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names."""

    full: str


@dataclass(frozen=True)
class Storage:
    dtype: str
    key: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """A tensor as a pickle describes it; where its storage lies is not known yet. ``first`` counts bytes."""

    shape: tuple[int, ...]
    dtype: str
    storage: Storage | None
    first: int = 0
    strides: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Blob:
    """A bytes object: the first of its bytes, how many there are, and where they lie in the file."""

    head: bytes
    length: int
    start: int


class Thing:
    """Whatever a pickle builds that is no plain data: its state, and its items if it is a container."""

    __slots__ = ('items', 'state')

    def __init__(self) -> None:
        self.state: Any = None
        self.items: list[Any] = []

    def append(self, item: Any) -> None:
        """An element of a list."""
        self.items.append(item)

    def extend(self, items: Any) -> None:
        """Elements of a list."""
        self.items.extend(items)


# --- what it may build -------------------------------------------------------------------------------------


def _tensor(_: Any, storage: Any, first: Any, size: Any, stride: Any, *_rest: Any, dtype: str | None = None) -> Tensor:
    """``torch._utils._rebuild_tensor``; sizes are checked against the storage."""
    shape, steps = _sizes(size), _sizes(stride)
    if not isinstance(storage, Storage) or len(shape) != len(steps) or not _is_count(first):
        raise Refused('a tensor without a storage, size and stride')
    dtype = dtype or storage.dtype
    last = first + sum((n - 1) * step for n, step in zip(shape, steps)) if math.prod(shape) else first - 1
    if (last + 1) * SIZES[dtype] > storage.count * SIZES[storage.dtype]:
        raise Refused(f'a tensor of {shape} that its storage of {storage.count} elements cannot hold')
    expected, contiguous = 1, True
    for n, step in zip(reversed(shape), reversed(steps)):
        contiguous &= n == 1 or step == expected
        expected *= max(n, 1)
    return Tensor(shape, dtype, storage, first * SIZES[dtype], None if contiguous or not math.prod(shape) else steps)


def _tensor_v3(
    reader: Reader, storage: Any, first: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    return _tensor(reader, storage, first, size, stride, dtype=_dtype(dtype))


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > MOST_DIMS or not all(map(_is_count, value)):
        raise Refused('a tensor without a size and stride')
    if math.prod(n or 1 for n in value) >= 2**63:
        raise Refused('a tensor of more than 2**63 elements')
    return tuple(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _dtype(value: Any) -> str:
    name = value.full if isinstance(value, Name) else ''
    kind = _DTYPES.get(name.removeprefix('torch.'))
    if kind is None:
        raise Refused(f'a tensor of the unknown type {name!r:.60}')
    return kind


def _meta(_: Any, dtype: Any, size: Any, *_rest: Any) -> Tensor:
    """A tensor without values."""
    return Tensor(_sizes(size), _dtype(dtype), None)


def _sparse(_: Any, _layout: Any, data: Any) -> Tensor:
    """A sparse tensor counts as the dense one; ``data`` is indices, values and the size."""
    size = next(number for number, part in enumerate(data) if not isinstance(part, Tensor))
    return Tensor(_sizes(data[size]), data[size - 1].dtype, None)


def _data(_: Any, data: Any, *_rest: Any) -> Any:
    return data


def _from_type(reader: Reader, function: Any, _type: Any, args: Any, *_: Any) -> Any:
    return reader.call(function, args)


def _dict(reader: Reader, pairs: Any = ()) -> dict[Any, Any]:
    reader.pay(pairs)
    return {_key(key): value for key, value in (pairs.items() if isinstance(pairs, dict) else pairs)}


def _list(reader: Reader, items: Any = ()) -> list[Any]:
    reader.pay(items)
    return list(items)


def _tuple(reader: Reader, items: Any = ()) -> tuple[Any, ...]:
    reader.pay(items)
    return tuple(items)


def _set(reader: Reader, items: Any = ()) -> set[Any]:
    reader.pay(items)
    return set(map(_key, items))


def _key(key: Any) -> Any:
    """A key of a dict. Numbers and tuples of one hash would each be compared with all others: they become things."""
    plain = type(key) in (str, bytes, bool, float, Thing, type(None)) or (type(key) is int and abs(key) < 2**60)
    return key if plain else Thing()


BUILD: dict[str, Callable[..., Any]] = {
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor_v3,
    'torch._utils._rebuild_qtensor': _tensor,
    'torch._utils._rebuild_parameter': _data,
    'torch._utils._rebuild_parameter_with_state': _data,
    'torch._utils._rebuild_meta_tensor_no_storage': _meta,
    'torch._utils._rebuild_wrapper_subclass': lambda reader, _class, dtype, size, *_: _meta(reader, dtype, size),
    'torch._utils._rebuild_sparse_tensor': _sparse,
    'torch._tensor._rebuild_from_type_v2': _from_type,
    'torch.Size': _tuple,
    'collections.OrderedDict': _dict,
    'builtins.dict': _dict,
    'builtins.list': _list,
    'builtins.tuple': _tuple,
    'builtins.set': _set,
    'builtins.frozenset': _set,
}


# --- the machine -------------------------------------------------------------------------------------------


class Bounded:
    """A file of which nothing is read that is not there: a buffer of the size that a pickle states is not made."""

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.size, self.readline, self.tell = file, size, file.readline, file.tell

    def read(self, count: int) -> bytes:
        """Exactly so many bytes."""
        if not 0 <= count <= self.size - self.tell():
            raise EOFError('it ends too early')
        return bytes(self.file.read(count))

    def skip(self, count: int) -> None:
        """Goes on behind so many bytes."""
        if count > self.size - self.tell():
            raise EOFError('it ends too early')
        self.file.seek(count, io.SEEK_CUR)


_Machine: Any = pickle._Unpickler  # the one in Python: C's memo takes whatever index a file states


class Reader(_Machine):
    """An unpickler that builds plain data and stand-ins."""

    dispatch = dict(_Machine.dispatch)

    def __init__(self, file: Bounded, build: Mapping[str, Callable[..., Any]] = BUILD) -> None:
        super().__init__(file, encoding='latin1')
        self.file, self.build = file, build
        self.names: dict[str, Name] = {}
        self.storages: dict[str, Storage] = {}
        self.left = file.size + 1000  # elements that may be copied

    def pay(self, items: Any) -> None:
        """Copies of what is held by name could be many."""
        if not isinstance(items, list | tuple | dict | set | bytes):
            raise Refused('a container of what is none')
        self.left -= len(items)
        if self.left < 0:
            raise Refused('it copies more than it holds')

    def find_class(self, module: str, name: str) -> Name:
        """A stand-in of this name; nothing is imported."""
        if len(module) + len(name) > LONGEST_NAME:
            raise Refused(f'a name of more than {LONGEST_NAME} characters')
        full = f'{module}.{name}'.replace('__builtin__.', 'builtins.', 1)
        return self.names.setdefault(full, Name(full))

    def get_extension(self, code: int) -> None:
        """A name by a number that only the program that wrote it can look up."""
        raise Refused(f'the extension {code}, which is not known')

    def persistent_load(self, pid: Any) -> Any:
        """A storage of a tensor; of an old whole model also the source of a class, which is not looked at."""
        if not isinstance(pid, tuple) or not pid or not isinstance(pid[0], str):
            raise Refused('a persistent object that is no storage')
        if pid[0] == 'module' and len(pid) > 1:
            return pid[1]
        if pid[0] != 'storage' or len(pid) < 5 or (len(pid) > 5 and pid[5] is not None):
            raise Refused('a persistent object that is no storage')
        kind, key, count = pid[1].full if isinstance(pid[1], Name) else '', pid[2], pid[4]
        dtype = _TORCH.get(kind.rpartition('.')[2].removesuffix('Storage'))
        if dtype is None or not isinstance(key, str) or not _is_count(count):
            raise Refused(f'a storage of the unknown type {kind!r:.60}')
        storage = Storage(dtype, key, count)
        if self.storages.setdefault(key, storage) != storage:
            raise Refused(f'the storage {key!r:.40} with two types or sizes')
        return storage

    def call(self, called: Any, args: Any) -> Any:
        """What a class or a function makes."""
        if isinstance(called, Thing):
            return Thing()  # of a class that the pickle itself has built, as dill saves those of a script
        if not isinstance(called, Name) or not isinstance(args, tuple | list):
            raise Refused('it calls what is no class')
        if called.full in self.build:
            return self.build[called.full](self, *args)
        if called.full.startswith(('torch._utils._rebuild_', 'torch.storage._load_from_bytes')):
            raise Refused(f'a tensor made by {called.full:.80}, which is not known')
        return Thing()

    def _instantiate(self, called: Any, args: Any) -> None:  # of pickle's own opcodes OBJ and INST
        self.append(self.call(called, args))

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], args)

    def _new(self) -> None:
        args = self.stack.pop()
        called = self.stack.pop()
        self.append(self.call(called, args))

    def _new_ex(self) -> None:
        self.stack.pop()  # arguments by keyword
        self._new()

    def _build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Thing):  # others' state says nothing here (a state dict's ``_metadata``)
            self.stack[-1].state = state

    def _mark(self) -> None:
        if len(self.metastack) > MOST_MARKS:
            raise Refused('it is nested too deeply')
        self.load_mark()

    def _put(self) -> None:
        index = int(self.readline()[:-1])
        if not 0 <= index < 2**32:
            raise Refused('a number of the memo that is too large')
        self.memo[index] = self.stack[-1]

    def _bytearray(self) -> None:
        self.append(self.read(struct.unpack('<Q', self.read(8))[0]))

    def _bytes(self, form: str) -> None:
        length = struct.unpack(form, self.read(struct.calcsize(form)))[0]
        frame = self._unframer.current_frame
        left = len(frame.getbuffer()) - frame.tell() if frame else 0
        start = self.file.tell() - left
        head = self.read(length if left else min(length, _KEPT))
        if not left:  # what is long stands in no frame
            self.file.skip(length - len(head))
        self.append(Blob(head[:_KEPT], length, start))

    def _make_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_pairs(items)

    def _set_item(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._set_pairs([key, value])

    def _set_items(self) -> None:
        self._set_pairs(self.pop_mark())

    def _set_pairs(self, items: list[Any]) -> None:
        pairs = [(_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True)]
        owner = self.stack[-1]
        if isinstance(owner, Thing):
            owner.items.extend(pairs)
        elif isinstance(owner, dict):
            owner.update(pairs)
        else:
            raise Refused('items of what is no dict')

    def _make_set(self) -> None:
        self.append(set())

    def _make_frozenset(self) -> None:
        self.append(set(map(_key, self.pop_mark())))

    def _add_items(self) -> None:
        items = self.pop_mark()
        owner = self.stack[-1]
        if isinstance(owner, set):
            owner.update(map(_key, items))
        elif isinstance(owner, Thing):
            owner.items.extend(items)
        else:
            raise Refused('elements of what is no set')

    for _code, _what in (
        (pickle.REDUCE, _reduce),
        (pickle.NEWOBJ, _new),
        (pickle.NEWOBJ_EX, _new_ex),
        (pickle.BUILD, _build),
        (pickle.MARK, _mark),
        (pickle.PUT, _put),
        (pickle.BYTEARRAY8, _bytearray),
        (pickle.SHORT_BINBYTES, lambda self: self._bytes('<B')),
        (pickle.BINBYTES, lambda self: self._bytes('<I')),
        (pickle.BINBYTES8, lambda self: self._bytes('<Q')),
        (pickle.DICT, _make_dict),
        (pickle.SETITEM, _set_item),
        (pickle.SETITEMS, _set_items),
        (pickle.EMPTY_SET, _make_set),
        (pickle.FROZENSET, _make_frozenset),
        (pickle.ADDITEMS, _add_items),
    ):
        dispatch[_code[0]] = _what
