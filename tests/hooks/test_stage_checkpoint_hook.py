"""StageCheckpointHook in a real Runner: which files are there after each epoch, after restarts and after kills."""

import math

import pytest
import torch

from vadslim.checkpoint import load_checkpoint, save_checkpoint
from vadslim.cli import UserError
from vadslim.hooks import StageCheckpointHook, checkpoint_hook, stage_checkpoint_hook
from vadslim.hooks.checkpoint_hook import find_latest
from vadslim.hooks.stage_checkpoint_hook import same_file
from vadslim.testing import ToyAccuracy, toy_config, toy_runner

METRIC = 'toy/odd'


@pytest.fixture(autouse=True)
def odd_metric(monkeypatch):
    """A metric that depends on the weights alone and goes up and down: -0.93, 1.00, -0.87, -0.99 here."""

    def process(self, data_batch, data_samples):
        self.results += [float(sample['scores'][sample['label']]) for sample in data_samples]

    monkeypatch.setattr(ToyAccuracy, 'process', process)
    monkeypatch.setattr(ToyAccuracy, 'compute_metrics', lambda self, rows: {'odd': math.sin(50 * sum(rows))})


def staged(folder, epochs=4, **options):
    hook = {'interval': 1, 'keep_last_n': 2, 'save_best': METRIC, 'rule': 'greater', **options}
    config = toy_config(folder, epochs=epochs, size=8)
    config['default_hooks']['checkpoint'] = {'type': 'vadslim.StageCheckpointHook', 'stage': 'toy', **hook}
    config['train_cfg']['val_interval'] = 1
    config['param_scheduler'] = [{'type': 'OneCycleLR', 'eta_max': 2e-3, 'total_steps': 10, 'by_epoch': False}]
    return config


def resumed(config, file=None):
    return {**config, 'resume': True, 'load_from': str(file or find_latest(config['work_dir']))}


def names(folder):
    return sorted(path.name for path in folder.iterdir() if 'checkpoint' in path.name)


def flat(item, path=''):
    if isinstance(item, dict | list | tuple):
        pairs = item.items() if isinstance(item, dict) else enumerate(item)
        return {name: value for key, part in pairs for name, value in flat(part, f'{path}/{key}').items()}
    return {path: item.numpy().tobytes() if isinstance(item, torch.Tensor) else item}


def told(folder, name):
    """What a checkpoint holds of the training, in comparable form."""
    held = load_checkpoint(folder / name)
    kept = {key: held[key] for key in ('state_dict', 'optimizer', 'param_schedulers', 'epoch', 'metric')}
    return {**flat(kept), 'iter': held['meta']['iter'], 'random': str(held['random_state'])}


def test_files_of_a_stage(tmp_path):
    config = staged(tmp_path, epochs=4, interval=2, config={'model': {'embed_dim': 8}, 'stages': [1, (2,)]})
    toy_runner(config).train()
    files = [*(f'checkpoint_{name}.pth' for name in ('best', 'epoch2', 'epoch4', 'latest')), 'last_checkpoint']
    assert names(tmp_path) == sorted(files)
    held = {name: load_checkpoint(tmp_path / name) for name in files[:4]}
    assert [held[name]['epoch'] for name in files[:4]] == [2, 2, 4, 4]
    for checkpoint in held.values():
        assert checkpoint['version'] == 2 and checkpoint['meta']['epoch'] == checkpoint['epoch']
        assert checkpoint['metadata']['stage'] == 'toy' and checkpoint['metadata']['metric'] == METRIC
        assert checkpoint['config'] == {'model': {'embed_dim': 8}, 'stages': [1, (2,)]}
        assert checkpoint['metric'] == held['checkpoint_best.pth']['metric'] > 0.9
        assert {'optimizer', 'param_schedulers', 'random_state'} <= set(checkpoint)
        assert 'cfg' not in checkpoint['meta'] and 'cfg' not in checkpoint['message_hub']['runtime_info']
    assert (tmp_path / 'checkpoint_latest.pth').samefile(tmp_path / 'checkpoint_epoch4.pth')
    assert find_latest(tmp_path) == tmp_path / 'checkpoint_latest.pth'
    (tmp_path / 'last_checkpoint').unlink()
    assert find_latest(tmp_path) == tmp_path / 'checkpoint_latest.pth'


def test_a_restart_keeps_the_best_and_removes_what_others_wrote(tmp_path):
    toy_runner(staged(tmp_path, epochs=2, save_best='auto')).train()
    best = load_checkpoint(tmp_path / 'checkpoint_best.pth')
    assert (best['epoch'], names(tmp_path)[1:3]) == (2, ['checkpoint_epoch1.pth', 'checkpoint_epoch2.pth'])
    latest = load_checkpoint(tmp_path / 'checkpoint_latest.pth')
    del latest['message_hub']['runtime_info']['best_score']  # the best file alone knows
    save_checkpoint(latest, tmp_path / 'checkpoint_latest.pth')
    toy_runner(resumed(staged(tmp_path, epochs=4, save_best='auto'))).train()
    assert names(tmp_path)[1:3] == ['checkpoint_epoch3.pth', 'checkpoint_epoch4.pth']
    assert load_checkpoint(tmp_path / 'checkpoint_best.pth')['epoch'] == 2
    assert load_checkpoint(tmp_path / 'checkpoint_latest.pth')['metric'] == best['metric']
    toy_runner(resumed(staged(tmp_path, epochs=4, save_best='auto'), tmp_path / 'checkpoint_epoch3.pth')).train()
    assert names(tmp_path)[1:3] == ['checkpoint_epoch3.pth', 'checkpoint_epoch4.pth']
    toy_runner(staged(tmp_path, epochs=1)).train()  # anew, beside the files of later epochs
    assert names(tmp_path)[1:4] == [f'checkpoint_epoch{number}.pth' for number in (1, 3, 4)]


def test_a_kill_at_any_moment_changes_nothing(tmp_path, monkeypatch):
    """Each step of writing after the first epoch's checkpoint in turn is the last of its run, which is then resumed."""
    toy_runner(staged(tmp_path / 'whole', epochs=3)).train()
    expected = {name: told(tmp_path / 'whole', name) for name in names(tmp_path / 'whole') if name.endswith('.pth')}
    left = [10**9]

    def counted(module, name):
        real = getattr(module, name)

        def step(*args):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr(module, name, step)

    counted(checkpoint_hook, 'atomic_write')
    counted(stage_checkpoint_hook, 'atomic_write')
    counted(stage_checkpoint_hook, 'same_file')
    for number in (7, 9, 10, 11, 12, 16):  # of seven in the first epoch, and six in each other
        folder = tmp_path / str(number)
        left[0] = number
        with pytest.raises(KeyboardInterrupt):
            toy_runner(staged(folder, epochs=3)).train()
        left[0] = 10**9
        assert load_checkpoint(folder / 'checkpoint_latest.pth')['epoch'] == 1 + (number > 7) + (number > 13)
        toy_runner(resumed(staged(folder, epochs=3))).train()
        assert names(folder) == names(tmp_path / 'whole'), number
        for name, content in expected.items():
            assert told(folder, name) == content, (number, name)


def test_a_missing_metric_is_named(tmp_path):
    with pytest.raises(UserError, match=r"save_best 'toy/f1': the validation gives toy/odd"):
        toy_runner(staged(tmp_path, epochs=1, save_best='toy/f1')).train()
    assert names(tmp_path) == ['checkpoint_epoch1.pth', 'checkpoint_latest.pth', 'last_checkpoint']


@pytest.mark.parametrize('rule', ['greater', 'less'])
def test_what_is_no_number_is_never_the_best(tmp_path, monkeypatch, rule):
    values = [math.nan, math.inf, 0.5, math.nan, -math.inf]
    monkeypatch.setattr(ToyAccuracy, 'compute_metrics', lambda *_: {'odd': values.pop(0)})
    toy_runner(staged(tmp_path, epochs=5, rule=rule)).train()
    best = load_checkpoint(tmp_path / 'checkpoint_best.pth')
    assert (best['epoch'], best['metric']) == (3, 0.5)
    assert load_checkpoint(tmp_path / 'checkpoint_latest.pth')['metric'] == 0.5


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'interval': -1}, 'interval = -1'),
        ({'keep_last_n': 1.5}, 'keep_last_n = 1.5'),
        ({'save_best': ['a', 'b']}, 'the name of one metric'),
        ({'by_epoch': False}, 'by_epoch cannot be chosen'),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        StageCheckpointHook('toy', **options)


def test_the_same_file_without_hard_links(tmp_path, monkeypatch):
    (tmp_path / 'a').write_text('one')
    same_file(tmp_path / 'a', tmp_path / 'b')
    same_file(tmp_path / 'a', tmp_path / 'b')
    assert (tmp_path / 'b').samefile(tmp_path / 'a')

    def refuse(*_):
        raise OSError('no links here')

    monkeypatch.setattr('os.link', refuse)
    same_file(tmp_path / 'a', tmp_path / 'c')
    assert (tmp_path / 'c').read_text() == 'one' and not (tmp_path / 'c').samefile(tmp_path / 'a')
    assert len(list(tmp_path.iterdir())) == 3
