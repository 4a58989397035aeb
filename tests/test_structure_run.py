"""The costs of networks that configs build, by command."""

import json

import pytest
import torch

from vadslim.cli import Parser, run
from vadslim.pruning import make_structure, resize
from vadslim.slimming.network import load_network
from vadslim.structure_run import RUN_JSON, RUN_PAGE, RUN_TEXT, add_run_options, analyse_run
from vadslim.testing import write_toy_config


@pytest.fixture
def command(capfd):
    """command(*args) -> (exit code, stdout, stderr)."""

    def main(argv):
        parser = Parser()
        add_run_options(parser)
        for name in ('--model_path', '--output_dir', '--device'):
            parser.add_argument(name)
        return analyse_run(parser.parse_args(argv))

    def call(*args):
        capfd.readouterr()
        code = run(main, [str(arg) for arg in args])
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_toy_config('toy.py', 'work', log_level='ERROR')


def macs_of(folder):
    found = json.loads((folder / RUN_JSON).read_text())
    return {row['name']: row['macs'] for row in found['modules']}, found


def test_a_network_is_run_on_the_first_batch_of_its_data(toy, tmp_path, command):
    code, out, err = command(
        *('--config', toy, '--output_dir', tmp_path / 'new' / 'out', '--latency', 2, '--threads', 3, '--device', 'cpu')
    )
    assert (code, err) == (0, '')
    modules, found = macs_of(tmp_path / 'new' / 'out')
    batch, side = 4, 8
    assert modules['conv1'] == batch * side * side * 8 * 3 * 9
    assert modules['classifier'] == batch * 16 * 4
    assert found['latency']['threads'] == 3 != torch.get_num_threads() and found['latency']['repeats'] == 2
    assert found['settings']['weights'] == 'random' and 'the first batch of test_dataloader' in out
    text = (tmp_path / 'new' / 'out' / RUN_TEXT).read_text()
    assert 'conv1' in text and 'activa' in text and '</html>' in (tmp_path / 'new' / 'out' / RUN_PAGE).read_text()
    assert sorted(path.name for path in (tmp_path / 'new' / 'out').iterdir()) == [RUN_PAGE, RUN_JSON, RUN_TEXT]


def test_a_slim_checkpoint_makes_the_network_slim(toy, tmp_path, command):
    from vadslim.pruning import find_groups

    dense = load_network(toy, [], None, 0, 'cpu').model
    group = next(group for group in find_groups(dense, torch.zeros(1, 3, 8, 8)) if group.name.startswith('conv1'))
    structure = make_structure(dense, [group], {group.name: [0, 3, 5]})
    slim = resize(dense, structure)
    torch.save({'state_dict': slim.state_dict(), 'meta': {'structure': structure.to_dict()}}, 'slim.pth')
    code, out, _ = command(
        *('--config', toy, '--model_path', 'slim.pth', '--output_dir', tmp_path / 'out', '--shape', 3, 8, 8)
    )
    modules, found = macs_of(tmp_path / 'out')
    assert code == 0 and found['settings']['network'] == 'slim' and found['latency'] is None
    assert modules['conv1'] == 8 * 8 * 3 * 3 * 9 and modules['conv2'] == 4 * 4 * 16 * 3 * 9
    assert '3 x 8 x 8 zeros, batch 1' in out


@pytest.mark.parametrize(
    'args, words',
    [
        (['--config', 'none.py'], 'none.py: no such config'),
        (['--config', 'toy.py', '--model_path', 'none.pth'], 'none.pth'),
        (['--config', 'toy.py', '--shape', 5, 8, 8], 'its model does not run on zeros of 1 x 5 x 8 x 8'),
        (['--config', 'toy.py', '--depth', 0], '--depth: 0 is not a whole number of at least 1'),
        (['--config', 'toy.py', '--device', 'abacus'], '--device abacus: cpu or cuda is allowed'),
        (['--config', 'toy.py', '--cfg-options', 'model.widht=3'], 'there is no such key'),
        (['--config', 'toy.py', '--output_dir', 'toy.py', '--shape', 3, 8, 8], 'toy.py'),
    ],
)
def test_mistakes_are_one_line(toy, command, args, words):
    code, _, err = command(*args)
    assert code == 2 and words in err and err.startswith('error: ') and err.count('\n') == 1


def test_a_network_that_nothing_can_be_run_on(toy, command):
    text = toy.read_text() + '\ntest_dataloader = val_dataloader = train_dataloader = None\n'
    toy.write_text(text + 'test_cfg = val_cfg = train_cfg = test_evaluator = val_evaluator = optim_wrapper = None\n')
    code, _, err = command('--config', toy)
    assert code == 2 and 'cannot be run: ToyNet declares no example, and the config has no data; --shape 3 H W' in err


def test_a_fault_of_the_network_is_not_the_users(toy, command, monkeypatch):
    def broken(*_, **__):
        raise ValueError('ours')

    monkeypatch.setattr('vadslim.testing.ToyNet.forward', broken)
    with pytest.raises(ValueError, match='ours'):
        command('--config', toy)


def test_nothing_heavy_is_imported_with_the_options():
    import subprocess
    import sys

    code = 'import sys, vadslim.structure_run; print({"torch", "mmengine", "rich", "numpy"} & set(sys.modules))'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout == 'set()\n'
