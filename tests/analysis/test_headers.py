"""Reading headers: every format, nothing executed, nothing loaded, no traceback whatever the bytes are."""

import collections
import dataclasses
import io
import json
import pickle
import random
import re
import struct
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vadslim.analysis.headers import SIZES, HeaderError, read_headers

TYPES = {
    torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16', torch.float64: 'F64', torch.int64: 'I64',
    torch.int8: 'I8', torch.uint8: 'U8', torch.bool: 'BOOL', torch.complex64: 'C64',
}  # fmt: skip


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer('scratch', torch.zeros(3), persistent=False)


def as_safetensors(state: dict, path: Path, **meta: str) -> Path:
    """Written by the format's own words, so that the library is not needed."""
    header, blobs, start = ({'__metadata__': meta} if meta else {}), [], 0
    for name, tensor in state.items():
        blob = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b''
        header[name] = {
            'dtype': TYPES[tensor.dtype],
            'shape': list(tensor.shape),
            'data_offsets': [start, start + len(blob)],
        }
        start += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + b''.join(blobs))
    return path


def content(entry):
    """The tensor that an entry points to, read from its file."""
    with Path(entry.storage[0]).open('rb') as file:
        file.seek(entry.offset)
        return file.read(entry.size)


def check(headers, state):
    assert list(headers.tensors) == list(state)
    for name, tensor in state.items():
        entry = headers.tensors[name]
        assert entry.shape == tuple(tensor.shape) and entry.dtype == TYPES[tensor.dtype], name
        assert entry.size == tensor.numel() * tensor.element_size() and SIZES[entry.dtype] == tensor.element_size()
        if entry.strides is None:
            assert content(entry) == tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(), name


@pytest.fixture
def state():
    torch.manual_seed(0)
    kinds = {f't{number}': torch.randn(3, number + 1).to(kind) for number, kind in enumerate(TYPES)}
    return {**Net().state_dict(), **kinds, 'empty': torch.zeros(0, 4), 'number': torch.tensor(3)}


@pytest.mark.parametrize('legacy', [False, True])
def test_torch_files(tmp_path, state, legacy):
    state = {name: value for name, value in state.items() if name != 'head.weight'}
    wide = torch.arange(12.0).reshape(3, 4)
    state |= {'part': wide[1:], 'turned': wide.T}
    for number, saved in enumerate(
        (state, {'state_dict': collections.OrderedDict(state), 'meta': {'epoch': 3, 'x': Net}, 'optimizer': [wide]})
    ):
        path = tmp_path / f'{number}.pth'
        torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
        headers = read_headers(path)
        assert headers.kind == ('torch legacy' if legacy else 'torch zip')
        check(headers, state)
        assert headers.tensors['part'].storage[:2] == headers.tensors['turned'].storage[:2]
        assert headers.tensors['part'].strides is None and headers.tensors['turned'].strides == (1, 4)
        assert headers.tensors['part'].offset == headers.tensors['turned'].offset + 16
    assert headers.meta == {'epoch': 3, 'x': None}


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('wrapped', [False, True])
def test_whole_model_of_an_unknown_class(tmp_path, monkeypatch, legacy, wrapped):
    gone = types.ModuleType('gone_headers')  # not there when it is read
    gone.Net = type('Net', (Net,), {'__module__': 'gone_headers'})
    monkeypatch.setitem(sys.modules, 'gone_headers', gone)
    net, path = gone.Net(), tmp_path / 'model.bin'
    saved = {'model': net, 'tokenizer': gone.Net} if wrapped else net
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    monkeypatch.delitem(sys.modules, 'gone_headers')
    expected = {**dict(net.named_parameters()), **{k: v for k, v in net.state_dict().items() if 'norm' in k}}
    headers = read_headers(path)
    assert sorted(headers.tensors) == sorted([*expected, 'head.weight'])
    assert headers.tensors['head.weight'].storage == headers.tensors['embed.weight'].storage  # tied
    assert 'scratch' not in headers.tensors
    assert 'gone_headers.Net' in headers.classes


@pytest.mark.parametrize('protocol', [3, 4, 5])
def test_whole_model_in_a_plain_pickle(tmp_path, protocol):
    """Each storage is a file of torch inside; of a long one only its head is read."""
    net, path = Net(), tmp_path / 'pruned_model.bin'
    net.wide, net.part = nn.Parameter(torch.randn(100, 300)), nn.Parameter(torch.randn(200, 300)[50:])
    path.write_bytes(pickle.dumps({'model': net, 'tokenizer': None}, protocol))
    headers, state = read_headers(path), net.state_dict()
    assert headers.kind == 'pickle' and set(headers.tensors) == set(state)
    check(dataclasses.replace(headers, tensors={name: headers.tensors[name] for name in state}), state)
    assert headers.tensors['wide'].offset and headers.tensors['part'].offset
    assert headers.tensors['head.weight'].storage == headers.tensors['embed.weight'].storage
    assert len({entry.storage for entry in headers.tensors.values()}) == len(state) - 1
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack('<q', 30000), struct.pack('<q', 30001)))
    with pytest.raises(HeaderError, match='cut'):
        read_headers(path)
    path.write_bytes(data[: headers.tensors['wide'].offset + 1000])
    with pytest.raises(HeaderError, match='cut'):
        read_headers(path)


def test_a_storage_of_few_bytes_in_a_plain_pickle(tmp_path):
    """torch names a storage by its address: with a short one the whole of a small tensor is less than 256 bytes."""
    file = io.BytesIO()
    torch.save(torch.ones(1).untyped_storage(), file, _use_new_zipfile_serialization=False)
    good = file.getvalue()
    address = re.search(rb'\d{6,}', good)[0]
    good = good.replace(b'X' + struct.pack('<I', len(address)) + address, b'X' + struct.pack('<I', 1) + b'7')
    assert len(good) < 256
    tensor = b'ctorch._utils\n_rebuild_tensor_v2\n(ctorch.storage\n_load_from_bytes\nC'
    tensor += bytes([len(good)]) + good + b'\x85RK\x00K\x04\x85K\x01\x85\x89NtR'
    (tmp_path / 'a.bin').write_bytes(b'\x80\x03}X\x01\x00\x00\x00a' + tensor + b's.')
    assert content(read_headers(tmp_path / 'a.bin').tensors['a']) == good[-4:]


def stored(storage: bytes, times: int = 1, size: int = 4) -> bytes:
    """A plain pickle of a tensor whose storage is these bytes, which are read so many times before."""
    read = b'ctorch.storage\n_load_from_bytes\nh\x00\x85R'
    tensor = b'ctorch._utils\n_rebuild_tensor_v2\n(' + read + b'K\x00K' + bytes([size]) + b'\x85K\x01\x85\x89NtR'
    data = b'\x80\x03B' + struct.pack('<I', len(storage)) + storage + b'q\x000'
    return data + (read + b'0') * times + b'}X\x01\x00\x00\x00a' + tensor + b's.'


def test_forged_storages_in_a_plain_pickle(tmp_path):
    path, file = tmp_path / 'a.bin', io.BytesIO()
    torch.save(torch.ones(1).untyped_storage(), file, _use_new_zipfile_serialization=False)
    good = file.getvalue()
    path.write_bytes(stored(good))
    assert read_headers(path).tensors['a'].count == 4  # bytes: the storage has no type
    start = b''.join(pickle.dumps(item, 2) for item in (0x1950A86A20F9469CFC6C, 1001, {}))
    cases = [
        ('that its storage of 4', stored(good, size=5)),
        ('is cut', stored(good[:-1])),
        ('is no file of torch', stored(pickle.dumps([], 2) * 5)),
        ('_load_from_bytes, which is not known', stored(start + stored(good) + pickle.dumps(['0'], 2))),
        ('builtins.exec, which no model needs', stored(good.replace(b'\x80\x02}', b'\x80\x02cbuiltins\nexec\n0}', 1))),
        ('it copies more than it holds', stored(good, 5_000)),
    ]
    for message, data in cases:
        path.write_bytes(data)
        begin = time.process_time()
        with pytest.raises(HeaderError, match=message):
            read_headers(path)
        assert time.process_time() - begin < 20, message


class ByValue(pickle._Pickler):
    """Saves the classes of a script as dill does: what builds them stands in the file, not their name."""

    def reducer_override(self, item):
        if item is type:
            return sys.modules['dill._dill']._load_type, ('TypeType',)
        if isinstance(item, type) and item.__module__ == __name__:
            return sys.modules['dill._dill']._create_type, (type, item.__name__, item.__bases__, {})
        return NotImplemented


def test_whole_model_whose_class_is_in_the_file(tmp_path, monkeypatch):
    like_dill = types.ModuleType('dill._dill')
    for name in ('_create_type', '_load_type'):
        setattr(like_dill, name, type(name, (), {'__module__': 'dill._dill'}))
    for name, module in (('dill', types.ModuleType('dill')), ('dill._dill', like_dill)):
        monkeypatch.setitem(sys.modules, name, module)
    saver = types.SimpleNamespace(__name__='like_dill', Pickler=ByValue)
    torch.save({'model': Net(), 'tokenizer': None}, tmp_path / 'pruned_model.bin', pickle_module=saver)
    headers = read_headers(tmp_path / 'pruned_model.bin')
    assert set(headers.tensors) == set(Net().state_dict()) and 'dill._dill._create_type' in headers.classes


def test_safetensors(tmp_path, state):
    headers = read_headers(as_safetensors(state, tmp_path / 'a.safetensors', format='pt'))
    assert headers.kind == 'safetensors' and headers.meta == {'format': 'pt'}
    check(headers, state)


@pytest.mark.parametrize('low', range(2, 6))
def test_safetensors_that_begins_as_a_pickle(tmp_path, low):
    """The first bytes are the header's length, which may be those of a pickle: 0x0280 is 640."""
    text = json.dumps({'a': {'dtype': 'U8', 'shape': [1], 'data_offsets': [0, 1]}}).encode()
    text = text.ljust(0x80 + 256 * low)
    path = tmp_path / 'a.safetensors'
    path.write_bytes(struct.pack('<Q', len(text)) + text + b'x')
    assert path.read_bytes()[:2] == bytes([0x80, low]) == pickle.dumps(0, low)[:2]
    assert read_headers(path).tensors['a'].shape == (1,)


@pytest.mark.parametrize('suffix', ['safetensors', 'bin'])
def test_folder_with_shards(tmp_path, state, suffix):
    state = {name: value for name, value in state.items() if name != 'head.weight'}
    names = list(state)
    files = {f'part-{i}.{suffix}': {name: state[name] for name in names[i::2]} for i in range(2)}
    for file, part in files.items():
        if suffix == 'bin':
            torch.save(part, tmp_path / file)
        else:
            as_safetensors(part, tmp_path / file)
    index = {'weight_map': {name: f'part-{names.index(name) % 2}.{suffix}' for name in names}}
    stem = 'model.safetensors' if suffix == 'safetensors' else 'pytorch_model.bin'
    (tmp_path / f'{stem}.index.json').write_text(json.dumps(index))
    (tmp_path / 'config.json').write_text('{"model_type": "llama"}')
    headers = read_headers(tmp_path)
    check(headers, state)
    assert headers.config == {'model_type': 'llama'} and len(headers.files) == 3
    (tmp_path / f'part-1.{suffix}').unlink()
    with pytest.raises(HeaderError, match=r'part-1.*no such file'):
        read_headers(tmp_path)
    index['weight_map'][names[0]] = '../evil'
    (tmp_path / f'{stem}.index.json').write_text(json.dumps(index))
    with pytest.raises(HeaderError, match='is no file of weights beside it'):
        read_headers(tmp_path)


def numbered(folder: Path, state: dict, count: int, suffix: str = 'safetensors') -> list[Path]:
    """Shards as Hugging Face names them, without their index."""
    files = [folder / f'model-{i + 1:05}-of-{count:05}.{suffix}' for i in range(count)]
    for i, file in enumerate(files):
        part = {name: state[name] for name in list(state)[i::count]}
        as_safetensors(part, file) if suffix == 'safetensors' else torch.save(part, file)
    return files


@pytest.mark.parametrize('suffix', ['safetensors', 'bin'])
def test_numbered_shards_without_an_index(tmp_path, state, suffix):
    state = {name: value for name, value in state.items() if name != 'head.weight'}
    files = numbered(tmp_path, state, 3, suffix)
    for beside in ('training_args.bin', 'optimizer.pt', 'rng_state_0.pth'):
        torch.save({'x': 1}, tmp_path / beside)
    headers = read_headers(tmp_path)
    assert set(headers.tensors) == set(state) and headers.files == files and headers.path == tmp_path
    files[2].rename(tmp_path / 'gone')
    with pytest.raises(HeaderError, match=r'2 of 3 files .* no index; number 3 is missing'):
        read_headers(tmp_path)
    files[1].unlink()
    with pytest.raises(HeaderError, match=r'1 of 3 files .* number 2 is missing'):
        read_headers(tmp_path)
    (tmp_path / 'gone').rename(files[2])
    files[1].write_bytes(files[0].read_bytes())
    with pytest.raises(HeaderError, match='once more, and there is no index'):
        read_headers(tmp_path)


def test_folders_with_other_names(tmp_path, state):
    """One file of whatever name; of both formats safetensors; what no index names counts, too."""
    as_safetensors(state, tmp_path / 'consolidated.safetensors')
    torch.save({'a': torch.ones(1)}, tmp_path / 'other.bin')
    check(read_headers(tmp_path), state)
    as_safetensors(state, tmp_path / 'more.safetensors')
    with pytest.raises(HeaderError, match=r'several checkpoints \(consolidated.safetensors, more.safetensors\)'):
        read_headers(tmp_path)
    (tmp_path / 'x.safetensors.index.json').write_text(json.dumps({'weight_map': {'number': 'more.safetensors'}}))
    headers = read_headers(tmp_path)
    assert list(headers.tensors)[0] == 'number' and set(headers.tensors) == set(state)
    for wrong in ({'a': 'x.safetensors.index.json'}, {'a': 3}, {'a': ['b']}, {'a': '..'}):
        (tmp_path / 'x.safetensors.index.json').write_text(json.dumps({'weight_map': wrong}))
        with pytest.raises(HeaderError, match='is no file of weights beside it|no such file'):
            read_headers(tmp_path)


def test_a_header_that_looks_like_a_pickle(tmp_path, state):
    """The length of a header comes first; 640 begins as a pickle does."""
    for length in (0x280, 0x380, 0x10480):
        path = as_safetensors({'a': torch.ones(3)}, tmp_path / 'a.safetensors')
        text = path.read_bytes()[8:-12]
        path.write_bytes(struct.pack('<Q', length) + text + b' ' * (length - len(text)) + path.read_bytes()[-12:])
        assert path.read_bytes()[:1] == b'\x80' and list(read_headers(path).tensors) == ['a']


@pytest.mark.parametrize('name', ['a b\n c.pth', 'ü\udcff.pth', "'; rm -rf", '-x', '[red]'])
def test_odd_paths(tmp_path, name):
    torch.save({'a': torch.ones(1)}, (tmp_path / 'x.pth'))
    (tmp_path / 'x.pth').rename(tmp_path / name)
    headers = read_headers(tmp_path / name)
    assert headers.tensors['a'].storage[0] == str(tmp_path / name)
    (tmp_path / name).write_bytes(b'')
    with pytest.raises(HeaderError) as caught:
        read_headers(tmp_path / name)
    assert '\n' not in str(caught.value)


def header(**fields) -> str:
    return json.dumps({'a': {'dtype': 'U8', 'shape': [2], 'data_offsets': [0, 2], **fields}})


SAFETENSORS = {
    'a hole': (header(data_offsets=[1, 3]), 3),
    'bytes behind': (header(), 3),
    'cut': (header(), 1),
    'a key twice': (header()[:-1] + ', ' + header()[1:], 2),
    'a field twice': (header().replace('"dtype"', '"dtype": "U8", "dtype"'), 2),
    'a number in the metadata': (header()[:-1] + ', "__metadata__": {"a": 1}}', 2),
    'a list as metadata': (header()[:-1] + ', "__metadata__": []}', 2),
    'NaN': (header(x=float('nan')), 2),
    'half a character': (header().replace('"a"', '"\\ud800"'), 2),
    'UTF-16': (header().encode('utf-16-le'), 2),
    'no UTF-8': (header().encode().replace(b'"a"', b'"\xff"'), 2),
    'text behind': (header() + '}', 2),
    'an unknown type': (header(dtype='I4'), 2),
    'a type it does not have': (header(dtype='C128', data_offsets=[0, 32]), 32),
    'true': (header(shape=[True, 2]), 2),
    'a float': (header(shape=[2.0]), 2),
    'minus': (header(shape=[-2], data_offsets=[2, 0]), 2),
    'too many': (header(shape=[2**40, 2**40, 0], data_offsets=[0, 0]), 0),
    'half a byte': (header(dtype='F4', shape=[3]), 2),
    'two of three bytes': (header(dtype='F6_E2M3', shape=[3], data_offsets=[0, 3]), 3),
}


@pytest.mark.parametrize('name', SAFETENSORS)
def test_damaged_safetensors(tmp_path, name):
    """What the format forbids is refused, as the library does."""
    text, size = SAFETENSORS[name]
    text = text.encode() if isinstance(text, str) else text
    (tmp_path / 'a.safetensors').write_bytes(struct.pack('<Q', len(text)) + text + bytes(size))
    with pytest.raises(HeaderError):
        read_headers(tmp_path / 'a.safetensors')
    if name != 'a key twice':  # where the library takes the last
        safetensors = pytest.importorskip('safetensors')
        with pytest.raises(safetensors.SafetensorError):
            safetensors.deserialize((tmp_path / 'a.safetensors').read_bytes())


def test_as_the_library_reads(tmp_path):
    """700 damaged files: what the library refuses is refused, what it reads is read alike."""
    safetensors = pytest.importorskip('safetensors')
    net, draw, outcomes = Net().half(), random.Random(1), collections.Counter()
    path = tmp_path / 'a.safetensors'
    data = as_safetensors(net.state_dict(), path, format='pt').read_bytes()
    for _ in range(700):
        damaged = mutated(data, draw) if draw.random() < 0.5 else data.replace(*draw.choice(SWAPS))
        damaged = damaged.replace(*draw.choice(SWAPS), draw.randrange(2))
        path.write_bytes(damaged)
        try:
            read = safetensors.deserialize(damaged)
            theirs = {name: (item['dtype'], tuple(item['shape'])) for name, item in read}
        except safetensors.SafetensorError:
            theirs = None
        try:
            ours = {name: (entry.dtype, entry.shape) for name, entry in read_headers(path).tensors.items()}
        except HeaderError:
            ours = None
        assert ours == theirs, damaged[:2000]
        outcomes['refused' if ours is None else 'read'] += 1
    assert min(outcomes.values()) > 100, outcomes


#: the same lengths, so that the rest stays where it is
SWAPS = [
    (b'"F16"', b'"I16"'), (b'"F16"', b'"U16"'), (b'"F16"', b'"F32"'), (b'[4]', b'[2]'), (b'[7, 4]', b'[4, 7]'),
    (b'embed', b'EMBED'), (b'.weight', b'.WEIGHT'), (b'bias', b'ba\x00s'), (b'format', b'forma\\'), (b'"pt"', b'1234'),
    (b'"pt"', b'null'), (b'[4]', b'[-]'), (b'[4]', b'4  '), (b': ', b':  '), (b', ', b',,'), (b'}, ', b'},\n'),
]  # fmt: skip


def test_folder_with_a_config_only(tmp_path):
    (tmp_path / 'config.json').write_text('{"hidden_size": 3}')
    headers = read_headers(tmp_path)
    assert headers.kind == 'config' and headers.config == {'hidden_size': 3} and not headers.tensors


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('legacy', [False, True])
def test_nothing_is_executed(tmp_path, legacy):
    """What only an attack has is refused; other calls are stand-ins, and the tensors are read all the same."""
    mark = tmp_path / 'mark'
    code = f'open({str(mark)!r}, "w")'
    attacks = {
        'builtins.exec': (exec, code),
        'builtins.eval': (eval, code),
        'posix.system': (__import__('os').system, f'touch {mark}'),
        '(subprocess|commands).Popen': (subprocess.Popen, ['touch', str(mark)]),
        'runpy.run_path': (__import__('runpy').run_path, str(mark)),
    }
    path = tmp_path / 'x.pth'
    for name, (function, argument) in attacks.items():
        saved = {'a': torch.ones(2), 'bad': [Evil(function, (argument,))]}
        torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(HeaderError, match=f'its pickle names {name}, which no model needs'):
            read_headers(path)
    odd = [Evil(getattr, ('a', 'b')), Evil(bytearray, (10**15,)), Evil(print, (code,))]
    torch.save({'a': torch.ones(2), 'odd': odd}, path, _use_new_zipfile_serialization=not legacy)
    headers = read_headers(path)
    assert list(headers.tensors) == ['a'] and 'builtins.print' in headers.classes
    assert not mark.exists()


def test_mistakes(tmp_path):
    cases = {
        'zero.pth': (b'', 'is empty'),
        'text.pth': (b'hello, this is no checkpoint', 'neither'),
        'zip.pth': (None, 'without a data.pkl'),
        'long.safetensors': (struct.pack('<Q', 10**15) + b'{}', 'cut or damaged'),
        'list.pkl': (pickle.dumps([1, 2], 2), 'holds no tensors'),
        'array.pkl': (pickle.dumps({'a': np.ones(3)}, 2), 'holds no tensors'),
        'deep.pkl': (b'\x80\x02' + b']' * 100000 + b'a' * 99999 + b'.', 'nested too deeply|holds no tensors'),
    }
    with zipfile.ZipFile(tmp_path / 'zip.pth', 'w') as archive:
        archive.writestr('a.txt', 'x')
    for name, (data, message) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(HeaderError, match=message) as caught:
            read_headers(tmp_path / name)
        assert '\n' not in str(caught.value) and name in str(caught.value)
    with pytest.raises(HeaderError, match='no such file or folder'):
        read_headers(tmp_path / 'nothing')
    for name in ('a.pth', 'b.pth'):
        torch.save({'a': torch.ones(1)}, tmp_path / name)
    (tmp_path / 'two').mkdir()
    with pytest.raises(HeaderError, match='holds no weights'):
        read_headers(tmp_path / 'two')


def valid_files(folder: Path) -> list[Path]:
    net, files = Net(), []
    for legacy in (False, True):
        for number, saved in enumerate((net.state_dict(), {'model': net}, {'state_dict': net.state_dict()})):
            files.append(folder / f'{number}{legacy}.pth')
            torch.save(saved, files[-1], _use_new_zipfile_serialization=not legacy)
    files.append(folder / 'plain.pth')
    files[-1].write_bytes(pickle.dumps({'model': net, 'wide': torch.ones(3000)}))
    return [*files, as_safetensors(net.state_dict(), folder / 'a.safetensors')]


def mutated(data: bytes, draw: random.Random) -> bytes:
    new = bytearray(data)
    kind = draw.randrange(5)
    if kind == 0:
        return bytes(new[: draw.randrange(len(new))])
    if kind == 1:
        start = draw.randrange(len(new))
        del new[start : start + draw.randrange(1, 40)]
    elif kind == 2:
        start = draw.randrange(len(new))
        new[start:start] = draw.randbytes(draw.randrange(1, 40))
    else:
        # what decides lies at the two ends of a zip file and at the start of the others
        reach = draw.choice((len(new), min(len(new), 1500)))
        for _ in range(draw.randrange(1, 6)):
            place = draw.randrange(reach)
            new[place if draw.random() < 0.7 else len(new) - 1 - place] = draw.randrange(256)
    return bytes(new)


def test_fuzz(tmp_path):
    """2,400 damaged files: an error of one line, or what is said holds: shapes fit the bytes that are there."""
    draw, outcomes = random.Random(0), collections.Counter()
    for source in valid_files(tmp_path):
        data = source.read_bytes()
        for number in range(300):
            path = tmp_path / f'fuzz{source.suffix}'
            path.write_bytes(mutated(data, draw))
            try:
                headers = read_headers(path)
            except HeaderError as error:
                assert '\n' not in str(error), (source.name, number)
                outcomes['refused'] += 1
                continue
            outcomes['read'] += 1
            size = path.stat().st_size
            for name, entry in headers.tensors.items():
                assert entry.dtype in SIZES and all(type(n) is int and n >= 0 for n in entry.shape), name
                assert entry.offset is None or 0 <= entry.offset <= entry.offset + entry.size <= size, name
    assert outcomes['refused'] > 500 and outcomes['read'] > 100, outcomes


def test_light(tmp_path):
    """Neither torch nor numpy is imported, and a large file is not read."""
    header = json.dumps({'w': {'dtype': 'BF16', 'shape': [8192, 1 << 20], 'data_offsets': [0, 8192 << 21]}}).encode()
    with (tmp_path / 'large.safetensors').open('wb') as file:
        file.write(struct.pack('<Q', len(header)) + header)
        file.truncate(8 + len(header) + (8192 << 21))  # 16 GiB that take no room
    code = (
        'import sys; from vadslim.analysis.headers import read_headers; '
        f'print(read_headers({str(tmp_path / "large.safetensors")!r}).tensors["w"].count, '
        'sorted({"torch", "numpy", "mmengine", "pandas", "matplotlib"} & set(sys.modules)))'
    )
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert said == f'{8192 << 20} []\n'
