"""LevelHook in trainings by MMEngine's Runner."""

import pytest
import torch

from sparse_toys import STEPS, config, hook_of, write_masks
from vadslim.checkpoint import load_checkpoint
from vadslim.cli import UserError
from vadslim.hooks import LevelHook
from vadslim.testing import toy_runner

SCALARS = {'remain_weight': 40.0}


def level_config(folder, masks, **changes):
    sparse = {'type': 'vadslim.SparseHook', 'masks': masks, 'schedule': 'x'}
    level = {'type': 'vadslim.LevelHook', 'scalars': SCALARS, 'rewind_epoch': 1}
    return config(folder, sparse, level, epochs=3, **changes)


@pytest.fixture(scope='module')
def masks(tmp_path_factory):
    return write_masks(tmp_path_factory.mktemp('masks') / 'masks.pth')


@pytest.fixture(scope='module')
def trained(masks, tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    runner = toy_runner(level_config(folder, masks[0]))
    runner.train()
    return runner, hook_of(runner, LevelHook), folder


def test_history(trained):
    runner, hook, _ = trained
    assert [row['epoch'] for row in hook.history] == [1, 2, 3]
    assert [row['lr'] for row in hook.history] == pytest.approx([0.05, 0.025, 0.025])
    assert [row['reg_lambda'] for row in hook.history] == pytest.approx([1 / 3, 2 / 3, 1])
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    means = [float(losses[start : start + STEPS].mean()) for start in (0, STEPS, 2 * STEPS)]
    assert [row['loss'] for row in hook.history] == pytest.approx(means)
    assert all(0 <= row['val'] <= 100 for row in hook.history)


def test_the_last_of_the_best(trained):
    hook = LevelHook()
    with pytest.raises(UserError, match='no epoch has a finite one'):
        _ = hook.best
    hook.history = [{'epoch': n, 'val': val} for n, val in enumerate([50, 70, 70, 60, float('nan')], 1)]
    assert hook.best == 3
    assert trained[1].best == max(trained[1].history, key=lambda row: (row['val'], row['epoch']))['epoch']


def test_best_weights_are_those_that_were_evaluated(masks, trained):
    runner, hook, folder = trained
    path = folder / f'best_epoch_{hook.best}.pth'
    file = load_checkpoint(path)
    assert file['meta']['epoch'] == hook.best
    assert not any(file['state_dict'][name][~mask].any() for name, mask in masks[1].final.items())
    own = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.model.load_state_dict(file['state_dict'])
    found = runner.val_loop.evaluator.evaluate  # the loop alone: the hook's history is not to grow
    runner.model.eval()
    for batch in runner.val_dataloader:
        runner.val_loop.evaluator.process(data_samples=runner.model.val_step(batch), data_batch=batch)
    val = found(300)['accuracy/top1']
    runner.model.load_state_dict(own)
    assert val == next(row['val'] for row in hook.history if row['epoch'] == hook.best)


def test_only_what_may_be_needed_is_kept(trained):
    _, hook, folder = trained
    names = {path.name for path in folder.glob('best_epoch_*.pth')}
    assert f'best_epoch_{hook.best}.pth' in names
    assert len(names) <= 2  # the one before goes when the next epoch begins


def test_weights_to_rewind_to(trained):
    folder = trained[2]
    rewind, epoch = (load_checkpoint(folder / name)['state_dict'] for name in ('rewind.pth', 'epoch_1.pth'))
    assert all(torch.equal(value, epoch[name]) for name, value in rewind.items())


@pytest.mark.parametrize('epoch', [1, 2, 3])
def test_a_validation_that_a_kill_prevented(epoch, masks, trained, tmp_path):
    """Checkpoints are written before the validation of their epoch: theirs is the history without it."""
    runner, hook, folder = trained
    source = folder / f'epoch_{epoch}.pth'
    assert [row['epoch'] for row in load_checkpoint(source)['level']] == list(range(1, epoch))
    resumed = toy_runner({**level_config(tmp_path, masks[0]), 'load_from': str(source), 'resume': True})
    resumed.train()
    again = hook_of(resumed, LevelHook)
    assert again.history == hook.history
    expected = runner.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    if again.best >= epoch:
        best = [load_checkpoint(place / f'best_epoch_{hook.best}.pth')['state_dict'] for place in (folder, tmp_path)]
        assert all(torch.equal(value, best[1][name]) for name, value in best[0].items())
    assert (tmp_path / 'rewind.pth').exists() == (epoch == 1)


def test_load_from_takes_no_history(masks, trained, tmp_path):
    cfg = level_config(tmp_path, masks[0], load_from=str(trained[2] / 'epoch_3.pth'))
    cfg['train_cfg']['max_epochs'] = 1
    runner = toy_runner(cfg)
    runner.train()
    assert [row['epoch'] for row in hook_of(runner, LevelHook).history] == [1]


def test_the_metric_must_be_there(tmp_path):
    cfg = config(tmp_path, {'type': 'vadslim.LevelHook', 'metric': 'accuracy/top5'}, epochs=1)
    with pytest.raises(UserError, match=r"metric 'accuracy/top5': the validation gives accuracy/top1"):
        toy_runner(cfg).train()
