"""CheckpointHook in a real Runner: whole files, in an order in which there is always one to resume from."""

import pytest

from vadslim.checkpoint import load_checkpoint
from vadslim.hooks import checkpoint_hook as module
from vadslim.hooks.checkpoint_hook import find_latest, link
from vadslim.testing import toy_config, toy_runner


def config_with(folder, epochs=4, **hook):
    config = toy_config(folder, epochs=epochs, size=8)
    config['default_hooks']['checkpoint'].update(hook)
    config['train_cfg']['val_interval'] = 1
    return config


def test_files_of_a_run(tmp_path):
    config = config_with(tmp_path, max_keep_ckpts=2, save_best='toy/accuracy', rule='greater')
    toy_runner(config).train()
    names = {path.name for path in tmp_path.iterdir() if path.suffix == '.pth'}
    best = {name for name in names if name.startswith('best_')}
    assert len(best) == 1
    assert names - best == {'epoch_3.pth', 'epoch_4.pth', 'latest.pth'}
    assert (tmp_path / 'latest.pth').resolve() == tmp_path / 'epoch_4.pth'
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_4.pth')
    assert not [path for path in tmp_path.iterdir() if path.suffix == '.tmp']
    saved = load_checkpoint(tmp_path / 'latest.pth')
    assert saved['config']['train_cfg'] == config['train_cfg'] and saved['config']['default_scope'] == 'mmengine'
    assert saved['message_hub']['runtime_info']['keep_ckpt_ids'] == [3, 4]
    moved = tmp_path.with_name('moved')
    tmp_path.rename(moved)
    assert find_latest(moved) == moved / 'epoch_4.pth'
    assert find_latest(tmp_path) is None


@pytest.mark.parametrize(('keep', 'left'), [(3, {1, 2, 3}), (2, {2, 3}), (5, {1, 2, 3})])
def test_so_many_are_kept(tmp_path, keep, left):
    toy_runner(config_with(tmp_path, epochs=3, max_keep_ckpts=keep)).train()
    assert {path.name for path in tmp_path.glob('epoch_*.pth')} == {f'epoch_{number}.pth' for number in left}


def test_a_kill_at_any_write_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    """Every write of the run in turn is the last: what last_checkpoint names can be read."""
    writes = {'left': 10**9}
    real = module.atomic_write

    def counted(*args):
        writes['left'] -= 1
        if writes['left'] < 0:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, 'atomic_write', counted)
    for number in range(1, 6):  # two writes for each checkpoint
        writes['left'] = number
        folder = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            toy_runner(config_with(folder, epochs=3, max_keep_ckpts=1)).train()
        latest = find_latest(folder)
        if number < 2:
            assert latest is None
        else:
            assert load_checkpoint(latest)['meta']['epoch'] == number // 2
            assert load_checkpoint(folder / 'latest.pth')['meta']['epoch'] == number // 2


def test_latest_without_symbolic_links(tmp_path, monkeypatch):
    (tmp_path / 'epoch_1.pth').write_text('one')
    link(tmp_path / 'epoch_1.pth', tmp_path / 'latest.pth')
    assert (tmp_path / 'latest.pth').is_symlink()

    def refuse(*_):
        raise OSError('no links here')

    monkeypatch.setattr(type(tmp_path), 'symlink_to', refuse)
    (tmp_path / 'epoch_2.pth').write_text('two')
    link(tmp_path / 'epoch_2.pth', tmp_path / 'latest.pth')
    assert not (tmp_path / 'latest.pth').is_symlink()
    assert (tmp_path / 'latest.pth').read_text() == 'two'
    assert {path.name for path in tmp_path.iterdir()} == {'epoch_1.pth', 'epoch_2.pth', 'latest.pth'}
