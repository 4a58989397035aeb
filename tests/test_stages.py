"""Steps: reused when whole, redone when not, and no folder of another's is touched."""

import json
import os

import pytest

from vadslim.cli import run
from vadslim.stages import StepError, open_step, recipe_hash, run_step


@pytest.fixture
def source(tmp_path):
    file = tmp_path / 'input.pth'
    file.write_bytes(b'weights')
    return file


def test_opening_removes_what_dead_processes_were_writing(tmp_path):
    open_step(tmp_path, 'training', {}).finish([])
    (tmp_path / 'done.json').unlink()
    ours = {path.name for path in tmp_path.iterdir()}
    dead = os.spawnlp(os.P_NOWAIT, 'true', 'true')
    os.waitpid(dead, 0)
    stay = {f'.a.pth.{os.getpid()}.tmp', f'.{dead}.tmp', '.notes.tmp', f'a.pth.{dead}.tmp', f'.a.pth.{dead}.txt'}
    for name in {f'.a.pth.{dead}.tmp', f'.done.json.{dead}.tmp', f'.[x].{dead}.tmp'} | stay:
        (tmp_path / name).touch()
    open_step(tmp_path, 'training', {}).finish([])
    assert {path.name for path in tmp_path.iterdir()} == stay | ours | {'done.json'}


class Work:
    """Writes two files and counts."""

    def __init__(self, die=False):
        self.die = die
        self.resumed = []

    def __call__(self, step):
        self.resumed.append(step.resumed)
        (step.folder / 'a.txt').write_text('a')
        if self.die:
            raise KeyboardInterrupt
        (step.folder / 'sub').mkdir(exist_ok=True)
        (step.folder / 'sub' / 'b.txt').write_text('bb')
        return ['a.txt', step.folder / 'sub' / 'b.txt'], {'params': 3}


def test_whole_step_is_reused(tmp_path, source, capsys):
    work, folder = Work(), tmp_path / 'out'
    done = run_step(folder, 'prune', work, {'ratio': 0.3}, {'checkpoint': source})
    assert done['outputs'] == {'a.txt': 1, 'sub/b.txt': 2}
    assert done['result'] == {'params': 3}
    assert done['seconds'] >= 0
    assert json.loads((folder / 'done.json').read_text()) == done
    assert run_step(folder, 'prune', work, {'ratio': 0.3}, {'checkpoint': source}) == done
    moved = source.rename(tmp_path / 'elsewhere.pth')  # the contents count, not the name
    assert run_step(folder, 'prune', work, {'ratio': 0.3}, {'checkpoint': moved}) == done
    assert work.resumed == [False]
    assert capsys.readouterr().err == f'{folder}: prune is done already, reused\n' * 2


def test_incomplete_step_goes_on(tmp_path):
    folder = tmp_path / 'out'
    with pytest.raises(KeyboardInterrupt):
        run_step(folder, 'prune', Work(die=True), {'ratio': 0.3})
    assert not (folder / 'done.json').exists()
    work = Work()
    run_step(folder, 'prune', work, {'ratio': 0.3})
    (folder / 'sub' / 'b.txt').write_text('b')  # truncated since: not whole
    run_step(folder, 'prune', work, {'ratio': 0.3})
    (folder / 'a.txt').unlink()
    run_step(folder, 'prune', work, {'ratio': 0.3})
    assert work.resumed == [True] * 3


@pytest.mark.parametrize('change', ['flag', 'input'])
def test_another_recipe_needs_overwrite(tmp_path, source, change):
    work, folder = Work(), tmp_path / 'out'
    run_step(folder, 'prune', work, {'ratio': 0.3}, {'checkpoint': source}, leaves=['epoch_*.pth'])
    (folder / 'epoch_1.pth').write_text('of a run that was killed')
    (folder / 'notes').mkdir()
    (folder / 'notes' / 'today.txt').write_text('mine')
    (folder / 'photo.png').write_text('mine')
    inner = tmp_path / 'out' / 'fine_tuned'
    run_step(inner, 'fine-tune', work, {'epochs': 6})
    if change == 'input':
        source.write_bytes(b'other weights')
    recipe = {'ratio': 0.3 if change == 'input' else 0.5}
    with pytest.raises(StepError, match='results of another prune .* --overwrite'):
        run_step(folder, 'prune', work, recipe, {'checkpoint': source})
    assert (folder / 'epoch_1.pth').exists()
    run_step(folder, 'prune', work, recipe, {'checkpoint': source}, overwrite=True)
    assert not (folder / 'epoch_1.pth').exists()
    assert (folder / 'notes' / 'today.txt').exists()  # the user's, put there meanwhile
    assert (folder / 'photo.png').exists()
    assert work.resumed == [False] * 3
    assert (inner / 'done.json').exists()  # a step of its own


def test_foreign_folders_are_left_alone(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    open_step(folder, 'prune', {})  # an empty one is ours to take
    other = tmp_path / 'thesis'
    other.mkdir()
    (other / 'chapter.txt').write_text('mine')
    for overwrite in (False, True):
        with pytest.raises(StepError, match='holds files that are not of vadslim'):
            open_step(other, 'prune', {}, overwrite=overwrite)
    assert [path.name for path in other.iterdir()] == ['chapter.txt']
    with pytest.raises(StepError, match='is a file'):
        open_step(other / 'chapter.txt', 'prune', {})
    with pytest.raises(StepError, match='cannot be written|is a file'):
        open_step(other / 'chapter.txt' / 'out', 'prune', {})


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_unwritable_folder(tmp_path):
    folder = tmp_path / 'out'
    folder.mkdir(mode=0o500)
    with pytest.raises(StepError, match='cannot be written'):
        open_step(folder, 'prune', {})


def test_missing_input_and_output(tmp_path):
    with pytest.raises(StepError, match='nowhere.pth: No such file'):
        run_step(tmp_path / 'a', 'prune', Work(), {}, {'checkpoint': tmp_path / 'nowhere.pth'})
    assert not (tmp_path / 'a').exists()
    with pytest.raises(StepError, match='should have written'):
        run_step(tmp_path / 'b', 'prune', lambda step: (['c.txt'], None), {})


def test_recipe_is_of_plain_data(source):
    assert recipe_hash({'a': 1, 'b': (2, 3)}) == recipe_hash({'b': [2, 3], 'a': 1})
    assert recipe_hash({'a': {3, 1, 2}}) == recipe_hash({'a': {2, 3, 1}})
    assert recipe_hash({}, {'checkpoint': source}) != recipe_hash({}, {'teacher': source})
    with pytest.raises(TypeError, match='plain data'):
        recipe_hash({'a': object()})


def test_exit_codes(tmp_path, capsys):
    def main(argv):
        raise {'interrupt': KeyboardInterrupt, 'user': StepError('two\nlines'), 'ours': ZeroDivisionError}[argv[0]]

    assert run(lambda argv: None, []) == 0
    assert run(lambda argv: 7, []) == 7
    assert run(main, ['interrupt']) == 130
    assert run(main, ['user']) == 2
    assert capsys.readouterr().err == 'interrupted\nerror: two lines\n'
    with pytest.raises(ZeroDivisionError):
        run(main, ['ours'])
