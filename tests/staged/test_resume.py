"""What is kept and what is not when a stage goes on with other settings."""

from pathlib import Path

import pytest
import torch
from stage_toys import write_stages

from vadslim.checkpoint import load_checkpoint
from vadslim.cli import UserError
from vadslim.staged import cli
from vadslim.staged.resume import check_resumable, differences, shorten


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
