"""The unpickler that runs nothing: what forged files cost is in proportion to their length, and they change nothing."""

import pickle
import signal
import struct
import time
import tracemalloc

import pytest

from vadslim.analysis import unpickler
from vadslim.analysis.headers import HeaderError, read_headers

TWO, FOUR = b'\x80\x02', b'\x80\x04'
SAME_HASH = 2**61 - 1  # all multiples of it hash to 0


def text(characters: str | bytes) -> bytes:
    data = characters.encode() if isinstance(characters, str) else characters
    return b'X' + struct.pack('<I', len(data)) + data


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


STORAGE = b'(' + text('storage') + b'ctorch\nFloatStorage\n' + text('0') + text('cpu') + b'K\x00tQ'
TENSOR = b'ctorch._utils\n_rebuild_tensor_v2\n(' + STORAGE + b'K\x00K\x00\x85K\x01\x85\x89}tR'


def legacy(content: bytes, keys: bytes = b']' + text('0') + b'a', version: bytes = number(1001)) -> bytes:
    """A legacy file with one empty storage."""
    parts = [number(0x1950A86A20F9469CFC6C), version, b'}', content, keys]
    return b''.join(TWO + part + b'.' for part in parts) + struct.pack('<q', 0)


def laughs(depth: int, width: int) -> bytes:
    """A list of ``width`` times a list of ``width`` times ..., each there once: width**depth in all."""
    made = b']q\x01(NNNe'
    for level in range(2, depth):
        made += b'0]q' + bytes([level]) + b'(' + (b'h' + bytes([level - 1])) * width + b'e'
    return made


def beside_a_tensor(name: str, what: bytes) -> bytes:
    return legacy(b'}(' + text('t') + TENSOR + text(name) + what + b'u')


def copies(code: bytes) -> bytes:
    return (
        TWO
        + b'c__builtin__\n'
        + code[1:]
        + b'\nq\x000]q\x01('
        + b'N' * 50_000
        + b'e0'
        + b'h\x00h\x01\x85'
        + (code[:1] + b'0h\x00h\x01\x85') * 30_000
        + code[:1]
        + b'.'
    )


def pairs(keys: list[bytes]) -> bytes:
    return TWO + b'}(' + b''.join(key + b'N' for key in keys) + b'u.'


SHARED = b'ca\nB\nq\x000}q\x01(' + b''.join(text(f'p{k}') + b'h\x02' for k in range(8000)) + b'u0}('
SHARED += b''.join(
    text(f'm{k}') + b'h\x00)\x81}(' + text('_parameters') + b'h\x01' + text('_modules') + b'}ub' for k in range(4000)
)
MANY = [number(k * SAME_HASH) for k in range(1, 30_000)]
FORGED = {
    'marks': TWO + b'(' * 10_000_000,
    'lists in lists': TWO + b']' * 30_000 + b'a' * 29_999 + b'.',
    'tuples in tuples': TWO + b')' + b'\x85' * 50_000 + b'.',
    'sets': FOUR + b'\x8f' * 50_000 + b'.',
    'copies of a list': copies(b'Rlist'),
    'copies of a tuple': copies(b'\x81tuple'),
    'sizes': TWO + b']q\x01(' + b'K\x01' * 100_000 + b'e' + (
        b'0ctorch._utils\n_rebuild_tensor\n(' + STORAGE + b'K\x00h\x01h\x01tR'
    ) * 2000 + b'.',
    'numbers of one hash': pairs(MANY),
    'tuples of one hash': pairs([key + b'\x85' for key in MANY]),
    'a set of one hash': FOUR + b'\x8f(' + b''.join(MANY) + b'\x90.',
    'a frozen set of one hash': FOUR + b'(' + b''.join(MANY) + b'\x91.',
    'a memo of one hash': TWO + b'N' + b''.join(b'p%d\n' % (k * SAME_HASH) for k in range(1, 30_000)) + b'.',
    'a long bytearray': b'\x80\x05\x96' + struct.pack('<Q', 2**40) + b'.',
    'a long text': TWO + b'X' + struct.pack('<I', 2**32 - 1) + b'.',
    'a long frame': FOUR + b'\x95' + struct.pack('<Q', 2**60) + b'.',
    'many classes': TWO + b''.join(b'ca%d\nb\n0' % k for k in range(30_000)) + b'N.',
    'long classes': FOUR + (text('a' * 200_000) + b'\x94') * 2 + b'h\x00h\x01\x930' * 20_000 + b'.',
    'laughs in meta': beside_a_tensor('meta', laughs(40, 10)),
    'wide laughs in meta': beside_a_tensor('meta', laughs(9, 3000)),
    'laughs beside': beside_a_tensor('x', laughs(60, 500)),
    'laughs in keys': legacy(b'}', b']' + text('0') + b'a' + laughs(40, 10) + b'a'),
    'a version that laughs': legacy(b'}', version=laughs(40, 10)),
    'laughs alone': TWO + laughs(40, 10) + b'.',
    'laughs as a class': TWO + laughs(40, 10) + b')R.',
    'shared parameters': legacy(TENSOR + b'q\x020' + SHARED + b'u'),
    'a long prefix': legacy(
        TENSOR + b'q\x020}(' + text('a' * 200_000) + b'}('
        + b''.join(text(f'k{k}') + b'h\x02' for k in range(9000)) + b'uu'
    ),
}  # fmt: skip


class TooLong(BaseException):
    """Which no handler of errors catches."""


@pytest.fixture
def limited():
    """Ends what takes longer than 100 seconds."""

    def stop(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(100)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize('name', FORGED)
def test_forged_files_cost_little(tmp_path, limited, name):
    path = tmp_path / 'x.pth'
    path.write_bytes(FORGED[name])
    start = time.process_time()
    try:
        headers = read_headers(path)
        assert len(headers.tensors) == {'shared parameters': 8000, 'laughs beside': 1}[name]
    except HeaderError as error:
        assert '\n' not in str(error) and len(str(error)) < 400
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    'name', ['a long bytearray', 'a long text', 'copies of a list', 'copies of a tuple', 'laughs in meta']
)
def test_forged_files_take_little_memory(tmp_path, limited, name):
    path = tmp_path / 'x.pth'
    path.write_bytes(FORGED[name])
    tracemalloc.start()
    with pytest.raises(HeaderError):
        read_headers(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000


def test_a_file_changes_nothing_of_ours(tmp_path):
    """BUILD sets what it likes of what is on the stack: a tensor's shape, a function's defaults. Not here."""
    forged = {
        'shape': (TENSOR + b'}' + text('shape') + b'K\x07\x85sb', (0,)),
        'pair': (TENSOR + b'N}' + text('shape') + b'K\x07\x85s\x86b', (0,)),
    }
    for name in unpickler.BUILD:
        module, _, function = name.rpartition('.')
        what = f'c{module}\n{function}\n'.encode() + b'N}' + text('__defaults__') + b'K\x01\x85s\x86b0' + TENSOR
        forged[name] = (what, (0,))
    before = [getattr(function, '__defaults__', None) for function in unpickler.BUILD.values()]
    for name, (what, shape) in forged.items():
        path = tmp_path / 'x.pth'
        path.write_bytes(legacy(b'}' + text('t') + what + b's'))
        assert read_headers(path).tensors['t'].shape == shape, name
    assert [getattr(function, '__defaults__', None) for function in unpickler.BUILD.values()] == before


@pytest.mark.parametrize(
    'pickled, message',
    [
        (b'\x82\x01', 'extension 1'),
        (b'N)R', 'calls what is no class'),
        (b'(ia\nb\n}(NNu', 'holds no tensors'),
        (b'](NNu', 'items of what is no dict'),
        (b']N\x85Q', 'no storage'),
        (b'(' + text('storage') + b'ctorch\nFloatStorage\n' + text('0') + b'NK\x01tQ0(' + text('storage')
         + b'ctorch\nHalfStorage\n' + text('0') + b'NK\x01tQ', 'two types or sizes'),
        (b'ctorch._utils\n_rebuild_new_tensor\n)R', 'which is not known'),
        (b'ctorch._utils\n_rebuild_tensor\n(' + STORAGE + b'K\x00K\x01\x85K\x01\x85tR', 'cannot hold'),
        (b'ctorch._utils\n_rebuild_tensor\n(' + STORAGE + b'K\x00K\x01\x85K\x01tR', 'without a size'),
        (b'ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat7\nK\x01\x85tR', "type 'torch.float7'"),
    ],
)  # fmt: skip
def test_what_it_refuses(tmp_path, pickled, message):
    path = tmp_path / 'x.pkl'
    path.write_bytes(TWO + pickled + b'.')
    with pytest.raises(HeaderError, match=message):
        read_headers(path)
