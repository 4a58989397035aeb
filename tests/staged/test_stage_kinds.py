"""Stages that are vadslim's commands: what these are told, what they leave for the next stage, what goes wrong."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from sparse_toys import write_recipe
from vadslim.analysis import plots
from vadslim.checkpoint import load_checkpoint
from vadslim.staged.cli import main
from vadslim.staged.kinds import COMMANDS, flags
from vadslim.testing import toy_config

STAGES = """
stages = [
    dict(name='dense', epochs=1),
    dict(name='prune', kind='prune', options=dict(pruning_ratio=0.5, latency=0, protect=['ffn*'])),
    dict(name='tune', epochs=1, init_from='prune'),
    dict(name='test', kind='test', init_from='tune'),
    dict(name='look', kind='analyse', init_from='tune', options=dict(count_zeros=True)),
]
"""
SLIM = (4, 3, 3, 3)  # conv1 has 8 channels


@pytest.fixture(scope='module', autouse=True)
def quick():
    """Nothing is drawn, and a Runner does not look for compilers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        for name in ('widths_picture', 'parts_picture'):
            patch.setattr(plots, name, lambda *_: b'')
        patch.setenv('CUDA_VISIBLE_DEVICES', '')
        yield


def write(folder: Path, stages: str) -> Path:
    data = toy_config(folder, log_level='ERROR')
    del data['work_dir']
    Config(data).dump(folder / 'base.py')
    file = folder / 'toy.py'
    file.write_text(f"_base_ = ['base.py']\nwork_dir = {str(folder / 'out')!r}\n{stages}")
    return file


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """All stages, run once: the config, and the folder of the run."""
    folder = tmp_path_factory.mktemp('kinds')
    file = write(folder, STAGES)
    assert main([str(file), '--run-all-stages']) == 0
    return file, folder / 'out'


def done(folder: Path) -> dict:
    return json.loads((folder / 'done.json').read_text())


def state(file: Path) -> dict:
    return load_checkpoint(file)['state_dict']


def line_of(capsys, *argv) -> str:
    """The one line that a mistake is answered with."""
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith('stage ')]
    assert len(lines) == 1
    return lines[0]


def test_options_become_arguments():
    options = {'pruning_ratio': 0.3, 'protect': ['a', 'b'], 'retrain': True, 'bev_size': None, 'fine_tune': False}
    assert flags(options) == ['--pruning-ratio', '0.3', '--protect', 'a', 'b', '--retrain']
    assert flags({'cfg_options': {'a.b': 1, 'c': 'd'}, 'seed': 0}) == ['--cfg-options', 'a.b=1', 'c=d', '--seed', '0']


def test_sparse_levels_start_from_the_stage_before_unless_told_otherwise():
    for source, options, start in [
        (Path('x.pth'), {}, ['--pretrained', 'x.pth']),
        (Path('x.pth'), {'init': 'i.pth'}, ['--init', 'i.pth']),
        (None, {}, []),
    ]:
        argv = COMMANDS['sparse'].arguments(Path('c.py'), source, Path('f'), {**options, 'rate': 0.2})
        assert argv == ['c.py', '--save_dir', 'f/levels', *start, '--rate', '0.2']


def test_each_stage_starts_from_what_the_one_before_it_left(whole):
    _, out = whole
    pruned = load_checkpoint(out / 'prune' / 'checkpoint_best.pth')
    assert pruned['state_dict']['conv1.weight'].shape == SLIM
    assert pruned['state_dict']['ffn.0.weight'].shape[0] == 32  # protect
    tuned = load_checkpoint(out / 'tune' / 'checkpoint_latest.pth')
    assert tuned['meta']['structure'] == pruned['meta']['structure'] and tuned['metadata']['stage'] == 'tune'
    assert tuned['state_dict']['conv1.weight'].shape == SLIM
    assert not torch.equal(tuned['state_dict']['conv2.weight'], pruned['state_dict']['conv2.weight'])
    assert done(out / 'prune')['result'] == {'checkpoint': 'checkpoint_best.pth', 'metrics': {}}
    assert done(out / 'test')['result']['checkpoint'] is None  # the stage after it goes on from tune's
    looked = json.loads((out / 'look' / 'analysis' / 'model_structure.json').read_text())
    averages = ('running_mean', 'running_var', 'num_batches_tracked')
    weights = {name: value for name, value in tuned['state_dict'].items() if not name.endswith(averages)}
    assert looked['total_params'] == sum(value.numel() for value in weights.values())


def test_the_metrics_of_a_test_are_in_its_result(whole):
    _, out = whole
    metrics = done(out / 'test')['result']['metrics']
    assert metrics == json.loads((out / 'test' / 'test' / 'metrics.json').read_text())
    assert metrics == done(out / 'tune')['result']['metrics']  # the same network on the same images
    assert 0 <= metrics['toy/accuracy'] <= 1


def test_a_second_run_reuses_all(whole, capsys):
    file, out = whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob('*') if path.is_file()}
    capsys.readouterr()
    assert main([str(file), '--run-all-stages']) == 0
    said = capsys.readouterr()
    assert said.err.count('done already, reused') == 5
    assert 'toy/accuracy' in next(line for line in said.out.splitlines() if ' test ' in line)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob('*') if path.is_file()}


def test_one_stage_alone_starts_from_the_stage_that_it_names(whole, capsys):
    file, out = whole
    for stage in ('tune', 'test', 'look'):
        assert main([str(file), '--stage', stage]) == 0
    assert capsys.readouterr().err.count('done already, reused') == 3


def test_other_settings_are_one_line_unless_they_may_replace(whole, capsys):
    file, out = whole
    other = file.with_name('other.py')
    other.write_text(file.read_text().replace('pruning_ratio=0.5', 'pruning_ratio=0.25'))
    line = line_of(capsys, other, '--stage', 'prune', '--init_from', 'dense')
    assert line.startswith(f'error: {out}/prune: holds the results of another stage prune')
    assert '--overwrite' in line
    copy = ['--set', f'training.save_dir={out.parent / "copy"}', '--init_from', out / 'dense' / 'checkpoint_latest.pth']
    for config, ratio in ((file, 4), (other, 6)):
        argv = [str(word) for word in (config, '--stage', 'prune', *copy, '--overwrite')]
        assert main(argv) == 0
        assert state(out.parent / 'copy' / 'prune' / 'checkpoint_best.pth')['conv1.weight'].shape[0] == ratio


def test_an_unfinished_stage_takes_what_its_command_has_done(whole, capsys):
    file, out = whole
    (out / 'prune' / 'done.json').unlink()
    kept = (out / 'prune' / 'pruned' / 'done.json').read_bytes()
    assert main([str(file), '--stage', 'prune', '--init_from', 'dense']) == 0
    assert 'pruned already' in capsys.readouterr().out
    assert (out / 'prune' / 'pruned' / 'done.json').read_bytes() == kept


@pytest.mark.parametrize(
    ('stage', 'words'),
    [
        ("dict(name='p', kind='prune', options=dict(pruning_rato=0.5))", 'unrecognized arguments: --pruning-rato 0.5'),
        ("dict(name='p', kind='prune', options=dict(protect=['nothing']))", '--protect'),
        ("dict(name='p', kind='test', options=dict(show_me=True))", 'unrecognized arguments: --show-me'),
        ("dict(name='p', kind='analyse', options=dict(part=['x']))", 'is not PATTERN=PART'),
        ("dict(name='p', kind='sparse', options=dict(rates=1))", 'unrecognized arguments: --rates 1'),
    ],
)
def test_a_command_that_fails_is_one_line_that_names_the_stage(whole, tmp_path, capsys, stage, words):
    source = whole[1] / 'dense' / 'checkpoint_latest.pth'
    file = write(tmp_path, f'stages = [{stage}]')
    line = line_of(capsys, file, '--init_from', source)
    assert line.startswith('error: stage p (') and words in line
    assert not (tmp_path / 'out' / 'p' / 'done.json').exists()


@pytest.mark.parametrize(
    ('stage', 'words'),
    [
        ("'prune', options=dict(pruning_rato=0.5)", 'unrecognized arguments: --pruning-rato 0.5'),
        ("'prune', options=dict(allocation='fair')", '--allocation'),
        ("'prune', options=dict(fine_tune=True), param_scheduler=[dict(type='OneCycleLR')]", 'OneCycle'),
        ("'prune', options=dict(cfg_options={'model.hiden': 4})", 'model.hiden: there is no such key'),
        ("'test', test_dataloader=dict(dataset=dict(_delete_=True, type='x', ann_file='no'))", 'no: no such file'),
        ("'analyse', options=dict(shape=3)", '--shape goes with --config'),
        ("'sparse', options=dict(rate=2)", 'rate'),
    ],
)
def test_options_are_checked_before_anything_is_trained(tmp_path, capsys, stage, words):
    file = write(tmp_path, f"stages = [dict(name='dense', epochs=1), dict(name='p', kind={stage})]")
    line = line_of(capsys, file, '--run-all-stages')
    assert line.startswith('error: stage p (') and words in line and '/tmp/' not in line.replace(str(tmp_path), '')
    assert not (tmp_path / 'out').exists()


def test_a_stage_that_needs_a_checkpoint_and_has_none(tmp_path, capsys):
    for kind in ('prune', 'test', 'analyse'):
        file = write(tmp_path, f"stages = [dict(name='p', kind={kind!r})]")
        assert f'stage p ({kind}): needs a checkpoint' in line_of(capsys, file)


def test_fine_tuning_of_the_command_is_what_it_leaves(whole, tmp_path):
    options = 'dict(pruning_ratio=0.5, latency=0, fine_tune=True, fine_tune_epochs=2)'
    file = write(tmp_path, f"stages = [dict(name='p', kind='prune', options={options})]")
    assert main([str(file), '--init_from', str(whole[1] / 'dense' / 'checkpoint_latest.pth')]) == 0
    left = load_checkpoint(tmp_path / 'out' / 'p' / 'checkpoint_best.pth')
    assert left['meta']['epoch'] == 2 and left['fine_tune']['start_epoch'] == 1


def test_sparse_levels_and_a_test_of_what_they_left(tmp_path):
    """The last level's best network is left, with its zeros."""
    stages = """
stages = [
    dict(name='levels', kind='sparse', options=dict(pruning_times=2, epochs=1, warmup=0, struct='imp')),
    dict(name='test', kind='test'),
]
"""
    file = write_recipe(tmp_path / 'digits.py', f'work_dir = {str(tmp_path / "out")!r}\n{stages}')
    assert main([str(file), '--run-all-stages']) == 0
    out = tmp_path / 'out'
    result = done(out / 'levels')['result']
    assert result['metrics']['remain_weight'] == pytest.approx(60, abs=0.1)  # rate 0.4
    weights = state(out / 'levels' / 'checkpoint_best.pth')
    zero = sum(int((value == 0).sum()) for name, value in weights.items() if value.ndim == 4)
    assert zero / sum(value.numel() for value in weights.values() if value.ndim == 4) > 0.3
    accuracy = done(out / 'test')['result']['metrics']
    assert next(iter(accuracy.values())) == pytest.approx(result['metrics']['test'])
