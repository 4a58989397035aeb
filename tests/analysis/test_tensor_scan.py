"""Counting zeros: what torch counts of the same tensors, in all formats and types; bounded, stoppable, never silent."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vadslim.analysis import tensor_scan
from vadslim.analysis.headers import BITS, HeaderError, Headers, read_headers
from vadslim.analysis.tensor_scan import PIECE, Scan, scan

TYPES = {
    'F64': torch.float64, 'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16, 'C64': torch.complex64,
    'C128': torch.complex128, 'I64': torch.int64, 'I32': torch.int32, 'I16': torch.int16, 'I8': torch.int8,
    'U8': torch.uint8, 'U16': torch.uint16, 'U32': torch.uint32, 'U64': torch.uint64, 'BOOL': torch.bool,
    'F8_E4M3': torch.float8_e4m3fn, 'F8_E5M2': torch.float8_e5m2, 'F8_E4M3FNUZ': torch.float8_e4m3fnuz,
    'F8_E5M2FNUZ': torch.float8_e5m2fnuz, 'F8_E8M0': torch.float8_e8m0fnu,
}  # fmt: skip


def truth(tensor: torch.Tensor) -> Scan:
    """Counted by torch, of the tensor as it is used."""
    values = tensor if tensor.is_complex() else tensor.to(torch.float64)  # no value of interest here is rounded to 0
    zero = values == 0
    finite = torch.isfinite(values)
    shape = (*tensor.shape, *(1, 0)[tensor.dim() :])

    def empty(dim: int) -> int:
        if not tensor.numel() or dim >= max(tensor.dim(), 1):
            return 0
        return int(zero.movedim(dim, 0).reshape(shape[dim], -1).all(1).sum()) if tensor.dim() else int(zero)

    return Scan(tensor.numel(), int(zero.sum()), shape[0], empty(0), shape[1], empty(1), int((~finite).sum()))


def as_safetensors(tensors: dict[str, tuple[str, list[int], bytes]], path: Path) -> Path:
    header, start = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [start, start + len(data)]}
        start += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + b''.join(data for *_, data in tensors.values()))
    return path


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b''


def sparse(*shape: int, dtype: torch.dtype = torch.float32, odd: bool = True) -> torch.Tensor:
    """Half zeros, some of them negative; rows and columns of zeros; NaN and infinities where the type has them."""
    values = torch.randn(shape, dtype=torch.float64) * 3
    values[torch.rand(shape) < 0.5] = 0
    values[torch.rand(shape) < 0.1] = -0.0
    if len(shape) > 1:
        values[1::3] = 0
        values[:, ::4] = -0.0
    flat = values.view(-1)
    if odd and flat.numel() > 20:
        flat[[7, 13]] = torch.tensor([float('nan'), float('inf')], dtype=torch.float64)
        flat[17] = -float('inf')
    if dtype.is_complex:
        return torch.complex(values, values.flip(0)).to(dtype)
    if not dtype.is_floating_point:
        values = values.nan_to_num(1, 1, 1).abs()
    return values.to(dtype)


@pytest.fixture
def state():
    torch.manual_seed(0)
    state = {kind: sparse(13, 9, dtype=dtype) for kind, dtype in TYPES.items()}
    state |= {
        'conv': sparse(6, 8, 3, 3),
        'bias': sparse(31),
        'number': torch.tensor(-0.0),
        'one': torch.tensor(2),
        'empty': torch.zeros(0, 4),
        'hollow': torch.zeros(4, 0),
        'all': torch.zeros(5, 7),
        'dense': torch.ones(5, 7),
        'tiny': torch.tensor([1e-45, -1e-45, 0.0]),  # not 0: subnormal
        'last': torch.eye(4)[:, :1].T,
    }
    return state


def check(headers: Headers, state: dict[str, torch.Tensor], **options) -> None:
    found = scan(headers, check=True, **options)
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name] == truth(tensor), name


@pytest.mark.parametrize('workers', [1, 3])
def test_every_type(tmp_path, state, workers):
    tensors = {
        name: (next(k for k in TYPES if TYPES[k] == t.dtype), list(t.shape), bytes_of(t)) for name, t in state.items()
    }
    path = as_safetensors(
        {name: item for name, item in tensors.items() if item[0] != 'C128'}, tmp_path / 'a.safetensors'
    )
    check(read_headers(path), {name: tensor for name, tensor in state.items() if name != 'C128'}, workers=workers)
    assert set(TYPES) == {kind for kind, bits in BITS.items() if bits >= 8}
    assert scan(read_headers(path))['F32'] == replace(truth(state['F32']), nonfinite=None)


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('piece', [64, 1000, PIECE])
def test_not_contiguous(tmp_path, monkeypatch, state, legacy, piece):
    """Turned, cut, repeated tensors are counted as torch sees them, whatever the pieces are."""
    monkeypatch.setattr(tensor_scan, 'PIECE', piece)
    wide, conv = sparse(24, 18), sparse(6, 8, 3, 3)
    state |= {
        'turned': wide.T,
        'cut': wide[3:, 2:9],
        'every second': wide[::2, ::3],
        'column': wide[:, 4],
        'row': wide[1:2],
        'channels last': conv.to(memory_format=torch.channels_last),
        'permuted': conv.permute(2, 1, 3, 0),
        'repeated rows': wide[5].expand(7, 18),
        'repeated columns': wide[:, 3:4].expand(24, 5),
        'repeated': torch.zeros(1).expand(1000, 1000, 1000),
        'one row': wide[:, 0:1].T,
    }
    torch.save({'state_dict': state}, tmp_path / 'x.pth', _use_new_zipfile_serialization=not legacy)
    headers = read_headers(tmp_path / 'x.pth')
    huge = state.pop('repeated')
    found = scan(replace(headers, tensors={'repeated': headers.tensors.pop('repeated')}))['repeated']
    assert found == Scan(huge.numel(), huge.numel(), 1000, 1000, 1000, 1000)
    check(headers, state, workers=2)


def test_large_tensors_in_pieces(tmp_path):
    """Rows longer than a piece, many short rows, long columns; zero rows and columns across the seams."""
    threads = threading.active_count()
    torch.manual_seed(1)
    state = {
        'long': sparse(3, 400_000, odd=False),
        'short': sparse(300_000, 4, odd=False),
        'flat': sparse(1_200_000, dtype=torch.float16),
        'square': sparse(1000, 1300, dtype=torch.bfloat16),
        'rare': torch.ones(900, 1100),
    }
    state['rare'][:, 77] = 0
    state['rare'][123] = -0.0
    state['turned'] = state['square'].T
    torch.save(state, tmp_path / 'x.pth')
    calls = []
    headers = read_headers(tmp_path / 'x.pth')
    check(headers, state, workers=3, progress=lambda *done: calls.append((*done, threading.current_thread())))
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    assert calls[-1] == (total, total, threading.main_thread()) and calls == sorted(calls, key=lambda call: call[0])
    assert threading.active_count() <= threads


def test_half_bytes(tmp_path):
    """F4: two numbers in a byte; 8 is -0. Rows that end within a byte."""
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 16, (6, 5), dtype=np.uint8)
    codes[2], codes[:, 1] = (0, 8, 8, 0, 8), 8
    flat = codes.reshape(-1)
    path = as_safetensors({'a': ('F4', [6, 5], (flat[::2] | flat[1::2] << 4).tobytes())}, tmp_path / 'a.safetensors')
    zero = codes % 8 == 0
    expected = Scan(30, int(zero.sum()), 6, int(zero.all(1).sum()), 5, int(zero.all(0).sum()), 0)
    for piece in (1, 2, 3, PIECE):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tensor_scan, 'PIECE', piece)
            assert scan(read_headers(path), check=True) == {'a': expected}
    as_safetensors({'a': ('F6_E2M3', [4], bytes(3))}, path)
    with pytest.raises(HeaderError, match='F6_E2M3'):
        scan(read_headers(path))


def test_tied_tensors_are_read_once(tmp_path):
    weight = sparse(50, 20)
    torch.save({'a': weight, 'b': weight, 'c': weight[:10]}, tmp_path / 'x.pth')
    calls = []
    found = scan(read_headers(tmp_path / 'x.pth'), progress=lambda *done: calls.append(done))
    assert found['a'] == found['b'] == replace(truth(weight), nonfinite=None) and found['c'] == replace(
        truth(weight[:10]), nonfinite=None
    )
    assert calls[-1] == (4800, 4800)


def test_what_cannot_be_counted_is_an_error(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save({'a': torch.ones(3), 'b\n': torch.eye(3).to_sparse()}, path)
    headers = read_headers(path)
    assert headers.tensors['b\n'].shape == (3, 3) and headers.tensors['b\n'].offset is None
    overlapping = torch.as_strided(torch.ones(1000), (500, 500), (1, 1))
    cases = {'as they are': {'b\n': headers.tensors['b\n']}}
    torch.save({'a': overlapping}, path)
    cases['overlap'] = read_headers(path).tensors
    for message, tensors in cases.items():
        with pytest.raises(HeaderError, match=message) as caught:
            scan(replace(headers, tensors=tensors))
        assert '\n' not in str(caught.value) and 'x.pth' in str(caught.value)
    with pytest.raises(HeaderError, match='highest byte first'):
        scan(replace(headers, big_endian=True))
    with pytest.raises(ValueError, match='workers is 0'):
        scan(headers, workers=0)


def test_a_file_that_has_changed(tmp_path):
    threads = threading.active_count()
    torch.save({'a': torch.ones(1000), 'b': torch.ones(3_000_000)}, tmp_path / 'x.pth')
    headers = read_headers(tmp_path / 'x.pth')
    os.truncate(tmp_path / 'x.pth', 5_000_000)
    with pytest.raises(HeaderError, match=r"x\.pth: 'b' ends at byte .* the file is shorter now"):
        scan(headers)
    (tmp_path / 'x.pth').unlink()
    with pytest.raises(HeaderError, match='cannot be read: No such file'):
        scan(headers)
    (tmp_path / 'x.pth').mkdir()
    with pytest.raises(HeaderError, match='cannot be read: Is a directory'):
        scan(headers)
    assert threading.active_count() <= threads


def test_big_endian_is_seen(tmp_path):
    torch.save({'a': torch.ones(3)}, tmp_path / 'x.pth')
    with zipfile.ZipFile(tmp_path / 'x.pth') as old, zipfile.ZipFile(tmp_path / 'y.pth', 'w') as new:
        for record in old.infolist():
            new.writestr(record.filename, b'big' if 'byteorder' in record.filename else old.read(record))
    assert not read_headers(tmp_path / 'x.pth').big_endian and read_headers(tmp_path / 'y.pth').big_endian


LARGE = r"""
import pathlib, re, sys, threading, time
from vadslim.analysis import tensor_scan
from vadslim.analysis.headers import read_headers
from vadslim.analysis.tensor_scan import scan
from vadslim.cli import run

def slowly(count, piece, buffer):
    if not piece.start:  # the first worker's
        time.sleep(float(sys.argv[2]))
    return add(count, piece, buffer)

if len(sys.argv) > 2:
    add, tensor_scan._Count.add = tensor_scan._Count.add, slowly

def main(argv):
    headers = read_headers(argv[0])
    assert 'numpy' not in sys.modules
    scan(headers, workers=2, progress=lambda done, total: print(done, flush=True))

code = run(main)
peak = int(re.search(r'VmHWM:\s*(\d+)', pathlib.Path('/proc/self/status').read_text())[1]) // 1024
print(threading.active_count(), peak, 'torch' in sys.modules)
sys.exit(code)
"""


def large_file(path: Path, rows: int) -> Path:
    """Of zeros that take no room."""
    size = rows << 15
    header = json.dumps({'w': {'dtype': 'F32', 'shape': [rows, 8192], 'data_offsets': [0, size]}}).encode()
    with path.open('wb') as file:
        file.write(struct.pack('<Q', len(header)) + header)
        file.truncate(8 + len(header) + size)
    return path


def test_memory_is_bounded(tmp_path):
    path = large_file(tmp_path / 'a.safetensors', 1 << 14)  # 512 MiB
    said = subprocess.run([sys.executable, '-c', LARGE, path], capture_output=True, text=True, check=True).stdout
    threads, memory, torch_there = said.split('\n')[-2].split()
    assert (threads, torch_there) == ('1', 'False') and int(memory) < 120


@pytest.mark.parametrize('seconds', [0, 2])
def test_ctrl_c_stops_at_the_next_piece(tmp_path, seconds):
    path = large_file(tmp_path / 'a.safetensors', 1 << 25)  # 1 TiB: hours, if it went on
    process = subprocess.Popen(
        [sys.executable, '-c', LARGE, path, str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline()  # it counts
    process.send_signal(signal.SIGINT)
    said, complaint = process.communicate(timeout=60)
    assert process.returncode == 130 and complaint == 'interrupted\n'
    assert re.search(r'^1 ', said, re.MULTILINE)  # no thread is left: the files are closed after their last reader
