"""Nothing in a checkpoint or info file is ever run, whoever reads it."""

import os
import pickle
import shutil
import time

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule
from mmengine.runner import Runner
from mmengine.runner import load_checkpoint as mmengine_load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from checkpoint_files import FORMATS, mmengine_like, one_line
from vadslim.checkpoint import (
    CheckpointError,
    dump_info,
    load_checkpoint,
    load_info,
    register_loader,
    save_checkpoint,
)


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


# --- info files -------------------------------------------------------------------------------------------


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
