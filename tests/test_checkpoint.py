"""Files are read as they were written, whole or not at all; damaged ones are named."""

import os
import pickle
import re
import resource
import signal
import time
from collections import OrderedDict
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from checkpoint_files import ARRAYS, FORMATS, mmengine_like, one_line
from vadslim.checkpoint import CheckpointError, atomic_write, dump_info, load_checkpoint, load_info, save_checkpoint


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b):
            assert_same(left, right)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()
        assert b.flags.writeable
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, HistoryBuffer):
        assert_same(a.data, b.data)
        assert a.max_length == b.max_length
    else:
        assert a == b


# --- reading what is good -----------------------------------------------------------------------------------


@FORMATS
def test_reads_what_was_saved(tmp_path, zipped):
    saved = mmengine_like()
    torch.save(saved, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    assert_same(saved, load_checkpoint(tmp_path / 'a.pth'))


def test_reads_what_numpy_2_wrote(tmp_path):
    saved = mmengine_like()
    torch.save(saved, tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    renamed = (tmp_path / 'a.pth').read_bytes().replace(b'cnumpy.core.', b'cnumpy._core.')
    assert renamed.count(b'cnumpy._core.multiarray\n') >= 2
    (tmp_path / 'a.pth').write_bytes(renamed)
    assert_same(saved, load_checkpoint(tmp_path / 'a.pth'))


@FORMATS
def test_reads_mmcv_1(tmp_path, zipped):
    meta = {
        'mmcv_version': '1.4.0',
        'config': 'a = 1',
        'CLASSES': ('car',),
        'epoch': 60,
        'hook_msgs': {'best': np.float32(1)},
    }
    weights = OrderedDict(w=torch.randn(3))
    weights._metadata = OrderedDict({'': {'version': 1}})
    torch.save({'meta': meta, 'state_dict': weights}, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    read = load_checkpoint(tmp_path / 'a.pth')
    assert read['meta'] == {key: value for key, value in meta.items() if key != 'config'}
    assert torch.equal(read['state_dict']['w'], weights['w'])


def test_bare_state_dict(tmp_path):
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / 'a.pth')
    read = load_checkpoint(tmp_path / 'a.pth')
    assert list(read) == ['state_dict'] and list(read['state_dict']) == ['weight', 'bias']


# --- reading what is bad ------------------------------------------------------------------------------------


@FORMATS
@pytest.mark.parametrize('size', [0, 1, 3, 100, 0.3, 0.7, -1])
def test_truncated(tmp_path, zipped, size):
    torch.save(mmengine_like(), tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    data = (tmp_path / 'a.pth').read_bytes()
    (tmp_path / 'a.pth').write_bytes(data[: int(size * len(data)) if isinstance(size, float) else size])
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / 'a.pth')
    assert re.search(r'is empty|is truncated or damaged|is not a checkpoint', one_line(error))
    if size not in (0, 1):
        assert 'truncated' in str(error.value)


@pytest.mark.parametrize('data', [b'{"epoch": 1}', b'\x89PNG\r\n\x1a\n' + bytes(64), b'epoch_3.pth\n'])
def test_foreign_file(tmp_path, data):
    (tmp_path / 'a.pth').write_bytes(data)
    with pytest.raises(CheckpointError, match='is not a checkpoint'):
        load_checkpoint(tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='is not a checkpoint'):
        load_info(tmp_path / 'a.pth')


def test_not_a_dict(tmp_path):
    torch.save([torch.ones(1)], tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='holds a list'):
        load_checkpoint(tmp_path / 'a.pth')


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / 'epoch_12.pth').touch()
    (tmp_path / 'config.py').touch()
    with pytest.raises(CheckpointError, match=r'epoch_21\.pth: no such file; did you mean .*/epoch_12\.pth\?$'):
        load_checkpoint(tmp_path / 'epoch_21.pth')
    with pytest.raises(CheckpointError, match='no such file, nor its folder'):
        load_checkpoint(tmp_path / 'ckpts' / 'epoch_21.pth')
    with pytest.raises(CheckpointError, match='is a folder'):
        load_checkpoint(tmp_path)


# --- info files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('protocol', range(2, 6))
def test_info_of_every_protocol(tmp_path, protocol):
    shared = [np.arange(3.0)]
    info = {
        'infos': [{'token': 'abc', **ARRAYS, 'shared': shared}, {'shared': shared}],
        'metadata': {'version': 'v1.0-mini', 'set': {1, 2}, 'frozen': frozenset({3}), 'bytes': b'\xff\x00'},
        'other': (OrderedDict(a=1), complex(1, 2), slice(1, 2), range(3), bytearray(b'x'), (np.float32(1),)),
    }
    (tmp_path / 'infos.pkl').write_bytes(pickle.dumps(info, protocol=protocol))
    read = load_info(tmp_path / 'infos.pkl')
    assert_same(info, read)
    assert read['infos'][0]['shared'] is read['infos'][1]['shared']


def test_info_round_trip(tmp_path):
    dump_info({'infos': [ARRAYS]}, tmp_path / 'infos.pkl')
    assert_same({'infos': [ARRAYS]}, load_info(tmp_path / 'infos.pkl'))


@pytest.mark.parametrize('size', [0, 1, 20, -1])
def test_truncated_info(tmp_path, size):
    data = pickle.dumps({'infos': [ARRAYS]}, protocol=4)
    (tmp_path / 'infos.pkl').write_bytes(data[:size])
    with pytest.raises(CheckpointError, match=r'is empty|is truncated|is not a'):
        load_info(tmp_path / 'infos.pkl')


# --- writing ------------------------------------------------------------------------------------------------


@contextmanager
def full_disk(size):
    """No file of this process can grow past ``size`` bytes: the system's own refusal, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Interrupt:
    """Ctrl-C at the moment when this object is pickled."""

    def __reduce__(self):
        signal.raise_signal(signal.SIGINT)
        return (list, ())


def test_full_disk_leaves_the_old_file(tmp_path):
    save_checkpoint({'state_dict': {}, 'meta': 'old'}, tmp_path / 'a.pth')
    dump_info('old', tmp_path / 'a.pkl')
    with full_disk(1 << 20):
        with pytest.raises(CheckpointError, match='cannot be written') as error:
            save_checkpoint({'w': torch.zeros(1 << 20)}, tmp_path / 'a.pth')
        one_line(error)
        with pytest.raises(CheckpointError, match='cannot be written'):
            dump_info(np.zeros(1 << 20), tmp_path / 'a.pkl')
    assert load_checkpoint(tmp_path / 'a.pth')['meta'] == 'old'
    assert load_info(tmp_path / 'a.pkl') == 'old'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.pkl', 'a.pth']


@pytest.mark.parametrize('write', [save_checkpoint, dump_info])
def test_interrupt_leaves_nothing(tmp_path, write):
    with pytest.raises(KeyboardInterrupt):
        write({'w': torch.zeros(1 << 20), 'x': Interrupt()}, tmp_path / 'a')
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder(tmp_path):
    (tmp_path / 'file').touch()
    for folder in ('missing', 'file'):
        with pytest.raises(CheckpointError, match='cannot be written'):
            save_checkpoint({}, tmp_path / folder / 'a.pth')


def test_atomic_text(tmp_path):
    path = tmp_path / 'done.json'
    with atomic_write(path) as file:
        file.write('größe')
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == 'größe'.encode()
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write('half' + str(1 // 0))
    assert path.read_text(encoding='utf-8') == 'größe'
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_not_replaced(tmp_path):
    """As /dev/stdout, in whose place a rename would put a file."""
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(OSError, match='no ordinary file'), atomic_write(tmp_path / 'pipe'):
        pass
    assert (tmp_path / 'pipe').is_fifo()


def test_a_killed_save_leaves_the_old_file(tmp_path):
    """kill -9 while the temporary file grows; the file under the final name is the old one, whole."""
    path = tmp_path / 'a.pth'
    save_checkpoint({'state_dict': {}, 'meta': 'old'}, path)
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # OpenMP's threads have not come along
            save_checkpoint({f'w{i}': torch.zeros(1 << 20) for i in range(200)}, path)
        finally:
            os._exit(1)
    try:
        deadline = time.monotonic() + 60
        while not any(half.stat().st_size > 1 << 20 for half in tmp_path.glob('.a.pth.*.tmp')):
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert load_checkpoint(path)['meta'] == 'old'
