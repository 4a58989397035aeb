"""Moments of every optimizer go through the command: its fine-tune starts with the kept slices of the dense ones."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from vadslim.checkpoint import load_checkpoint
from vadslim.pruning import Structure
from vadslim.registry import MODELS
from vadslim.testing import ToyNet, write_toy_config

SLIM = 'vad_structured_pruned.pth'


@MODELS.register_module(force=True)
class FrozenToyNet(ToyNet):
    """The first convolution does not train, nor does a vector in the middle of the others."""

    def __init__(self, **options):
        super().__init__(**options)
        self.bn1.eval()
        for parameter in (*self.conv1.parameters(), *self.bn1.parameters(), self.norm.bias):
            parameter.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.bn1.training = False
        return self


@HOOKS.register_module(force=True)
class Moments(Hook):
    """What the optimizer holds before a Runner's first iteration, and after its last: by the parameters' names."""

    runs: list = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == runner.start_iter:
            self.runs.append(dict(first=held(runner), model=runner.model))

    def before_train(self, runner):
        runner.start_iter = runner.iter

    def after_train(self, runner):
        self.runs[-1]['last'] = held(runner)


def held(runner):
    state = runner.optim_wrapper.optimizer.state
    named = ((name, state.get(parameter)) for name, parameter in runner.model.named_parameters())
    return {name: copy.deepcopy(dict(moments)) for name, moments in named if moments}


def kept(tensor, dims):
    """The kept positions of a moment, by hand; a number stays."""
    for dim, positions in dims.items():
        tensor = torch.stack([tensor.select(dim, position) for position in positions], dim) if tensor.dim() else tensor
    return tensor


LR_MULT = {'custom_keys': {'conv1': {'lr_mult': 0.1}, 'norm': {'decay_mult': 0.0}, 'ffn.0': {'lr_mult': 0.5}}}
# (optimizer, the moments that it has of every parameter)
OPTIMIZERS = {
    'SGD': (dict(type='SGD', lr=0.01, weight_decay=0.01, momentum=0.9, nesterov=True), {'momentum_buffer'}),
    'Adam': (dict(type='Adam', lr=1e-3, weight_decay=0.0), {'exp_avg', 'exp_avg_sq'}),
    'AMSGrad': (
        dict(type='Adam', lr=1e-3, weight_decay=0.0, amsgrad=True),
        {'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq'},
    ),
    'AdamW': (dict(type='AdamW', lr=1e-3, weight_decay=0.1), {'exp_avg', 'exp_avg_sq'}),
    'RMSprop': (
        dict(type='RMSprop', lr=1e-3, weight_decay=0.0, momentum=0.9, centered=True),
        {'square_avg', 'momentum_buffer', 'grad_avg'},
    ),
}
SHRINKING, FROZEN = 18, 4  # parameters of a ToyNet that lose something; of these, those that do not train
AVERAGING = {'type': 'EMAHook', 'momentum': 0.3}


@pytest.fixture
def trained(folder, command, monkeypatch):
    """trained(optimizer, ...) -> what the dense Runner had last and the slim one first, after the whole command."""
    monkeypatch.setattr(Moments, 'runs', [])

    def run(optimizer, paramwise=None, model='vadslim.ToyNet', hooks=(), ratio='0.5'):
        wrapper = dict(type='OptimWrapper', optimizer=optimizer, paramwise_cfg=paramwise)
        hooks = [{'type': 'vadslim.RandomStateHook'}, {'type': 'vadslim.StructureHook'}, {'type': 'Moments'}, *hooks]
        changes = dict(model={'type': model}, optim_wrapper=wrapper, custom_hooks=hooks)
        write_toy_config('toy.py', 'work', epochs=1, log_level='ERROR', **changes)
        cfg = Config.fromfile('toy.py')
        cfg.experiment_name = str(folder)
        Runner.from_cfg(cfg).train()
        arguments = ['--pruning-ratio', ratio, '--output-dir', 'out', '--latency', '0']
        more = ['--fine-tune', '--fine-tune-epochs', '2']
        code, out, err = command('toy.py', 'work/epoch_1.pth', *arguments, *more)
        assert code == 0 and 'optimizer state' not in out and 'goes on to 2' in err, err
        dense, slim = Moments.runs
        return dense, slim, Structure.load('out/structure.json')

    return run


def assert_kept(dense, slim, structure):
    """Bit for bit, of every parameter that the dense run had moments of."""
    assert dense['last'].keys() == slim['first'].keys()
    smaller = 0
    for name, moments in dense['last'].items():
        dims = structure.tensors.get(name, {})
        assert moments.keys() == slim['first'][name].keys()
        for key, value in moments.items():
            after = slim['first'][name][key]
            if not isinstance(value, torch.Tensor):
                assert after == value
                continue
            expected = kept(value, dims)
            assert after.dtype == value.dtype and torch.equal(after, expected), (name, key)
            smaller += after.shape != value.shape
    return smaller


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_the_kept_slices_of_every_moment(trained, name):
    optimizer, keys = OPTIMIZERS[name]
    dense, slim, structure = trained(optimizer, LR_MULT if name != 'Adam' else None)
    assert assert_kept(dense, slim, structure) == SHRINKING * len(keys)
    assert {key for moments in dense['last'].values() for key in moments} - {'step'} == keys
    assert len(dense['last']) == len(list(dense['model'].parameters()))
    last = [v for moments in slim['last'].values() for v in moments.values() if isinstance(v, torch.Tensor)]
    assert all(value.isfinite().all() for value in last)


@pytest.mark.parametrize(('name', 'paramwise'), [('SGD', None), ('AdamW', LR_MULT)], ids=['numbered', 'not numbered'])
def test_frozen_parameters(trained, name, paramwise):
    """Without paramwise_cfg MMEngine gives an optimizer the frozen ones as well: they take numbers, without moments."""
    optimizer, keys = OPTIMIZERS[name]
    dense, slim, structure = trained(optimizer, paramwise, 'vadslim.FrozenToyNet')
    flags = {key: parameter.requires_grad for key, parameter in dense['model'].named_parameters()}
    assert sum(not trains for trains in flags.values()) == FROZEN
    numbered = load_checkpoint('work/epoch_1.pth')['optimizer']['param_groups']
    assert sum(len(group['params']) for group in numbered) == len(flags) - (0 if paramwise is None else FROZEN)
    assert assert_kept(dense, slim, structure) == (SHRINKING - FROZEN) * len(keys)
    assert dense['last'].keys() == {key for key, trains in flags.items() if trains}
    assert {key: parameter.requires_grad for key, parameter in slim['model'].named_parameters()} == flags
    modes = [{key: part.training for key, part in run['model'].named_modules()} for run in (dense, slim)]
    assert modes[0] == modes[1] and not modes[1]['bn1']


def test_beside_averaged_weights(trained):
    optimizer, keys = OPTIMIZERS['AdamW']
    dense, slim, structure = trained(optimizer, LR_MULT, hooks=[AVERAGING])
    assert assert_kept(dense, slim, structure) == SHRINKING * len(keys)
    before, after = (load_checkpoint(file) for file in ('work/epoch_1.pth', f'out/{SLIM}'))
    assert before['ema_state_dict'].keys() == after['ema_state_dict'].keys()
    for name, value in before['ema_state_dict'].items():
        dims = structure.tensors.get(name.removeprefix('module.'), {})
        assert torch.equal(torch.as_tensor(after['ema_state_dict'][name]), kept(torch.as_tensor(value), dims)), name
    assert load_checkpoint('out/fine_tuned/epoch_2.pth')['ema_state_dict']['steps'] == 8


def test_of_a_training_in_mixed_precision(trained, command):
    """Slimmed on a machine that could not train so: what names the parameters is the optimizer alone."""
    optimizer, keys = OPTIMIZERS['AdamW']
    dense, _, _ = trained(optimizer, LR_MULT)
    content = load_checkpoint('work/epoch_1.pth')
    content['optimizer']['loss_scaler'] = torch.amp.GradScaler('cpu').state_dict()
    torch.save(content, 'mixed.pth')
    wrapper = "optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16')"
    Path('mixed.py').write_text(f"_base_ = ['toy.py']\n{wrapper}\n")
    arguments = ['mixed.py', 'mixed.pth', '--pruning-ratio', '0.5', '--output-dir', 'mixed', '--latency', '0']
    if not torch.cuda.is_available():
        code, _, err = command(*arguments, '--fine-tune')
        assert code == 2 and 'config mixed.py: its optim_wrapper (AmpOptimWrapper, mixed precision) needs a GPU' in err
    code, out, err = command(*arguments)
    assert code == 0 and 'optimizer state' not in out, err
    one, other = (load_checkpoint(f'{folder}/{SLIM}')['optimizer'] for folder in ('out', 'mixed'))
    assert other['loss_scaler'] == content['optimizer']['loss_scaler']
    assert one['state'].keys() == other['state'].keys()
    for number, moments in one['state'].items():
        assert all(torch.equal(value, other['state'][number][key]) for key, value in moments.items())
