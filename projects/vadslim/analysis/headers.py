"""What a checkpoint holds, from its headers: names, shapes and types of tensors, without their values.

Reads safetensors (one file, or shards with an index), torch's zip and legacy files (state dicts, checkpoints, whole
pickled models) and Hugging Face folders. Nothing that a file names is imported or called: a pickle builds stand-ins.
Imports neither torch nor numpy.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..cli import UserError
from ..files import StrPath

#: type -> bytes of an element; names as in safetensors
SIZES = {
    'BOOL': 1, 'U8': 1, 'I8': 1, 'F8_E4M3': 1, 'F8_E5M2': 1, 'I16': 2, 'U16': 2, 'F16': 2, 'BF16': 2, 'I32': 4,
    'U32': 4, 'F32': 4, 'C64': 8, 'F64': 8, 'I64': 8, 'U64': 8, 'C128': 16,
}  # fmt: skip
_TORCH = {
    'Double': 'F64', 'Float': 'F32', 'Half': 'F16', 'BFloat16': 'BF16', 'Long': 'I64', 'Int': 'I32', 'Short': 'I16',
    'Char': 'I8', 'Byte': 'U8', 'Bool': 'BOOL', 'ComplexFloat': 'C64', 'ComplexDouble': 'C128', 'QInt8': 'I8',
    'QUInt8': 'U8', 'QInt32': 'I32', 'Untyped': 'U8',
}  # fmt: skip
_DTYPES = {
    'float64': 'F64', 'double': 'F64', 'float32': 'F32', 'float': 'F32', 'float16': 'F16', 'half': 'F16',
    'bfloat16': 'BF16', 'int64': 'I64', 'long': 'I64', 'int32': 'I32', 'int': 'I32', 'int16': 'I16', 'short': 'I16',
    'int8': 'I8', 'uint8': 'U8', 'uint16': 'U16', 'uint32': 'U32', 'uint64': 'U64', 'bool': 'BOOL',
    'complex64': 'C64', 'complex128': 'C128', 'float8_e4m3fn': 'F8_E4M3', 'float8_e5m2': 'F8_E5M2',
}  # fmt: skip
LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit


class HeaderError(UserError):
    """A file whose headers cannot be read; the message is one line."""


@dataclass(frozen=True)
class Entry:
    """One tensor.

    Attributes:
        shape: of it.
        dtype: one of ``SIZES``.
        storage: what its bytes are in: file, storage within it, first byte. Tied tensors have the same.
        offset: where its bytes begin in ``storage[0]``; None where they are not one piece of a file.
    """

    shape: tuple[int, ...]
    dtype: str
    storage: tuple[str, str, int] = ('', '', 0)
    offset: int | None = None

    @property
    def count(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * SIZES[self.dtype]


@dataclass
class Headers:
    """What the headers of a checkpoint tell.

    Attributes:
        path: the file or folder.
        kind: ``safetensors``, ``torch zip``, ``torch legacy``, ``pickle`` or ``config``.
        tensors: of the model, by name, in the file's order.
        config: Hugging Face's ``config.json``, if there is one.
        meta: plain data beside the weights: MMEngine's ``meta``, safetensors' ``__metadata__``.
        files: what was read.
        classes: names of what a pickle would have built.
    """

    path: Path
    kind: str
    tensors: dict[str, Entry] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    classes: tuple[str, ...] = ()


def read_headers(path: StrPath) -> Headers:
    """Read the headers of a file or folder.

    Raises:
        HeaderError: there is none, it is damaged, or of no known format.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _folder(path)
        if not path.exists():
            raise HeaderError(f'{path}: no such file or folder')
        return _file(path)
    except OSError as error:
        raise HeaderError(f'{error.filename or path}: cannot be read: {error.strerror or error}') from error


def _file(path: Path) -> Headers:
    size = path.stat().st_size
    if not path.is_file():
        raise HeaderError(f'{path}: is no file')
    if size == 0:
        raise HeaderError(f'{path}: is empty (0 bytes)')
    if path.name.endswith('.index.json'):
        return _index(path)
    with path.open('rb') as file:
        start = file.read(16)
        file.seek(0)
        if start[8:9] == b'{' and int.from_bytes(start[:8], 'little') <= size - 8:
            return _safetensors(path, file, size)  # asked first: a header of 640 bytes begins as a pickle does, 80 02
        if start[:4] == b'PK\x03\x04':
            return _zip(path, file)
        if start[:2] in (b'\x80\x02', b'\x80\x03', b'\x80\x04', b'\x80\x05'):
            return _pickled(path, file, size)
        if len(start) > 8 and start[8:9] == b'{':
            return _safetensors(path, file, size)
    raise HeaderError(f'{path}: is neither a safetensors file, a torch checkpoint nor a pickle')


# --- safetensors, and folders ------------------------------------------------------------------------------


def _safetensors(path: Path, file: BinaryIO, size: int) -> Headers:
    """Format: https://huggingface.co/docs/safetensors, header length, JSON, bytes."""
    (length,) = struct.unpack('<Q', file.read(8))
    if length > min(size - 8, LONGEST_HEADER):
        raise HeaderError(f'{path}: its header would be {length:,} bytes of a file of {size:,}: it is cut or damaged')
    header = _json(path, file.read(length))
    data = size - 8 - length
    tensors, pieces = {}, []
    for name, item in header.items():
        if name == '__metadata__':
            continue
        entry, (begin, end) = _safe_entry(path, name, item, 8 + length)
        if end > data:
            raise HeaderError(f'{path}: {name} ends at byte {end:,} of {data:,}: it is cut or damaged')
        pieces.append((begin, end, name))
        tensors[name] = entry
    pieces.sort()
    for (_, before, one), (begin, _, other) in zip(pieces, pieces[1:]):
        if begin < before:
            raise HeaderError(f'{path}: {one} and {other} overlap: it is damaged')
    meta = header.get('__metadata__')
    return Headers(path, 'safetensors', tensors, meta=meta if isinstance(meta, dict) else {}, files=[path])


def _safe_entry(path: Path, name: str, item: Any, start: int) -> tuple[Entry, tuple[int, int]]:
    try:
        dtype, shape, (begin, end) = item['dtype'], item['shape'], item['data_offsets']
        fits = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        fits = fits and end - begin == math.prod(shape) * SIZES[dtype]
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise HeaderError(f'{path}: the header of {name!r:.80} is no tensor with dtype, shape and data_offsets')
    return Entry(tuple(shape), dtype, (str(path), '', begin), start + begin), (begin, end)


def _json(path: Path, text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise HeaderError(f'{path}: its header is no JSON: it is damaged') from None
    if not isinstance(data, dict):
        raise HeaderError(f'{path}: its header is no JSON object')
    return data


def _index(path: Path) -> Headers:
    """Shards: ``weight_map`` says which file has which tensor."""
    places = _json(path, path.read_bytes()).get('weight_map')
    if not isinstance(places, dict) or not places:
        raise HeaderError(f'{path}: has no weight_map, which says what is in which file')
    shards: dict[str, Headers] = {}
    tensors = {}
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise HeaderError(f'{path}: {name}: {file!r:.80} is no file beside it')
        if file not in shards:
            if not (path.parent / file).is_file():
                raise HeaderError(f'{path.parent / file}: no such file; {path.name} names it')
            shards[file] = _file(path.parent / file)
        if name not in shards[file].tensors:
            raise HeaderError(f'{path.parent / file}: has no {name}, which {path.name} says it has')
        tensors[name] = shards[file].tensors[name]
    first = next(iter(shards.values()))
    classes = tuple(dict.fromkeys(kind for shard in shards.values() for kind in shard.classes))
    files = [path, *(path.parent / file for file in shards)]
    return Headers(path, first.kind, tensors, meta=first.meta, files=files, classes=classes)


#: what a folder's weights are in, the first that is there
_WEIGHTS = (
    'model.safetensors.index.json',
    'model.safetensors',
    'pytorch_model.bin.index.json',
    'pytorch_model.bin',
    'pruned_model.bin',
)


def _folder(path: Path) -> Headers:
    """A Hugging Face folder, or one that holds a single checkpoint."""
    config = None
    if (path / 'config.json').is_file():
        config = _json(path / 'config.json', (path / 'config.json').read_bytes())
    found = [path / name for name in _WEIGHTS if (path / name).is_file()]
    if not found:
        found = sorted(file for file in path.iterdir() if file.suffix in ('.safetensors', '.pth', '.pt', '.bin'))
        if len(found) > 1:
            names = ', '.join(file.name for file in found[:4])
            raise HeaderError(f'{path}: holds several checkpoints ({names}); name one of them')
    if not found and config is None:
        if (path / 'pruned_model').is_dir():
            return _folder(path / 'pruned_model')
        raise HeaderError(f'{path}: holds no weights ({", ".join(_WEIGHTS[:2])} ...) and no config.json')
    headers = _file(found[0]) if found else Headers(path, 'config')
    headers.path, headers.config = path, config
    return headers


# --- pickles -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A tensor as a pickle describes it; where its storage lies is not known yet."""

    shape: tuple[int, ...]
    dtype: str
    storage: _Storage | None
    first: int = 0
    contiguous: bool = True


class _Thing:
    """Stands for whatever a pickle names that is no plain data. It never does anything."""

    name = ''
    state: Any
    items: list[Any]

    def __new__(cls, *_: Any, **__: Any) -> Any:
        thing = super().__new__(cls)  # which is all that a pickle calls, at times
        thing.state, thing.items = None, []
        return thing

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take anything."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        """An element of a list."""
        self.items.append(item)

    def extend(self, items: Any) -> None:
        """Elements of a list."""
        self.items.extend(items)

    add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))


class _Dict(dict):
    """An OrderedDict, without what may hang on it (a state dict's ``_metadata``)."""

    def __setstate__(self, state: Any) -> None:
        """Forget it."""


def _tensor(storage: Any, first: Any, size: Any, stride: Any, dtype: str | None = None) -> _Tensor:
    """``torch._utils._rebuild_tensor``; sizes are checked against the storage."""
    shape, steps = tuple(size), tuple(stride)
    numbers = (first, *shape, *steps)
    if not isinstance(storage, _Storage) or len(shape) != len(steps) or not all(_is_count(n) for n in numbers):
        raise pickle.UnpicklingError('a tensor without a storage, size and stride')
    unit = SIZES[storage.dtype]
    last = first + sum((n - 1) * step for n, step in zip(shape, steps)) if math.prod(shape) else first - 1
    if dtype is None:
        dtype = storage.dtype
    if (last + 1) * SIZES[dtype] > storage.count * unit:
        raise pickle.UnpicklingError(f'a tensor of {shape} that its storage of {storage.count} elements cannot hold')
    expected, contiguous = 1, True
    for n, step in zip(reversed(shape), reversed(steps)):
        contiguous &= n == 1 or step == expected
        expected *= max(n, 1)
    return _Tensor(shape, dtype, storage, first * SIZES[dtype], contiguous)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _dtype(value: Any) -> str:
    name = getattr(value, 'name', '')
    kind = _DTYPES.get(name.removeprefix('torch.'))
    if kind is None:
        raise pickle.UnpicklingError(f'a tensor of the unknown type {name!r:.60}')
    return kind


def _no_storage(dtype: Any, size: Any, *_: Any) -> _Tensor:
    shape = tuple(size)
    if not all(_is_count(n) for n in shape):
        raise pickle.UnpicklingError('a tensor without a size')
    return _Tensor(shape, _dtype(dtype), None)


def _from_type(function: Any, _type: Any, args: Any, *_: Any) -> Any:
    return function(*args) if function in _REBUILD.values() else _Thing(*args)


_REBUILD: dict[str, Callable[..., Any]] = {
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': lambda storage, first, size, stride, *_: _tensor(storage, first, size, stride),
    'torch._utils._rebuild_tensor_v3': lambda storage, first, size, stride, _grad, _hooks, dtype, *_: _tensor(
        storage, first, size, stride, _dtype(dtype)
    ),
    'torch._utils._rebuild_qtensor': lambda storage, first, size, stride, *_: _tensor(storage, first, size, stride),
    'torch._utils._rebuild_parameter': lambda data, *_: data,
    'torch._utils._rebuild_parameter_with_state': lambda data, *_: data,
    'torch._utils._rebuild_meta_tensor_no_storage': _no_storage,
    'torch._tensor._rebuild_from_type_v2': _from_type,
    'torch.Size': tuple,
    'collections.OrderedDict': _Dict,
    'builtins.set': set,
    'builtins.frozenset': frozenset,
    'builtins.dict': dict,
    'builtins.list': list,
    'builtins.tuple': tuple,
}


class _Bounded:
    """A file of which nothing is read that is not there: a buffer of the size that a pickle states is not made."""

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.size, self.readline, self.tell = file, size, file.readline, file.tell

    def read(self, count: int) -> bytes:
        """Exactly so many bytes."""
        if not 0 <= count <= self.size - self.tell():
            raise EOFError('it ends too early')
        return bytes(self.file.read(count))


class _Reader(pickle._Unpickler):  # the one in Python: C's memo takes whatever index a file states
    """An unpickler that builds plain data and stand-ins."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding='latin1')
        self.classes: dict[str, type] = {}
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in of this name; nothing is imported."""
        full = f'{module}.{name}'
        full = full.replace('__builtin__.', 'builtins.', 1)
        if full in _REBUILD:
            return _REBUILD[full]
        if full not in self.classes:
            self.classes[full] = type('Thing', (_Thing,), {'name': full})
        return self.classes[full]

    def persistent_load(self, pid: Any) -> Any:
        """A storage of a tensor; of an old whole model also the source of a class, which is not looked at."""
        if not isinstance(pid, tuple) or not pid:
            raise pickle.UnpicklingError('a persistent object that is no storage')
        if pid[0] == 'module':
            return pid[1]
        if pid[0] != 'storage' or len(pid) < 5:
            raise pickle.UnpicklingError('a persistent object that is no storage')
        kind, key, count = getattr(pid[1], 'name', ''), pid[2], pid[4]
        dtype = _TORCH.get(kind.rpartition('.')[2].removesuffix('Storage'))
        if dtype is None or not isinstance(key, str) or not _is_count(count):
            raise pickle.UnpicklingError(f'a storage of the unknown type {kind!r:.60}')
        return self.storages.setdefault(key, _Storage(dtype, key, count))


def _load(path: Path, reader: _Reader) -> Any:
    try:
        return reader.load()
    except (MemoryError, KeyboardInterrupt, OSError):
        raise
    except Exception as error:  # a damaged or forged pickle can raise anything
        text = ' '.join(str(error).split())[:120] or type(error).__name__
        raise HeaderError(f'{path}: its pickle is cut or damaged ({text})') from None


def _zip(path: Path, file: BinaryIO) -> Headers:
    """torch's zip: ``NAME/data.pkl``, and a record ``NAME/data/KEY`` for each storage."""
    try:
        with zipfile.ZipFile(file) as archive:
            records = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in records if name.rpartition('/')[2] == 'data.pkl' and name.count('/') == 1]
            if len(pickles) != 1:
                raise HeaderError(f'{path}: is a zip file without a data.pkl, not one of torch')
            folder = pickles[0].rpartition('/')[0]
            info = records[pickles[0]]
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > path.stat().st_size:
                raise HeaderError(f'{path}: its data.pkl is compressed, which torch does not do')
            reader = _Reader(_Bounded(io.BytesIO(archive.read(info)), info.file_size))
            content = _load(path, reader)
            for key, storage in reader.storages.items():
                record = records.get(f'{folder}/data/{key}')
                if record is None or record.file_size != storage.count * SIZES[storage.dtype]:
                    raise HeaderError(f'{path}: storage {key} is missing or cut')
            starts = {key: _start(file, records[f'{folder}/data/{key}']) for key in reader.storages}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error, EOFError, ValueError) as error:
        if isinstance(error, HeaderError):
            raise
        raise HeaderError(f'{path}: is a cut or damaged zip file') from None
    return _of_content(path, 'torch zip', content, reader, starts)


def _start(file: BinaryIO, record: zipfile.ZipInfo) -> int | None:
    """Where the bytes of a stored record begin: behind its local header, whose name and extra field vary in length."""
    file.seek(record.header_offset + 26)
    name, extra = struct.unpack('<HH', file.read(4))
    return record.header_offset + 30 + name + extra if record.compress_type == zipfile.ZIP_STORED else None


MAGIC = 0x1950A86A20F9469CFC6C


def _pickled(path: Path, file: BinaryIO, size: int) -> Headers:
    """torch's files before 1.6: five pickles, then the storages; or a pickle of something else."""
    bounded = _Bounded(file, size)
    reader = _Reader(bounded)
    content = _load(path, reader)
    if content != MAGIC:
        return _of_content(path, 'pickle', content, reader, {})
    version = _load(path, _Reader(bounded))
    if version != 1001:
        raise HeaderError(f'{path}: version {version!r:.20} of the legacy format is not known')
    _load(path, _Reader(bounded))
    reader = _Reader(bounded)
    content = _load(path, reader)
    keys = _load(path, _Reader(bounded))
    if not isinstance(keys, list) or not set(reader.storages) <= set(map(str, keys)):
        raise HeaderError(f'{path}: its list of storages is missing or damaged')
    starts: dict[str, int | None] = {}
    for key in keys:
        storage = reader.storages.get(str(key))
        head = file.read(8)
        if storage is None or len(head) < 8 or struct.unpack('<q', head)[0] != storage.count:
            raise HeaderError(f'{path}: storage {key!r:.40} is missing or damaged')
        starts[str(key)] = file.tell()
        if file.tell() + storage.count * SIZES[storage.dtype] > size:
            raise HeaderError(f'{path}: storage {key!r:.40} is cut')
        file.seek(storage.count * SIZES[storage.dtype], os.SEEK_CUR)
    return _of_content(path, 'torch legacy', content, reader, starts)


#: keys under which checkpoints keep the model
_PARTS = ('state_dict', 'model', 'model_state_dict', 'module', 'network', 'net', 'weights')


def _of_content(path: Path, kind: str, content: Any, reader: _Reader, starts: Mapping[str, int | None]) -> Headers:
    try:
        found = dict(_named(_model(content), set()))
        meta = _plain(content.get('meta') or {}, 8) if isinstance(content, dict) else {}
    except RecursionError:
        raise HeaderError(f'{path}: is nested too deeply to be a model') from None
    if not found:
        held = ', '.join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise HeaderError(f'{path}: holds no tensors; it holds {held or "nothing"}')
    tensors = {}
    for name, tensor in found.items():
        key = tensor.storage.key if tensor.storage else name
        start = starts.get(key)
        offset = start + tensor.first if start is not None and tensor.contiguous else None
        tensors[name] = Entry(tensor.shape, tensor.dtype, (str(path), key, tensor.first), offset)
    return Headers(path, kind, tensors, None, meta if isinstance(meta, dict) else {}, [path], tuple(reader.classes))


def _model(content: Any) -> Any:
    """The part of a checkpoint that is the model."""
    while isinstance(content, dict) and not any(isinstance(value, _Tensor) for value in content.values()):
        part = next((content[key] for key in _PARTS if isinstance(content.get(key), dict | _Thing)), None)
        if part is None:
            break
        content = part
    return content


def _named(item: Any, seen: set[int], prefix: str = '') -> Iterator[tuple[str, _Tensor]]:
    """Tensors by dotted names; of a module its parameters, its buffers that are kept, and its children."""
    if isinstance(item, _Tensor):
        yield prefix, item
        return
    if not isinstance(item, dict | list | tuple | _Thing) or id(item) in seen:
        return
    seen.add(id(item))  # a module, or a container, that is there twice counts once
    if isinstance(item, _Thing):
        state = item.state if isinstance(item.state, dict) else {}
        if isinstance(item.state, tuple) and len(item.state) == 2 and isinstance(item.state[1], dict):
            state = item.state[1]
        if '_modules' in state or '_parameters' in state:
            gone = state.get('_non_persistent_buffers_set') or ()
            for part in ('_parameters', '_buffers', '_modules'):
                children = state.get(part)
                for key, value in children.items() if isinstance(children, dict) else ():
                    if part != '_buffers' or key not in gone:
                        yield from _named(value, seen, f'{prefix}.{key}'.lstrip('.'))
            return
        item = state or dict(pair for pair in item.items if isinstance(pair, tuple) and len(pair) == 2)
    pairs = item.items() if isinstance(item, dict) else enumerate(item)
    for key, value in pairs:
        yield from _named(value, seen, f'{prefix}.{key}'.lstrip('.'))


def _plain(item: Any, depth: int) -> Any:
    """Numbers, texts, lists and dicts of an item; the rest becomes None."""
    if isinstance(item, dict) and depth:
        return {key: _plain(value, depth - 1) for key, value in item.items() if isinstance(key, str | int)}
    if isinstance(item, list | tuple) and depth:
        return [_plain(value, depth - 1) for value in item]
    return item if isinstance(item, str | int | float | bool) else None
