"""What is kept and what is not when a stage goes on with other settings."""

from pathlib import Path

import pytest
import torch
from stage_toys import write_stages

from vadslim.checkpoint import load_checkpoint
from vadslim.cli import UserError
from vadslim.staged import cli, stage_folder
from vadslim.staged.resume import check_resumable, differences, shorten, workers_note
from vadslim.testing import ToyAccuracy


def test_differences():
    old = {'training': {'lr': 1e-3, 'epochs': 2, 'save_dir': 'a'}, 'logging': {'log_interval': 1}, 'seed': 0}
    new = {'training': {'lr': 1e-3, 'epochs': 4, 'save_dir': 'b'}, 'logging': {'log_interval': 9}, 'stages': [1]}
    assert differences(old, new) == ['seed 0 -> None', 'training.epochs 2 -> 4'][::-1]
    assert differences(None, new) == differences(new, new) == []
    assert shorten(['a'] * 6) == 'a, a, a, a and 2 more'


def test_what_cannot_be_resumed():
    whole = {'meta': {'epoch': 2, 'iter': 4}, 'message_hub': {}, 'metadata': {'stage': 'one'}}
    check_resumable(whole, Path('x.pth'), 'one', 2, changed=False)
    check_resumable(whole, Path('x.pth'), 'one', None, changed=True)
    for checkpoint, stage, epochs, changed, words in [
        ({'state_dict': {}}, 'one', 3, False, 'start from it by --init_from x.pth'),
        (whole, 'two', 3, False, 'is of stage one, not of two'),
        (whole, 'one', 1, False, 'has 2 epochs, the stage shall have 1'),
        (whole, 'one', 2, True, 'has 2 epochs, the stage shall have 2'),
    ]:
        with pytest.raises(UserError, match=words):
            check_resumable(checkpoint, Path('x.pth'), stage, epochs, changed)


def test_an_older_epoch_with_other_settings(tmp_path, monkeypatch, capsys):
    """What came after it is not of this run: neither its best checkpoint nor what a kill would go on from."""
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    monkeypatch.chdir(tmp_path)
    write_stages(tmp_path)
    values = [0.1, 0.2, 0.3, 0.9]
    monkeypatch.setattr(ToyAccuracy, 'compute_metrics', lambda *_: {'accuracy': values.pop(0)})
    stage = tmp_path / 'out' / 'one'
    assert cli.main(['toy.py', '--stage', 'one', '--epochs', '4']) == 0
    third, best = stage / 'checkpoint_epoch3.pth', stage / 'checkpoint_best.pth'
    later = {name: (stage / name).read_bytes() for name in ('checkpoint_best.pth', 'checkpoint_epoch4.pth')}
    assert load_checkpoint(best)['epoch'] == 4
    settings = ['--epochs', '5', '--lr', '1e-4']
    with monkeypatch.context() as patch:
        patch.setattr(stage_folder, 'open_step', stop)  # a kill just then
        assert cli.main(['--resume', str(third), *settings]) == 130
    names = 'checkpoint_best.pth, checkpoint_epoch4.pth, checkpoint_latest.pth'
    line = f'{stage}: goes back to epoch 3; of other settings, and moved to replaced_1: {names}\n'
    assert capsys.readouterr().err.count(line) == 1
    values += [0.25, 0.28]
    assert cli.main(['toy.py', '--stage', 'one', '--resume', *settings]) == 0
    err = capsys.readouterr().err
    assert f'goes on from {stage / "checkpoint_latest.pth"}; other settings' in err and 'replaced' not in err
    assert {name: (stage / 'replaced_1' / name).read_bytes() for name in later} == later
    held = {name: load_checkpoint(stage / f'checkpoint_{name}.pth') for name in ('best', 'epoch4', 'epoch5', 'latest')}
    assert [(held['epoch'], held['metric']) for held in held.values()] == [(3, 0.3), (4, 0.3), (5, 0.3), (5, 0.3)]
    assert not third.exists()  # the last two are kept
    values += [0.5]
    assert cli.main(['toy.py', '--stage', 'one', '--overwrite', '--epochs', '1']) == 0
    assert not (stage / 'replaced_1').exists()


def stop(*_):
    raise KeyboardInterrupt


def test_another_number_of_workers():
    old, new = ({'train_dataloader': {'num_workers': workers}} for workers in (0, 2))
    assert workers_note(old, new).startswith('train_dataloader.num_workers 0 -> 2: random augmentations')
    assert workers_note(old, old) is workers_note(None, new) is None
    data = [{'task': task, 'data': {'num_workers': workers}} for task in ('other', 'ink') for workers in (1, 4)]
    assert workers_note(*data[:2]).startswith('data.num_workers 1 -> 4') and workers_note(*data[2:]) is None


def test_more_epochs(tmp_path, monkeypatch, capsys):
    """The rates are those of the longer schedule, the weights and moments those that were there."""
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    monkeypatch.chdir(tmp_path)
    write_stages(tmp_path)
    latest = tmp_path / 'out' / 'one' / 'checkpoint_latest.pth'
    assert cli.main(['toy.py', '--stage', 'one']) == 0
    first = load_checkpoint(latest)
    (tmp_path / 'toy.py').rename('gone.py')
    assert cli.main(['--resume', str(latest), '--epochs', '3']) == 0  # the config is in the checkpoint
    err = capsys.readouterr().err
    assert f'goes on from {latest}; other settings: train_cfg.max_epochs 2 -> 3\n' in err
    longer = load_checkpoint(latest)
    assert cli.main(['gone.py', '--stage', 'one', '--epochs', '3', '--save_dir', 'other']) == 0
    straight = load_checkpoint(tmp_path / 'other' / 'one' / 'checkpoint_latest.pth')
    for one, two in zip(longer['optimizer']['param_groups'], straight['optimizer']['param_groups'], strict=True):
        assert one == two
    rates = [held['message_hub']['log_scalars']['train/lr'].data[0] for held in (first, longer, straight)]
    assert list(rates[1]) == [*rates[0], *rates[2][4:]] and rates[0][3] != rates[2][3]
    assert longer['optimizer']['state'][0]['step'] == straight['optimizer']['state'][0]['step'] == 6
    assert not torch.equal(longer['state_dict']['conv1.weight'], first['state_dict']['conv1.weight'])
    capsys.readouterr()
    assert cli.main(['gone.py', '--stage', 'one', '--resume']) == 2
    assert 'has 3 epochs, the stage shall have 2; more are needed (--epochs N)' in capsys.readouterr().err
    assert cli.main(['gone.py', '--stage', 'one', '--epochs', '3']) == 0
    assert 'done already, reused' in capsys.readouterr().err
