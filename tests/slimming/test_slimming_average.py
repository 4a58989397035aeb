"""Averaged weights (MMEngine's EMAHook) go through slimming, and a training of the slim network goes on with them."""

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vadslim.checkpoint import load_checkpoint
from vadslim.pruning import Structure, slice_state_dict
from vadslim.slimming.options import parse
from vadslim.slimming.training import training_config
from vadslim.testing import ToyNet, toy_runner, write_toy_config

SLIM = 'vad_structured_pruned.pth'
HOOKS = [
    {'type': 'vadslim.RandomStateHook'},
    {'type': 'vadslim.StructureHook'},
    {'type': 'EMAHook', 'momentum': 0.3},
]


@pytest.fixture
def pruned(folder, command):
    """A dense training with averaging, and its checkpoint before and after slimming."""
    write_toy_config('toy.py', 'work', epochs=1, log_level='ERROR', custom_hooks=HOOKS)
    cfg = Config.fromfile('toy.py')
    cfg.experiment_name = 'averaged_for_slimming'
    Runner.from_cfg(cfg).train()
    code, out, _ = command(
        'toy.py', 'work/epoch_1.pth', '--pruning-ratio', '0.5', '--output-dir', 'out', '--latency', '0'
    )
    assert code == 0 and 'ema_state_dict' not in out
    return load_checkpoint('work/epoch_1.pth'), load_checkpoint(f'out/{SLIM}')


class Probe(Hook):
    """What the Runner starts from."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        (averaging,) = [hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook']
        self.steps = int(averaging.ema_model.steps)
        self.model = {name: value.clone() for name, value in runner.model.state_dict().items()}
        self.average = {name: value.clone() for name, value in averaging.ema_model.module.state_dict().items()}


def weights(checkpoint, key):
    return {name.removeprefix('module.'): v for name, v in checkpoint[key].items() if name != 'steps'}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype and torch.equal(value, other[name]), name


def test_kept_slices_are_written_and_resumed(pruned, folder):
    dense, slim = pruned
    structure = Structure.from_dict(slim['meta']['structure'])
    for key in ('state_dict', 'ema_state_dict'):
        assert_equal(weights(slim, key), dict(slice_state_dict(weights(dense, key), structure)))
    assert slim['ema_state_dict']['steps'] == 4 == dense['ema_state_dict']['steps']
    raw, average = weights(slim, 'ema_state_dict'), weights(slim, 'state_dict')  # so EMAHook stores them
    assert raw['conv1.weight'].shape[0] == 4 and not torch.equal(raw['conv1.weight'], average['conv1.weight'])

    options = parse(['toy.py', 'work/epoch_1.pth', '--output-dir', 'out', '--fine-tune', '--fine-tune-epochs', '2'])
    cfg = training_config(folder / 'out' / 'toy_slim.py', options)
    cfg.load_from, cfg.resume, cfg.work_dir = str(folder / 'out' / SLIM), True, 'resumed'
    runner, probe = toy_runner(cfg.to_dict()), Probe()
    runner.register_hook(probe)
    runner.train()
    assert probe.steps == 4
    assert_equal(probe.model, raw)
    assert_equal(probe.average, average)
    assert load_checkpoint('resumed/epoch_2.pth')['ema_state_dict']['steps'] == 8


def test_half_precision_stays_and_other_averages_are_dropped_with_a_line(folder, command):
    model = ToyNet()
    state = {f'module.{name}': v.half() if v.is_floating_point() else v for name, v in model.state_dict().items()}
    cut = {**state, 'module.ffn.0.weight': state['module.ffn.0.weight'][:5]}
    missing = {name: value for name, value in state.items() if name != 'module.ffn.0.weight'}
    for name, average in (('half', state), ('cut', cut), ('missing', missing)):
        content = {'meta': {}, 'state_dict': model.state_dict(), 'ema_state_dict': {'steps': 3, **average}}
        torch.save(content, f'{name}.pth')
        code, out, _ = command(
            'toy.py', f'{name}.pth', '--output-dir', name, '--pruning-ratio', '0.5', '--latency', '0'
        )
        saved = load_checkpoint(f'{name}/{SLIM}')
        assert code == 0 and ('ema_state_dict dropped' in out) == (name != 'half') == ('ema_state_dict' not in saved)
        if name == 'half':
            weight = saved['ema_state_dict']['module.conv2.weight']
            assert weight.dtype == torch.float16 and weight.shape == (8, 4, 3, 3)
