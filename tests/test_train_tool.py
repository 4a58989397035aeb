"""tools/train.py and tools/test.py as users call them: resume, kill, mistakes, forged files, slim networks."""

import io
import itertools
import json
import os
import pickle
import signal
import time
import zipfile
from pathlib import Path

import pytest
import torch

from checkpoint_files import mmcv_like
from processes import Forked
from vadslim import cli, evaluate, train
from vadslim.checkpoint import load_checkpoint, save_checkpoint
from vadslim.pruning import Structure, find_groups, make_structure, slice_state_dict
from vadslim.testing import ToyNet, toy_config, toy_frames, write_toy_config

ROOT = Path(__file__).resolve().parents[1]
NAMES = itertools.count()


@pytest.fixture(autouse=True)
def no_environment_report(monkeypatch):
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)


def run(main, *argv):
    """Run a command in this process; Runners of one process need names of their own."""
    name = f'experiment_name=tool_{next(NAMES)}'
    return cli.run(main, [*map(str, argv), '--cfg-options', name])


def run_train(*argv):
    return run(train.main, *argv)


def run_test(*argv):
    return run(evaluate.main, *argv)


def state(file):
    return load_checkpoint(file)['state_dict']


def assert_same_weights(one, other):
    one, other = state(one), state(other)
    assert list(one) == list(other)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    """A trained toy: its config file and the folder of its run."""
    folder = tmp_path_factory.mktemp('toy')
    config = write_toy_config(folder / 'toy.py', folder / 'run', epochs=2)
    assert run_train(config) == 0
    return config, folder / 'run'


@pytest.fixture(scope='module')
def slim(toy, tmp_path_factory):
    """The toy's checkpoint slimmed to half, as the pruning command writes it."""
    folder = tmp_path_factory.mktemp('slim')
    model, checkpoint = ToyNet().eval(), load_checkpoint(toy[1] / 'epoch_2.pth')
    model.load_state_dict(checkpoint['state_dict'])
    groups = [group for group in find_groups(model, toy_frames()) if not group.protected]
    structure = make_structure(model, groups, {g.name: list(range(g.num_units // 2)) for g in groups})
    meta = {'epoch': 2, 'iter': 8, 'structure': structure.to_dict()}
    weights = slice_state_dict(checkpoint['state_dict'], structure)
    save_checkpoint({'meta': meta, 'state_dict': weights}, folder / 'slim.pth')
    structure.save(folder / 'structure.json')
    return folder / 'slim.pth'


@pytest.mark.slow
def test_kill_and_resume_equals_uninterrupted(tmp_path):
    epochs, shape = 4, (16, 16)
    config = toy_config(tmp_path / 'whole', epochs=epochs, size=32)
    config['train_dataloader']['dataset']['shape'] = shape
    from mmengine.config import Config

    file = tmp_path / 'toy.py'
    Config(config).dump(file)
    assert run_train(file) == 0
    killed = tmp_path / 'killed'
    process = Forked(lambda argv: cli.run(train.main, argv), [file, '--work-dir', killed])
    while not (killed / 'epoch_2.pth').exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(120)
    assert not (killed / f'epoch_{epochs}.pth').exists()
    assert run_train(file, '--work-dir', killed, '--resume') == 0
    assert_same_weights(tmp_path / 'whole' / 'latest.pth', killed / 'latest.pth')


def test_the_config_is_formatted_once(tmp_path, monkeypatch):
    """However many times MMEngine asks for its text: yapf takes seconds for a long one."""
    formatted = []
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (formatted.append(text) or text, True))
    config = write_toy_config(tmp_path / 'toy.py', tmp_path / 'run', epochs=3)
    formatted.clear()
    assert run_train(config) == 0
    assert len(formatted) == 1
    assert (tmp_path / 'run' / 'toy.py').read_text() == formatted[0]


def test_resume_by_path_without_the_config(toy, tmp_path):
    _, folder = toy
    assert run_train('--resume', folder / 'epoch_1.pth', '--work-dir', tmp_path / 'a') == 0
    assert_same_weights(folder / 'epoch_2.pth', tmp_path / 'a' / 'epoch_2.pth')
    assert run_train(toy[0], '--resume-from', folder / 'epoch_1.pth', '--work-dir', tmp_path / 'b') == 0
    assert_same_weights(folder / 'epoch_2.pth', tmp_path / 'b' / 'epoch_2.pth')


def test_a_checkpoint_of_mmcv_1_is_only_loaded(toy, tmp_path, capsys):
    """In the true layout, with optimizer state and config text: tested as it is, trained from epoch 0."""
    config, folder = toy
    model = ToyNet()
    model.load_state_dict(state(folder / 'epoch_2.pth'))
    old = tmp_path / 'epoch_2.pth'
    torch.save(mmcv_like(model), old, _use_new_zipfile_serialization=False)
    results = []
    for file in (old, folder / 'epoch_2.pth'):
        out = tmp_path / 'metrics.json'
        assert run_test(config, file, '--out', out, '--work-dir', tmp_path / 'test') == 0
        results.append(out.read_text())
    assert results[0] == results[1]
    capsys.readouterr()
    for option in ('--resume', '--resume-from', '--load-from'):
        work = tmp_path / option.strip('-')
        one = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
        assert run_train(config, option, old, '--work-dir', work, '--cfg-options', *one) == 0
        said = 'not written by MMEngine; its weights are loaded, training starts at epoch 0' in capsys.readouterr().err
        assert said == (option != '--load-from')
        assert load_checkpoint(work / 'epoch_1.pth')['meta']['iter'] == 4
        assert_same_weights(work / 'epoch_1.pth', tmp_path / 'resume' / 'epoch_1.pth')
    assert not torch.equal(state(work / 'epoch_1.pth')['conv2.weight'], model.conv2.weight)


# --- slim networks ------------------------------------------------------------------------------------------


def test_dense_config_takes_a_slim_checkpoint(toy, slim, tmp_path, capsys):
    out = tmp_path / 'metrics.json'
    assert run_test(toy[0], slim, '--out', out, '--work-dir', tmp_path / 'test') == 0
    assert 'a slim network' in capsys.readouterr().err
    assert set(json.loads(out.read_text())) == {'toy/accuracy'}
    assert run_train(toy[0], '--load-from', slim, '--work-dir', tmp_path / 'train') == 0
    saved = load_checkpoint(tmp_path / 'train' / 'latest.pth')
    structure = Structure.from_dict(saved['meta']['structure'])
    assert structure == Structure.load(slim.parent / 'structure.json')
    assert saved['state_dict']['conv1.weight'].shape[0] == 4
    again = ['--resume', tmp_path / 'train' / 'epoch_1.pth', '--work-dir', tmp_path / 'again']
    assert run_train(toy[0], *again) == 0
    assert_same_weights(tmp_path / 'train' / 'latest.pth', tmp_path / 'again' / 'latest.pth')
    dumped = tmp_path / 'train' / 'toy.py'  # the config that the run wrote works as any
    assert run_test(dumped, tmp_path / 'train' / 'latest.pth', '--work-dir', tmp_path / 'test') == 0


def test_a_file_in_an_old_layout(toy, tmp_path):
    """All commands take it: it tests, prunes and trains as the same weights in our format."""
    from vadslim.slimming.network import load_network

    config, folder = toy
    ours, old = folder / 'epoch_2.pth', tmp_path / 'structural_epoch2.pth'
    torch.save({'epoch': 1, 'model_state_dict': state(ours), 'loss': 0.5, 'config': {'embed_dim': 16}}, old)
    found = []
    for name, file in (('ours', ours), ('old', old)):
        out = tmp_path / f'{name}.json'
        assert run_test(config, file, '--work-dir', tmp_path / name, '--out', out) == 0
        assert run_train(config, '--load-from', file, '--work-dir', tmp_path / name) == 0
        found.append(json.loads(out.read_text()))
    assert found[0] == found[1]
    assert_same_weights(tmp_path / 'ours' / 'epoch_1.pth', tmp_path / 'old' / 'epoch_1.pth')
    network = load_network(config, [], old, 0, 'cpu')
    assert torch.equal(network.model.conv1.weight, state(ours)['conv1.weight'])


def test_load_from_counts_more_than_resume_in_the_config(toy, tmp_path):
    config = tmp_path / 'resuming.py'
    config.write_text(f'_base_ = {str(toy[0])!r}\nresume = True\n')
    assert run_train(config, '--load-from', toy[1] / 'epoch_1.pth', '--work-dir', tmp_path / 'run') == 0
    assert load_checkpoint(tmp_path / 'run' / 'epoch_2.pth')['meta']['iter'] == 8


def test_slim_config_works_as_any(toy, slim, tmp_path, capsys):
    config = tmp_path / 'slim.py'
    config.write_text(
        f'_base_ = {str(toy[0])!r}\n'
        "model = dict(_delete_=True, type='vadslim.SlimModel', architecture={{_base_.model}}, "
        f'structure={str(slim.parent / "structure.json")!r})\n'
    )
    assert run_train(config, '--load-from', slim, '--work-dir', tmp_path / 'run') == 0
    assert run_test(config, tmp_path / 'run' / 'latest.pth', '--work-dir', tmp_path / 'test') == 0
    capsys.readouterr()
    assert run_test(config, toy[1] / 'latest.pth', '--work-dir', tmp_path / 'test') == 2
    assert 'conv1.weight is (8, 3, 3, 3), the model has (4, 3, 3, 3)' in capsys.readouterr().err
    other = write_toy_config(tmp_path / 'other.py', tmp_path / 'o', model={'type': 'vadslim.ToyNet', 'hidden': 8})
    assert run_test(other, slim, '--work-dir', tmp_path / 'test') == 2
    assert 'ffn.0.weight' in capsys.readouterr().err


# --- results ------------------------------------------------------------------------------------------------


def test_old_flags_and_results(toy, tmp_path, capsys):
    out = tmp_path / 'results.pkl'
    flags = ['--eval', 'segm', '--tmpdir', tmp_path / 'tmp', '--launcher', 'none', '--local_rank', '0']
    assert run_test(*toy_argv(toy, tmp_path), *flags, '--out', out) == 0
    assert '--eval has no effect' in capsys.readouterr().err
    results = pickle.loads(out.read_bytes())
    assert len(results) == 16
    assert results[0]['scores'].shape == (4,)
    only = tmp_path / 'only.pickle'
    assert run_test(*toy_argv(toy, tmp_path), '--format-only', '--out', only) == 0
    assert len(pickle.loads(only.read_bytes())) == 16
    assert not list(tmp_path.glob('.*'))


def toy_argv(toy, tmp_path):
    return toy[0], toy[1] / 'latest.pth', '--work-dir', tmp_path / 'test'


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'argv, words',
    [
        ([], 'a CONFIG is needed'),
        (['--resume'], 'a CONFIG is needed'),
        (['TOYS'], 'did you mean'),
        (['TOY', '--config', 'TOY'], 'given twice'),
        (['TOY', '--resume', 'A', '--load-from', 'B'], 'choose one'),
        (['TOY', '--resume', 'RUN/epoch_9.pth'], 'epoch_9.pth: no such file'),
        (['TOY', '--load-from', 'nowhere/x.pth'], 'no such file'),
        (['TOY', '--amp'], 'needs a GPU'),
        (['TOY', '--no-such-flag'], '--no-such-flag'),
        (['TOY', '--auto-scale-lr'], 'auto_scale_lr.base_batch_size'),
        (['TOY', '--gpus', '0'], 'at least 1'),
        (['TOY', '--gpu-ids', '1', '1'], 'given twice'),
        (['TOY', '--work-dir', 'TOY'], 'cannot be created'),
        (['TOY', '--options', 'train_cfg.max_epoch=2'], 'nearest key is train_cfg.max_epochs'),
        (['TOY', '--options', 'optim_wrapper.optimizer.lrr=2'], 'nearest key is optim_wrapper.optimizer.lr'),
        (['TOY', '--options', 'modell.hidden=2'], 'nearest key is model'),
        (['TOY', '--options', 'model.hiden=2'], 'there is no such key'),
        (['TOY', '--options', 'custom_hooks.7.type=X'], 'there is no such key'),
        (['TOY', '--cfg-options', 'train_cfg.max_epochs'], 'write key=value'),
        (['TOY', '--cfg-options', 'model.hidden=[[1]'], 'cannot be read'),
        (['TOY', '--cfg-options', 'optim_wrapper=None'], 'has no optim_wrapper: it cannot be trained'),
        (['TOY', '--load-from', 'EMPTY'], 'empty.pth has no state_dict; it holds meta'),
        (['TOY', '--resume', 'EMPTY'], 'empty.pth has no state_dict; it holds meta'),
    ],
)
def test_mistakes_are_one_line(toy, capsys, monkeypatch, argv, words):
    if torch.cuda.is_available() and '--amp' in argv:
        pytest.skip('has a GPU')
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    config, folder = toy
    empty = config.with_name('empty.pth')
    torch.save({'meta': {'epoch': 1}}, empty)
    names = {'TOY': str(config), 'TOYS': str(config.with_name('toys.py')), 'EMPTY': str(empty)}
    argv = [names.get(word, word.replace('RUN', str(folder))) for word in argv]
    assert run_train(*argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith('error: ')
    assert words in lines[0]


def test_mistakes_of_test(toy, tmp_path, capsys):
    torch.save({'meta': {'epoch': 1}}, tmp_path / 'empty.pth')
    (tmp_path / 'data.py').write_text(
        f"_base_ = {str(toy[0])!r}\ntest_dataloader = dict(dataset=dict(data_root='data', ann_file='gone.pkl'))\n"
    )
    for argv, words in [
        ([toy[0].with_name('toys.py'), toy[1] / 'latest.pth'], 'did you mean'),
        ([toy[0], tmp_path / 'no.pth'], 'no.pth: no such file'),
        ([toy[0], toy[1] / 'lates.pth'], 'did you mean'),
        ([toy[0], tmp_path / 'empty.pth'], 'empty.pth has no state_dict; it holds meta'),
        ([tmp_path / 'data.py', toy[1] / 'latest.pth'], 'data/gone.pkl: no such file; test_dataloader'),
        ([*toy_argv(toy, tmp_path), '--no-such-flag'], '--no-such-flag'),
        ([*toy_argv(toy, tmp_path), '--out', 'x.txt'], 'must end with'),
        ([*toy_argv(toy, tmp_path), '--out', tmp_path / 'no' / 'x.pkl'], 'no such folder'),
        ([*toy_argv(toy, tmp_path), '--format-only'], 'give --out'),
        ([*toy_argv(toy, tmp_path), '--format-only', '--json_dir', 'j', '--out', 'x.json'], 'computes no metrics'),
        ([*toy_argv(toy, tmp_path), '--json_dir', str(tmp_path)], 'no metric of'),
    ]:
        assert run_test(*argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    half = tmp_path / 'half.pth'
    half.write_bytes((toy[1] / 'latest.pth').read_bytes()[:9000])
    assert run_test(toy[0], half, '--work-dir', tmp_path / 'test') == 2
    assert 'truncated or damaged' in capsys.readouterr().err


# --- forged files -------------------------------------------------------------------------------------------


class Touch:
    """A pickle that would run a command."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f'touch {self.file}',)


def test_code_in_a_checkpoint_does_not_run(toy, tmp_path, capsys):
    config, folder = toy
    marker = tmp_path / 'ran'
    code = f'import os\nos.system("touch {marker}")\ngpu_ids = [0]\n'
    checkpoint = load_checkpoint(folder / 'epoch_1.pth')
    checkpoint['meta'].update(config=code, cfg=code)
    checkpoint['message_hub']['runtime_info']['cfg'] = code
    torch.save(checkpoint, tmp_path / 'code.pth')
    assert run_train(config, '--resume', tmp_path / 'code.pth', '--work-dir', tmp_path / 'run') == 0
    assert run_test(config, tmp_path / 'code.pth', '--work-dir', tmp_path / 'test') == 0
    assert not marker.exists()
    assert_same_weights(folder / 'epoch_2.pth', tmp_path / 'run' / 'epoch_2.pth')

    checkpoint['meta']['extra'] = Touch(marker)
    torch.save(checkpoint, tmp_path / 'pickle.pth')
    capsys.readouterr()
    for file in (tmp_path / 'pickle.pth', forged_zip(tmp_path / 'zip.pth', Touch(marker))):
        for main, argv in [(run_train, [config, '--resume', file]), (run_test, [config, file])]:
            assert main(*argv, '--work-dir', tmp_path / 'run') == 2
            assert 'which is not data: refused' in capsys.readouterr().err
    assert not marker.exists()


def forged_zip(path, item):
    """A file that begins like one of torch.save."""
    data = io.BytesIO()
    torch.save({}, data)
    with zipfile.ZipFile(data) as old, zipfile.ZipFile(path, 'w') as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(item, 2) if name.endswith('data.pkl') else old.read(name))
    return path


@pytest.mark.parametrize(
    'change',
    [
        lambda data, marker: data['model'].update(type='subprocess.getoutput', cmd=f'touch {marker}'),
        lambda data, marker: data['model'].update(type='vadslim.subprocess.getoutput', cmd=f'touch {marker}'),
        lambda data, marker: data['custom_imports']['imports'].append('antigravity'),
        lambda data, marker: data['optim_wrapper'].update(constructor='os.system'),
        lambda data, marker: data.update(default_scope='subprocess'),
        lambda data, marker: data['model'].update(type='antigravity'),
    ],
)
def test_a_config_in_a_checkpoint_names_only_what_belongs_here(toy, tmp_path, capsys, change):
    checkpoint, marker = load_checkpoint(toy[1] / 'epoch_1.pth'), tmp_path / 'ran'
    data = toy_config(tmp_path / 'run')
    change(data, marker)
    checkpoint['config'] = data
    torch.save(checkpoint, tmp_path / 'forged.pth')
    assert run_train('--resume', tmp_path / 'forged.pth', '--work-dir', tmp_path / 'run') == 2
    assert 'which is not taken; give the CONFIG' in capsys.readouterr().err
    assert not marker.exists()


def test_a_table_shows_what_sums_up_the_rest(capsys):
    evaluate.show({'NuScenes/mAP': 0.12345, 'NuScenes/car_AP_dist_0.5': 0.5, 'plan_L2_1s': 1, 'note': 'none'})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[1:-1:2] for line in lines if len(line) == 5 and line[0] == '│'] == [
        ['plan_L2_1s', '1'],
        ['NuScenes/mAP', '0.1235'],
        ['note', 'none'],
    ]
    evaluate.show({})
    assert capsys.readouterr().out == ''
