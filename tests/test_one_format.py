"""Every checkpoint that a command leaves is in the one format, and a Runner built of its own config takes it."""

import ast
import os
from pathlib import Path

import pytest
import torch

from checkpoint_files import assert_in_format
from sparse_toys import write_recipe
from vadslim import experiment
from vadslim.checkpoint import load_checkpoint
from vadslim.slimming import cli as slimming
from vadslim.sparse_training import cli as sparse_training
from vadslim.staged import cli as staged
from vadslim.testing import toy_config, toy_runner

ROOT = Path(__file__).resolve().parents[1]
STAGE_OF = {'out': ('rsst', 'dense', 'prune'), 'levels': ('sparse', 'prune', None), 'init.pth': ('sparse',)}
STAGES = """
stages = [
    dict(name='rsst', custom_hooks=[*custom_hooks, dict(type='vadslim.GroupRSSTHook', ratio=0.3, interval=1)]),
    dict(name='dense', init_from='random'),
    dict(name='smaller', kind='prune', options=dict(pruning_ratio=0.5, unstructured_ratio=0.2, latency=0)),
]
"""
TUNE = ['--output-dir', 'tuned', '--pruning-ratio', '0.5', '--latency', '0', '--fine-tune', '--fine-tune-epochs', '2']
LEVELS = ['--save_dir', 'levels', '--init', 'init.pth', '--struct', 'refill', '--criteria', 'l1', '--slim',
          '--prune_type', 'rewind_lt', '--rewind_epoch', '1']  # fmt: skip
#: what the commands leave, besides masks and links
FILES = {
    *(f'out/{stage}/checkpoint_{end}.pth' for stage in ('rsst', 'dense') for end in ('latest', 'best', 'epoch1')),
    *('out/rsst/slim.pth', 'out/smaller/checkpoint_best.pth', 'out/smaller/pruned/vad_structured_pruned.pth'),
    *('tuned/vad_structured_pruned.pth', 'tuned/fine_tuned/epoch_2.pth'),
    *('tuned/fine_tuned/best_toy_accuracy_epoch_2.pth', 'init.pth', 'levels/level_0/init.pth'),
    *(f'levels/level_{level}/{name}.pth' for level in (0, 1) for name in ('model', 'best')),
    *(f'levels/level_{level}/training/{name}.pth' for level in (0, 1) for name in ('start', 'best_epoch_1', 'epoch_2')),
    *('levels/level_0/training/rewind.pth', 'levels/level_1/slim/slim.pth'),
}


def writes(tree):
    """Whether a module's source has the functions of other modules that write checkpoints."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    calls = {f'{ast.unparse(node.func)}' for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return 'save_checkpoint' in names or calls & {'torch.save', 'checkpoint.save_checkpoint'}


def test_only_the_format_and_the_masks_write_files():
    files = [*(ROOT / 'projects' / 'vadslim').rglob('*.py'), *(ROOT / 'tools').rglob('*.py')]
    texts = {path.name: path.read_text(encoding='utf-8') for path in files}
    found = {name for name, text in texts.items() if 'save' in text and writes(ast.parse(text))}
    assert found == {'checkpoint.py', 'checkpoint_format.py', 'files.py'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """All commands have left their files in it."""
    folder = tmp_path_factory.mktemp('format')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv('CUDA_VISIBLE_DEVICES', os.environ.get('CUDA_VISIBLE_DEVICES', ''))
        config = toy_config('out', epochs=1, size=4)
        config['default_hooks']['checkpoint'].update(save_best='toy/accuracy', rule='greater')
        Path('toy.py').write_text('\n'.join(f'{key} = {value!r}' for key, value in config.items()) + STAGES)
        assert staged.main(['toy.py', '--run-all-stages']) == 0
        Path('plain.py').write_text('\n'.join(f'{key} = {value!r}' for key, value in config.items()))
        assert slimming.main(['plain.py', 'out/smaller/checkpoint_best.pth', *TUNE]) == 0
        write_recipe(Path('recipe.py'), epochs=2, pruning_times=2)
        assert sparse_training.main(['recipe.py', *LEVELS]) == 0
    return folder


def test_all_files(folder):
    files = [path for path in folder.rglob('*.pth') if path.name != 'masks.pth' and not path.is_symlink()]
    assert {str(path.relative_to(folder)) for path in files} == FILES
    for path in files:
        content = load_checkpoint(path)
        assert_in_format(content)
        top = path.relative_to(folder).parts[0]
        assert (content['metric'] is not None) == (content['metadata']['metric'] is not None), path
        if top != 'tuned':
            assert content['metadata']['stage'] in STAGE_OF[path.relative_to(folder).parts[0]], path


@pytest.mark.parametrize('name', sorted(FILES))
def test_a_runner_takes_them(name, folder, tmp_path, monkeypatch):
    """Built of the config in the file: resumed where the file holds the state of a training, loaded where not."""
    monkeypatch.chdir(folder)  # configs name files of their run
    content = load_checkpoint(name)
    cfg = experiment.config_of(content, name)
    cfg.pop('experiment_name', None)  # a name belongs to one Runner only
    experiment.use_structure(cfg, content, name)
    whole = 'optimizer' in content
    cfg.update(work_dir=str(tmp_path), load_from=name, resume=whole, log_level='ERROR')
    runner = toy_runner(cfg.to_dict())
    runner.load_or_resume()
    assert runner.epoch == (content['epoch'] if whole else 0)
    state = runner.model.state_dict()
    assert list(state) == list(content['state_dict'])
    assert all(torch.equal(value, content['state_dict'][key]) for key, value in state.items())
