"""Files are read without running anything in them, and written whole or not at all."""

import os
import pickle
import re
import resource
import shutil
import signal
import time
from collections import OrderedDict
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule
from mmengine.runner import Runner
from mmengine.runner import load_checkpoint as mmengine_load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from vadslim.checkpoint import (
    CheckpointError,
    atomic_write,
    dump_info,
    load_checkpoint,
    load_info,
    register_loader,
    save_checkpoint,
)

FORMATS = pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])


class Call:
    """Pickles as a call of ``function(*args)``, followed by ``state`` if there is one."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def call(name, text):
    """The pickle of ``name(text)``, whether or not such a function can be imported here."""
    module, _, function = name.rpartition('.')
    return (
        b'\x80\x02c'
        + f'{module}\n{function}\n'.encode()
        + b'X'
        + len(text).to_bytes(4, 'little')
        + text.encode()
        + b'\x85R.'
    )


@pytest.fixture
def canary(tmp_path):
    """A file that hostile code creates; it must not be there when the test ends."""
    path = tmp_path / 'canary'
    yield path
    assert not path.exists()


@pytest.fixture
def loader():
    schemes = dict(CheckpointLoader._schemes)
    register_loader()
    yield
    CheckpointLoader._schemes = schemes


def one_line(error):
    text = str(error.value)
    assert '\n' not in text and len(text) < 400
    return text


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


ARRAYS = {
    'c': np.arange(6, dtype=np.float32).reshape(2, 3),
    'fortran': np.asfortranarray(np.arange(6).reshape(2, 3)),
    'big endian': np.arange(3, dtype='>i2'),
    'bool': np.array([True, False]),
    'text': np.array(['vehicle.car', 'flat']),
    'bytes': np.array([b'ab', b'']),
    'object': np.array([1, 'two', None, np.float64(4)], dtype=object),
    'empty': np.zeros((0, 9), np.float32),
    'scalar array': np.array(2.5),
    'float64': np.float64(0.1),
    'bool scalar': np.bool_(True),
    'text scalar': np.str_('abc'),
    'dtype': np.dtype('<f4'),
}


def mmengine_like():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    losses = HistoryBuffer([0.5, 0.25], [1, 1], max_length=100)
    return {
        'meta': {'epoch': 2, 'iter': 10, 'seed': 3, 'dataset_meta': {'classes': ('car', 'bus'), **ARRAYS}},
        'state_dict': model.state_dict(),
        'optimizer': optimizer.state_dict(),
        'message_hub': {
            'log_scalars': OrderedDict(loss=losses),
            'runtime_info': OrderedDict(iter=10, best_score=np.float64(0.5)),
            'resumed_keys': OrderedDict(loss=True, iter=True),
        },
    }


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


# --- code in files ------------------------------------------------------------------------------------------


def hostile_calls(canary):
    return {
        'posix.system': Call(os.system, f'touch {canary}'),
        'builtins.eval': Call(eval, f'open({str(canary)!r}, "w")'),
        'builtins.exec': Call(exec, f'open({str(canary)!r}, "w")'),
        'builtins.getattr': Call(getattr, 'text', '__class__'),
        'shutil.copyfile': Call(shutil.copyfile, '/dev/null', str(canary)),
        'io.open': Call(open, str(canary), 'w'),
    }


@pytest.mark.parametrize('name', hostile_calls('x'))
def test_the_hostile_calls_are_real(tmp_path, name):
    """What the next tests refuse does run in an ordinary unpickler."""
    made = pickle.loads(pickle.dumps(hostile_calls(tmp_path / 'canary')[name], protocol=2))
    if name == 'builtins.getattr':
        assert made is str
        return
    assert (tmp_path / 'canary').exists()


@FORMATS
@pytest.mark.parametrize('name', hostile_calls('x'))
@pytest.mark.parametrize('place', ['meta', 'message_hub', 'state_dict'])
def test_code_in_the_pickle_is_refused_by_name(tmp_path, canary, zipped, name, place):
    saved = mmengine_like()
    saved[place]['extra'] = hostile_calls(canary)[name]
    torch.save(saved, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / 'a.pth')
    assert name in one_line(error)


def test_other_libraries_names_are_not_ours(tmp_path, canary):
    torch.serialization.add_safe_globals([shutil.copyfile])
    try:
        torch.save({'a': hostile_calls(canary)['shutil.copyfile']}, tmp_path / 'a.pth')
        with pytest.raises(CheckpointError, match=r'shutil\.copyfile'):
            load_checkpoint(tmp_path / 'a.pth')
        assert shutil.copyfile in torch.serialization.get_safe_globals()
    finally:
        torch.serialization.clear_safe_globals()


def test_statistics_of_other_buffers_cannot_be_replaced(tmp_path):
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    HistoryBuffer._statistics_methods['mean'] = HistoryBuffer.max
    try:
        torch.save({'a': buffer}, tmp_path / 'a.pth')
    finally:
        HistoryBuffer._statistics_methods['mean'] = HistoryBuffer.mean
    assert load_checkpoint(tmp_path / 'a.pth')['a'].statistics('mean') == 2.0


def test_forged_numpy_sizes_are_not_believed(tmp_path):
    forged = Call(np.dtype, 'S8', False, True, state=(3, '|', None, None, None, 80_000_000, 1, 63))
    subarray = Call(np.dtype, 'f8', False, True, state=(3, '<', (np.dtype('f8'), (9,)), None, None, 72, 8, 0))
    array = Call(np.core.multiarray._reconstruct, np.ndarray, (0,), b'b', state=(1, (4,), forged, False, bytes(32)))
    short = Call(
        np.core.multiarray._reconstruct,
        np.ndarray,
        (0,),
        b'b',
        state=(1, (99,), np.dtype('f8'), False, bytes(32)),
    )
    for write, read in ((torch.save, load_checkpoint), (dump_info, load_info)):
        write({'a': forged, 'b': array}, tmp_path / 'a.pth')
        assert read(tmp_path / 'a.pth')['b'].tolist() == [b''] * 4
        assert read(tmp_path / 'a.pth')['a'].itemsize == 8
        for hostile, reason in ((subarray, 'fields'), (short, 'size')):
            write({'a': hostile}, tmp_path / 'a.pth')
            with pytest.raises(CheckpointError, match=reason):
                read(tmp_path / 'a.pth')


def test_paths_that_mmengine_would_delete(tmp_path):
    hub = mmengine_like()['message_hub']
    hub['runtime_info'].update(
        cfg='a = 1',
        best_ckpt=str(tmp_path / 'best_L2_epoch_1.pth'),
        best_ckpt_a='/etc/best_passwd',
        best_ckpt_b=str(tmp_path / 'mine.txt'),
        keep_ckpt_ids=[1, '/../../mine'],
    )
    hub['resumed_keys'].update(cfg=True, best_ckpt=True, best_ckpt_a=True)
    save_checkpoint({'state_dict': {}, 'message_hub': hub}, tmp_path / 'a.pth')
    read = load_checkpoint(tmp_path / 'a.pth')['message_hub']
    assert sorted(read['runtime_info']) == ['best_ckpt', 'best_score', 'iter']
    assert sorted(read['resumed_keys']) == ['best_ckpt', 'iter', 'loss']


# --- MMEngine's own loads -----------------------------------------------------------------------------------


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)

    def forward(self, inputs, mode='loss'):
        return {'loss': self.linear(torch.stack(inputs)).square().mean()}


def runner(folder, epochs, **kwargs):
    data = {'inputs': torch.ones(2)}
    return Runner(
        model=Toy(),
        work_dir=str(folder),
        train_dataloader={
            'dataset': [data] * 4,
            'batch_size': 2,
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'collate_fn': {'type': 'pseudo_collate'},
        },
        train_cfg={'by_epoch': True, 'max_epochs': epochs},
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 0.1}},
        param_scheduler={'type': 'CosineAnnealingLR', 'T_max': 4},
        cfg=Config({'a_key': 'a value'}),
        log_level='ERROR',
        experiment_name=f'test_checkpoint_{folder.name}_{epochs}_{time.monotonic_ns()}',
        **kwargs,
    )


def test_resume_runs_no_code(tmp_path, canary, loader):
    """A real MMEngine checkpoint, with Python wherever MMEngine keeps it, resumed by a real Runner."""
    code = f'a = __import__("os").system("touch {canary}")\n'
    Config.fromstring(code, file_format='.py')
    assert canary.exists()  # this is how MMEngine would read it
    canary.unlink()

    runner(tmp_path / 'first', 1).train()
    hostile = torch.load(tmp_path / 'first' / 'epoch_1.pth', weights_only=False)
    assert 'a_key' in hostile['meta']['cfg']
    hostile['meta'].update(config=code, cfg=code)
    hostile['message_hub']['runtime_info']['cfg'] = code
    hostile['message_hub']['resumed_keys']['cfg'] = True
    torch.save(hostile, tmp_path / 'hostile.pth')

    resumed = runner(tmp_path / 'second', 3, load_from=str(tmp_path / 'hostile.pth'), resume=True)
    resumed.train()
    assert resumed.epoch == 3
    assert (tmp_path / 'second' / 'epoch_3.pth').exists()

    hostile['message_hub']['runtime_info']['extra'] = Call(os.system, f'touch {canary}')
    torch.save(hostile, tmp_path / 'hostile.pth')
    with pytest.raises(CheckpointError, match=r'posix\.system'):
        runner(tmp_path / 'third', 3, load_from=str(tmp_path / 'hostile.pth'), resume=True).train()
    with pytest.raises(CheckpointError, match=r'posix\.system'):
        mmengine_load_checkpoint(Toy(), str(tmp_path / 'hostile.pth'))


def test_init_cfg_passes_through(tmp_path, loader):
    weights = {'weight': torch.full((1, 2), 7.0), 'bias': torch.zeros(1)}
    torch.save({'state_dict': {f'linear.{name}': value for name, value in weights.items()}}, tmp_path / 'a.pth')
    pretrained = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'a.pth')}

    class Pretrained(BaseModule):
        def __init__(self):
            super().__init__(init_cfg=pretrained)
            self.linear = torch.nn.Linear(2, 1)

    model = Pretrained()
    model.init_weights()
    assert torch.equal(model.linear.weight, weights['weight'])


@pytest.mark.parametrize(
    'scheme', ['https://', 'torchvision://', 's3://', 'open-mmlab://', 'open-mmlab:s3://', 'ftp://']
)
def test_nothing_is_downloaded(loader, scheme):
    with pytest.raises(CheckpointError, match='downloads nothing') as error:
        CheckpointLoader.load_checkpoint(f'{scheme}resnet50')
    assert f'{scheme}resnet50' in one_line(error)


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


@pytest.mark.parametrize(
    'name',
    [
        'builtins.exec',
        'builtins.eval',
        'builtins.getattr',
        'builtins.__import__',
        'os.system',
        'posix.system',
        'subprocess.getoutput',
        'numpy.testing.runstring',
        'numpy.testing._private.utils.runstring',
        'numpy.f2py.crackfortran.myeval',
        'numpy.distutils.misc_util.exec_mod_from_location',
        'numpy.load',
        'torch.load',
        'functools.partial',
        'operator.attrgetter',
        'importlib.import_module',
        'codecs.encode',
    ],
)
def test_info_names_are_a_list(tmp_path, canary, name):
    (tmp_path / 'infos.pkl').write_bytes(call(name, f'open({str(canary)!r}, "w")'))
    with pytest.raises(CheckpointError) as error:
        load_info(tmp_path / 'infos.pkl')
    assert name in one_line(error)


def test_info_dotted_names_do_not_lead_elsewhere(tmp_path):
    """Protocol 4 looks up 'dict.fromkeys' and the like by attribute in an ordinary unpickler."""
    dotted = b'\x80\x04\x8c\x08builtins\x8c\x0ddict.fromkeys\x93.'
    assert pickle.loads(dotted)('a') == {'a': None}
    (tmp_path / 'infos.pkl').write_bytes(dotted)
    with pytest.raises(CheckpointError, match=r'builtins\.dict\.fromkeys'):
        load_info(tmp_path / 'infos.pkl')


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


def test_a_killed_save_leaves_the_old_file(tmp_path):
    """kill -9 while the temporary file grows; the file under the final name is the old one, whole."""
    path = tmp_path / 'a.pth'
    save_checkpoint({'state_dict': {}, 'meta': 'old'}, path)
    child = os.fork()
    if child == 0:
        try:
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
