"""Names, shapes and types of the tensors in torch's files: state dicts, checkpoints, whole pickled models."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..old_layouts import HALVES, names_of_today
from .headers import SIZES, Entry, HeaderError, Headers
from .unpickler import BUILD, LONGEST_NAME, Blob, Bounded, Reader, Refused, Storage, Tensor, Thing

DEEPEST = 100  # modules in modules
MOST_PARTS = 4  # a checkpoint in a checkpoint ...
MOST_META = 20_000_000  # values in ``meta``, each as often as it stands there


def _load(path: Path, reader: Reader) -> Any:
    try:
        return reader.load()
    except (MemoryError, OSError):
        raise
    except Refused as error:
        raise HeaderError(f'{path}: its pickle is damaged or cannot be read: {error}') from None
    except Exception as error:  # a damaged or forged pickle can raise anything
        text = ' '.join(str(error).split())[:120] or type(error).__name__
        raise HeaderError(f'{path}: its pickle is cut or damaged ({text})') from None


# --- torch's two formats -----------------------------------------------------------------------------------


def read_zip(path: Path, file: BinaryIO, size: int) -> Headers:
    """Read the headers of a file of torch's zip format.

    It holds ``NAME/data.pkl``, and a record ``NAME/data/KEY`` for each storage.

    Args:
        path: names the file.
        file: open, at its first byte.
        size: of it, bytes.

    Raises:
        HeaderError: it is damaged, or not one of torch.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            records = {info.filename: info for info in archive.infolist()}
            if len(records) < len(archive.infolist()):
                raise HeaderError(f'{path}: is a zip file with two records of one name: it is damaged')
            pickles = [name for name in records if name.rpartition('/')[2] == 'data.pkl' and name.count('/') == 1]
            if len(pickles) != 1:
                raise HeaderError(f'{path}: is a zip file without a data.pkl, not one of torch')
            folder = pickles[0].rpartition('/')[0]
            info = records[pickles[0]]
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                raise HeaderError(f'{path}: its data.pkl is compressed, which torch does not do')
            reader = Reader(Bounded(io.BytesIO(archive.read(info)), info.file_size))
            content = _load(path, reader)
            starts = {}
            for key, storage in reader.storages.items():
                record = records.get(f'{folder}/data/{key}')
                length = storage.count * SIZES[storage.dtype]
                if record is None or record.file_size != length:
                    raise HeaderError(f'{path}: storage {key!r:.40} is missing or cut')
                starts[key] = _start(file, record)
                if (starts[key] or 0) + (length if record.compress_type == zipfile.ZIP_STORED else 0) > size:
                    raise HeaderError(f'{path}: storage {key!r:.40} is cut')
            order = records.get(f'{folder}/byteorder')
            big = order is not None and order.file_size == 3 and archive.read(order) == b'big'
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error, EOFError, ValueError) as error:
        if isinstance(error, HeaderError):
            raise
        raise HeaderError(f'{path}: is a cut or damaged zip file') from None
    return _of_content(path, 'torch zip', content, reader, starts, big)


def _start(file: BinaryIO, record: zipfile.ZipInfo) -> int | None:
    """Where the bytes of a stored record begin: behind its local header, whose name and extra field vary in length."""
    file.seek(record.header_offset)
    magic, name, extra = struct.unpack('<4s22xHH', file.read(30))
    if magic != b'PK\x03\x04':
        raise zipfile.BadZipFile
    return record.header_offset + 30 + int(name) + int(extra) if record.compress_type == zipfile.ZIP_STORED else None


MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


def read_pickle(path: Path, file: BinaryIO, size: int) -> Headers:
    """Read the headers of a file of torch before 1.6: five pickles, then the storages; or of some other pickle.

    Args and errors as of :func:`read_zip`.
    """
    bounded = Bounded(file, size)
    starts: dict[str, int | None] = {}
    build = {**BUILD, 'torch.storage._load_from_bytes': lambda reader, blob: _stored(reader, blob, starts)}
    reader = Reader(bounded, build)
    content = _load(path, reader)
    if type(content) is not int or content != MAGIC:
        return _of_content(path, 'pickle', content, reader, starts)
    version = _load(path, Reader(bounded))
    if type(version) is not int or version != VERSION:
        raise HeaderError(f'{path}: its version of the legacy format is not known')
    system = _load(path, Reader(bounded))
    reader = Reader(bounded)
    content = _load(path, reader)
    keys = _load(path, Reader(bounded))
    if not isinstance(keys, list) or not all(type(key) in (str, int) for key in keys):
        raise HeaderError(f'{path}: its list of storages is missing or damaged')
    for key in map(str, keys):
        storage = reader.storages.get(key)
        head = file.read(8)
        if storage is None or len(head) < 8 or struct.unpack('<q', head)[0] != storage.count or key in starts:
            raise HeaderError(f'{path}: storage {key!r:.40} is missing or damaged')
        starts[key] = file.tell()
        if file.tell() + storage.count * SIZES[storage.dtype] > size:
            raise HeaderError(f'{path}: storage {key!r:.40} is cut')
        file.seek(storage.count * SIZES[storage.dtype], os.SEEK_CUR)
    if len(starts) < len(reader.storages):
        raise HeaderError(f'{path}: its list of storages is missing or damaged')
    big = isinstance(system, dict) and system.get('little_endian') is False
    return _of_content(path, 'torch legacy', content, reader, starts, big)


def _stored(reader: Reader, blob: Any, starts: dict[str, int | None]) -> Storage:
    """A storage that is itself a file of the legacy format: ``pickle.dump`` and ``dill.dump`` write each tensor so."""
    if not isinstance(blob, Blob):
        raise Refused('a storage that is no bytes')
    reader.pay(blob.head)  # one object could be read many times
    file = Bounded(io.BytesIO(blob.head), len(blob.head))
    parts = []
    for _ in range(5):
        part = Reader(file)
        parts.append(part.load())
        reader.names |= part.names
    storage, keys = parts[3:]
    if parts[:2] != [MAGIC, VERSION] or not isinstance(storage, Storage) or keys != [storage.key]:
        raise Refused('a storage that is no file of torch')
    count = struct.unpack('<q', file.read(8))[0]
    if count != storage.count or file.tell() + count * SIZES[storage.dtype] != blob.length:
        raise Refused('a storage that is cut')
    own = Storage(storage.dtype, str(len(reader.storages)), count)
    reader.storages[own.key] = own
    starts[own.key] = blob.start + file.tell()
    return own


# --- the model in it ---------------------------------------------------------------------------------------

#: keys under which checkpoints keep the model
_PARTS = (
    'state_dict', 'model', 'model_state_dict', 'module', 'network', 'net', 'weights', 'ema_state_dict',
    'state_dict_ema', 'model_ema',
)  # fmt: skip

#: modules by which pickles run commands, and functions of Python. Not ``getattr``: MMEngine's checkpoints have it.
_ATTACKS = {
    'os', 'posix', 'nt', 'subprocess', 'commands', 'popen2', 'sys', 'pty', 'runpy', 'shutil', 'socket', 'ctypes',
    'importlib', 'imp', 'pkgutil', 'webbrowser', 'codeop', 'timeit', 'pdb', 'bdb', 'cProfile',
    'asyncio', 'signal', 'http', 'urllib', 'httplib', 'ftplib', 'smtplib', 'requests', 'pip',
}  # fmt: skip
#: of modules whose names a project could have, too
_ATTACKING_FUNCTIONS = {'code.interact', 'code.InteractiveInterpreter', 'profile.run', 'profile.runctx', 'trace.Trace'}
_ATTACKING_BUILTINS = {'eval', 'exec', 'execfile', 'compile', 'open', 'input', 'apply', '__import__', 'breakpoint'}


def _of_content(
    path: Path, kind: str, content: Any, reader: Reader, starts: Mapping[str, int | None], big: bool = False
) -> Headers:
    tensors: dict[str, Entry] = {}
    try:
        for name, tensor in _named(_model(content), set()):
            if name in tensors:
                raise Refused(f'two tensors of the name {name!r:.80}')
            key = tensor.storage.key if tensor.storage else name
            start = starts.get(key) if tensor.storage else None
            offset = None if start is None else start + tensor.first
            tensors[name] = Entry(tensor.shape, tensor.dtype, (str(path), key, tensor.first), offset, tensor.strides)
        said = content if isinstance(content, dict) else {}
        if not isinstance(said.get('state_dict'), dict):
            tensors = names_of_today(tensors)
        meta, metadata = (_plain(said.get(key), {}, 50)[0] for key in ('meta', 'metadata'))
    except Refused as error:
        raise HeaderError(f'{path}: {error}') from None
    if not tensors:
        held = (
            ', '.join(f'{key:.40}' for key in list(content)[:5] if isinstance(key, str))
            if isinstance(content, dict)
            else ''
        )
        raise HeaderError(f'{path}: holds no tensors; it holds {held or "something else"}')
    meta = meta if isinstance(meta, dict) else {}
    classes = tuple(name for name in reader.names if name not in BUILD)
    attack = next(filter(_runs_code, classes), None)
    if attack:
        raise HeaderError(f'{path}: its pickle names {attack:.60}, which no model needs: refused, and nothing run')
    metadata = metadata if isinstance(metadata, dict) else {}
    return Headers(path, kind, tensors, None, meta, [path], classes, big, metadata)


def _runs_code(name: str) -> bool:
    """Whether a name is there to attack whoever loads the file: nothing that saves a model writes it."""
    module, _, function = name.partition('.')
    return (
        module in _ATTACKS or name in _ATTACKING_FUNCTIONS or (module == 'builtins' and function in _ATTACKING_BUILTINS)
    )


def _model(content: Any) -> Any:
    """The part of a checkpoint that is the model: the first that holds tensors."""
    barren: set[int] = set()  # containers that hold none; they may be part of all parts
    for _ in range(MOST_PARTS):
        for key in _PARTS if isinstance(content, dict) else ():
            part = content.get(key)
            if isinstance(part, dict | Thing):
                seen = set(barren)
                if next(_named(part, seen), None):
                    content = part
                    break
                barren = seen
        else:
            break
    return _joined(content) if isinstance(content, dict) else content


def _joined(content: dict[Any, Any]) -> dict[Any, Any]:
    """An old checkpoint's encoder and decoder, which it has apart, as one model."""
    halves = {half: content.get(f'{half}_state_dict') for half in HALVES}
    held = {half: part for half, part in halves.items() if isinstance(part, dict) and next(_named(part, set()), None)}
    return held or content


def _named(item: Any, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Tensors by dotted names; of a module its parameters, its buffers that are kept, and its children.

    ``seen`` takes the containers: one that is there twice counts once.
    """
    todo = [('', iter([('', item)]))]
    while todo:
        prefix, pairs = todo[-1]
        pair = next(pairs, None)
        if pair is None:
            todo.pop()
            continue
        name = f'{prefix}.{_text(pair[0])}'.lstrip('.')
        if isinstance(pair[1], Tensor):
            yield name, pair[1]
        elif isinstance(pair[1], dict | list | tuple | Thing) and id(pair[1]) not in seen:
            seen.add(id(pair[1]))
            if len(todo) > DEEPEST:
                raise Refused('it is nested too deeply to be a model')
            todo.append((name, _children(pair[1], seen)))


def _text(key: Any) -> str:
    text = str(key) if isinstance(key, str | int | float) else '?'
    if len(text) > LONGEST_NAME or text.encode(errors='ignore').decode() != text:  # half a character
        raise Refused(f'a tensor of the name {text!r:.80}, which nobody could read')
    return text


def _children(item: Any, seen: set[int]) -> Iterator[tuple[Any, Any]]:
    if isinstance(item, dict):
        return iter(item.items())
    if not isinstance(item, Thing):
        return iter(enumerate(item))
    state = item.state[1] if isinstance(item.state, tuple) and len(item.state) == 2 else item.state
    state = state if isinstance(state, dict) else {}
    if '_modules' in state or '_parameters' in state:
        return _of_module(state, seen)
    if state:
        return iter(state.items())
    return iter([pair for pair in item.items if isinstance(pair, tuple) and len(pair) == 2])


def _of_module(state: dict[Any, Any], seen: set[int]) -> Iterator[tuple[Any, Any]]:
    gone = state.get('_non_persistent_buffers_set')
    for part in ('_parameters', '_buffers', '_modules'):
        children = state.get(part)
        if isinstance(children, dict) and id(children) not in seen:
            seen.add(id(children))
            for key, value in children.items():
                if part != '_buffers' or not isinstance(gone, set) or key not in gone:
                    yield key, value


def _plain(item: Any, known: dict[int, tuple[Any, int]], depth: int) -> tuple[Any, int]:
    """Numbers, texts, lists and dicts of an item, and how many; the rest becomes None. What is shared stays shared."""
    if isinstance(item, str):
        return item.encode(errors='backslashreplace').decode() if not item.isascii() else item, 1
    if not isinstance(item, dict | list | tuple):
        return item if isinstance(item, int | float | bool) else None, 1
    if id(item) not in known:
        if not depth:
            raise Refused('its meta is nested too deeply')
        known[id(item)] = None, 1  # for what contains itself
        if isinstance(item, dict):
            pairs = {key: _plain(value, known, depth - 1) for key, value in item.items() if isinstance(key, str | int)}
            count = sum(count for _, count in pairs.values())
            known[id(item)] = {key: value for key, (value, _) in pairs.items()}, count + 1
        else:
            values = [_plain(value, known, depth - 1) for value in item]
            known[id(item)] = [value for value, _ in values], sum(count for _, count in values) + 1
        if known[id(item)][1] > MOST_META:
            raise Refused(f'its meta repeats itself to more than {MOST_META:,} values')
    return known[id(item)]
