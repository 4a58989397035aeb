"""What a checkpoint holds, from its headers: names, shapes and types of tensors, without their values.

Reads safetensors (one file, or shards with or without an index), torch's zip and legacy files (state dicts,
checkpoints, whole pickled models) and Hugging Face folders. Nothing that a file names is imported or called, and time
and memory are in proportion to the headers' size, whatever they say. Imports neither torch nor numpy.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..cli import UserError
from ..files import StrPath

#: type -> bytes of an element; names as in safetensors
SIZES = {
    'BOOL': 1, 'U8': 1, 'I8': 1, 'F8_E4M3': 1, 'F8_E5M2': 1, 'F8_E8M0': 1, 'F8_E4M3FNUZ': 1, 'F8_E5M2FNUZ': 1,
    'I16': 2, 'U16': 2, 'F16': 2, 'BF16': 2, 'I32': 4, 'U32': 4, 'F32': 4, 'C64': 8, 'F64': 8, 'I64': 8, 'U64': 8,
    'C128': 16,
}  # fmt: skip
#: type -> bits of an element; there are types of less than a byte, whose tensors fill whole bytes
BITS = {'F4': 4, 'F6_E2M3': 6, 'F6_E3M2': 6, **{kind: 8 * size for kind, size in SIZES.items()}}
LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
MOST_DIMS = 64  # torch's limit


class HeaderError(UserError):
    """A file whose headers cannot be read; the message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(' '.join(message.splitlines()))


@dataclass(frozen=True)
class Entry:
    """One tensor.

    Attributes:
        shape: of it.
        dtype: one of ``BITS``.
        storage: what its bytes are in: file, storage within it, first byte. Tied tensors have the same.
        offset: where its first element begins in ``storage[0]``; None where its bytes do not lie in a file as they
            are (compressed, sparse, or no weights at all).
        strides: elements from one index to the next in each dimension; None if it is contiguous: the last dimension
            fastest, one piece of ``size`` bytes.
    """

    shape: tuple[int, ...]
    dtype: str
    storage: tuple[str, str, int] = ('', '', 0)
    offset: int | None = None
    strides: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * BITS[self.dtype] // 8


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
        classes: names of what a pickle would have built or called, besides tensors and plain data.
        big_endian: whether numbers lie with their highest byte first, as machines write that few have.
        metadata: plain data under that key of a checkpoint: its stage and time, in this project's format.
    """

    path: Path
    kind: str
    tensors: dict[str, Entry] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    big_endian: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)


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
    except MemoryError:
        raise HeaderError(f'{path}: its headers need more memory than there is') from None


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
        # first what no pickle begins with: a header of 640 bytes looks like one until its 5th byte
        if start[4:9] == b'\0\0\0\0{':
            return _safetensors(path, file, size)
        if start[:4] == b'PK\x03\x04' or start[:2] in (b'\x80\x02', b'\x80\x03', b'\x80\x04', b'\x80\x05'):
            from .pickle_headers import read_pickle, read_zip  # which others need not wait for

            return read_zip(path, file, size) if start[:2] == b'PK' else read_pickle(path, file, size)
        if start[8:9] == b'{':
            return _safetensors(path, file, size)  # which says how long it would have to be
    raise HeaderError(f'{path}: is neither a safetensors file, a torch checkpoint nor a pickle')


# --- safetensors -------------------------------------------------------------------------------------------


def _safetensors(path: Path, file: BinaryIO, size: int) -> Headers:
    """Format: https://huggingface.co/docs/safetensors: the header's length, JSON, bytes without a hole."""
    (length,) = struct.unpack('<Q', file.read(8))
    if length > min(size - 8, LONGEST_HEADER):
        raise HeaderError(f'{path}: its header would be {length:,} bytes of a file of {size:,}: it is cut or damaged')
    header = _json(path, file.read(length), strict=True)
    meta = header.pop('__metadata__', None)
    if meta is not None and not (isinstance(meta, dict) and all(isinstance(text, str) for text in meta.values())):
        raise HeaderError(f'{path}: its __metadata__ is no object of texts')
    tensors, pieces = {}, []
    for name, item in header.items():
        tensors[name], piece = _safe_entry(path, name, item, 8 + length)
        pieces.append((*piece, name))
    pieces.sort()
    there = 0
    for begin, end, name in pieces:
        if begin != there:
            wrong = 'overlaps what is before it' if begin < there else f'leaves a hole of {begin - there:,} bytes'
            raise HeaderError(f'{path}: {name!r:.80} {wrong}: it is damaged')
        there = end
    if there != size - 8 - length:
        raise HeaderError(f'{path}: its tensors are {there:,} of {size - 8 - length:,} bytes: it is cut or damaged')
    return Headers(path, 'safetensors', tensors, meta=meta or {}, files=[path])


def _safe_entry(path: Path, name: str, item: Any, start: int) -> tuple[Entry, tuple[int, int]]:
    try:
        dtype, shape, (begin, end) = item['dtype'], item['shape'], item['data_offsets']
        fits = type(shape) is list and all(type(n) is int and 0 <= n < 2**63 for n in (*shape, begin, end))
        fits = fits and len(shape) <= MOST_DIMS and math.prod(n or 1 for n in shape) < 2**63 and dtype != 'C128'
        fits = fits and 8 * (end - begin) == math.prod(shape) * BITS[dtype]
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise HeaderError(f'{path}: the header of {name!r:.80} is no tensor with dtype, shape and data_offsets')
    return Entry(tuple(shape), dtype, (str(path), '', begin), start + begin), (begin, end)


def _json(path: Path, text: bytes, strict: bool = False) -> dict[str, Any]:
    """Read a JSON object; ``strict``: as safetensors asks for, with no key twice and no NaN."""
    try:
        if strict:
            data = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        else:
            data = json.loads(text.decode('utf-8-sig'))
        if b'\\u' in text:  # half a character, which nobody could print
            json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise HeaderError(f'{path}: its header is no JSON: it is damaged') from None
    if not isinstance(data, dict):
        raise HeaderError(f'{path}: its header is no JSON object')
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError('a key stands there twice')
    return data


def _no_constant(name: str) -> None:
    raise ValueError(f'{name} is no JSON')


def _json_file(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LONGEST_HEADER:
        raise HeaderError(f'{path}: is longer than {LONGEST_HEADER:,} bytes')
    return _json(path, path.read_bytes())


# --- several files -----------------------------------------------------------------------------------------


def _index(path: Path) -> Headers:
    """Shards: ``weight_map`` says which file has which tensor."""
    places = _json_file(path).get('weight_map')
    if not isinstance(places, dict) or not places:
        raise HeaderError(f'{path}: has no weight_map, which says what is in which file')
    shards: dict[str, Headers] = {}
    tensors = {}
    for name, file in places.items():
        if not isinstance(file, str) or file not in shards:
            shards[file] = _shard(path, file)
        if name not in shards[file].tensors:
            raise HeaderError(f'{path.parent / file}: has no {name!r:.80}, which {path.name} says it has')
        tensors[name] = shards[file].tensors[name]
    headers = _together(path, list(shards.values()), tensors)
    headers.files.insert(0, path)
    return headers


def _shard(index: Path, file: Any) -> Headers:
    if not isinstance(file, str) or Path(file).name != file or file.endswith('.index.json'):
        raise HeaderError(f'{index}: {file!r:.80} is no file of weights beside it')
    if not (index.parent / file).is_file():
        raise HeaderError(f'{index.parent / file}: no such file; {index.name} names it')
    return _file(index.parent / file)


def _together(path: Path, shards: list[Headers], tensors: dict[str, Entry]) -> Headers:
    """One model of several files; what no index names is loaded with the rest of its file, and counts."""
    for shard in shards:
        for name, entry in shard.tensors.items():
            tensors.setdefault(name, entry)
    classes = tuple(dict.fromkeys(kind for shard in shards for kind in shard.classes))
    files = [file for shard in shards for file in shard.files]
    first, big = shards[0], any(shard.big_endian for shard in shards)
    return Headers(path, first.kind, tensors, None, first.meta, files, classes, big)


#: what a folder's weights are in, the first that is there
_WEIGHTS = (
    'model.safetensors.index.json',
    'model.safetensors',
    'pytorch_model.bin.index.json',
    'pytorch_model.bin',
    'pruned_model.bin',
)
_SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin')
_PART = re.compile(r'(.+)-(\d+)-of-(\d+)(\.\w+)')
#: what trainers write beside the weights
_BESIDE = re.compile(r'(training_args|optimizer|scheduler|scaler|rng_state.*)\.(bin|pt|pth)')


def _folder(path: Path) -> Headers:
    """A Hugging Face folder, or one that holds a single checkpoint."""
    config = _json_file(path / 'config.json') if (path / 'config.json').is_file() else None
    known = [path / name for name in _WEIGHTS if (path / name).is_file()]
    headers = _file(known[0]) if known else _found(path)
    if headers is None and config is None:
        if (path / 'pruned_model').is_dir():
            return _folder(path / 'pruned_model')
        raise HeaderError(f'{path}: holds no weights ({", ".join(_WEIGHTS[:2])} ...) and no config.json')
    headers = headers or Headers(path, 'config')
    headers.path, headers.config = path, config
    return headers


def _found(path: Path) -> Headers | None:
    """What a folder holds under names of its own: one index, one file, or all of the files ``*-N-of-M``."""
    files = sorted(file for file in path.iterdir() if file.name.endswith((*_SUFFIXES, '.index.json')))
    files = [file for file in files if file.is_file() and not _BESIDE.fullmatch(file.name)]
    indices = [file for file in files if file.name.endswith('.index.json')]
    if len(indices) == 1:
        return _file(indices[0])
    weights = [file for file in files if file not in indices]
    weights = [file for file in weights if file.suffix == '.safetensors'] or weights
    sets = [(part[1], part[3], part[4]) if (part := _PART.fullmatch(file.name)) else () for file in weights]
    if len(weights) > 1 and sets[0] and len(set(sets)) == 1:
        return _numbered(path, weights, int(sets[0][1]))
    if len(weights) > 1:
        names = ', '.join(file.name for file in weights[:4])
        raise HeaderError(f'{path}: holds several checkpoints ({names}); name one of them')
    if weights and sets[0] and int(sets[0][1]) != 1:
        return _numbered(path, weights, int(sets[0][1]))
    return _file(weights[0]) if weights else None


def _numbered(path: Path, files: list[Path], count: int) -> Headers:
    """Shards without an index: all of them, or which is missing."""
    there = {int(_PART.fullmatch(file.name)[2]) for file in files}  # type: ignore[index]
    missing = [str(number) for number in range(1, min(count, len(files) + 1) + 1) if number not in there]
    if missing or len(there) != count:
        what = f'number {missing[0]}' if missing else 'one'
        raise HeaderError(
            f'{path}: holds {len(files)} of {count} files as {files[0].name}, and no index; {what} is missing'
        )
    shards = [_file(file) for file in files]
    tensors: dict[str, Entry] = {}
    for shard in shards:
        twice = next((name for name in shard.tensors if name in tensors), None)
        if twice is not None:
            raise HeaderError(
                f'{shard.path}: has {twice!r:.80} once more, and there is no index that says which counts'
            )
        tensors.update(shard.tensors)
    return _together(path, shards, tensors)
