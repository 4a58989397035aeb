"""The whole command by two processes over gloo: the same structure as by one, and one training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from processes import Forked, fork_for_torchrun
from vadslim.checkpoint import load_checkpoint
from vadslim.slimming import main
from vadslim.testing import write_toy_config

ROOT = Path(__file__).resolve().parents[2]
SLIM = 'vad_structured_pruned.pth'
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
TOOL = [*TORCHRUN, str(ROOT / 'tools' / 'analysis_struct.py')]
RULES = {'rules': [{'pattern': 'ffn.*', 'ratio': 0.75}, {'kind': 'head', 'ratio': 0.0}]}
# (what is asked for, options): --gpus 2 prunes in one process and trains in two; under torchrun both score, each with
# its share of three batches
RUNS = {
    'gpus': (['--pruning-ratio', '0.5', '--retrain'], ['--gpus', '2', '--gpu-ids', '4', '7']),
    'torchrun': (['--target-macs', '0.6', '--rules', 'rules.json'], ['--launcher', 'pytorch', '--gpus', '2']),
}


def run(how, argv):
    """What it prints."""
    if how == 'gpus':
        process = Forked(main, argv, before=fork_for_torchrun)
        said, complaint = process.communicate(timeout=300)
    else:
        env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT / 'projects')}
        process = subprocess.run([*TOOL, *argv], capture_output=True, text=True, timeout=300, env=env)
        said, complaint = process.stdout, process.stderr
    assert process.returncode == 0, complaint
    return said


@pytest.fixture
def trained(folder):
    """A checkpoint of one epoch of dense training; twelve images, so that the last batch is one process's alone."""
    write_toy_config('toy.py', 'work', epochs=1, size=12, log_level='ERROR')
    cfg = Config.fromfile('toy.py')
    cfg.experiment_name = str(folder)
    Runner.from_cfg(cfg).train()
    (folder / 'rules.json').write_text(json.dumps(RULES))
    return folder / 'work' / 'epoch_1.pth'


def report(folder):
    """What does not depend on the clock."""
    content = json.loads((folder / 'report.json').read_text())
    sizes = [{key: content[when][key] for key in ('params', 'macs')} for when in ('before', 'after')]
    return content['settings'], content['groups'], content['target'], sizes


@pytest.mark.parametrize('how', RUNS)
def test_two_processes_prune_and_train_as_one(how, folder, command, trained):
    asked, machine = RUNS[how]
    asked = ['toy.py', str(trained), *asked, '--importance', 'Taylor', '--batches', '3', '--latency', '0']
    training = ['--fine-tune', '--fine-tune-epochs', '3']
    said = run(how, [*asked, *training, *machine, '--device', 'cpu', '--output-dir', 'two'])
    assert said.count('written to two') == 1
    only_pruning = [argument for argument in asked if argument != '--retrain']
    assert command(*only_pruning, '--output-dir', 'one', '--device', 'cpu')[0] == 0

    structures = [(folder / name / 'structure.json').read_bytes() for name in ('one', 'two')]
    assert structures[0] == structures[1]
    assert report(folder / 'one') == report(folder / 'two')
    one, two = (load_checkpoint(f'{name}/{SLIM}') for name in ('one', 'two'))
    assert all(torch.equal(value, two['state_dict'][key]) for key, value in one['state_dict'].items())
    assert one['optimizer']['state'].keys() == two['optimizer']['state'].keys()

    results = folder / 'two' / ('retrained' if how == 'gpus' else 'fine_tuned')
    files = {path.name for path in results.iterdir()}
    epochs = {'epoch_1.pth'} if how == 'gpus' else set()
    assert {name for name in files if name.endswith('.pth')} == {'epoch_2.pth', 'epoch_3.pth', 'latest.pth', *epochs}
    assert len([name for name in files if name[:2] == '20']) == 1  # one folder of logs
    assert json.loads((results / 'done.json').read_text())['result']['epochs'] == 3
    last = load_checkpoint(results / 'latest.pth')
    # 12 images, 2 processes, 4 at a time: two iterations an epoch, after the three of the dense epoch
    assert last['meta']['iter'] == (6 if how == 'gpus' else 3 + 2 * 2)
    assert last['meta']['structure'] == json.loads(structures[1])
    assert len(last['random_state']) == 2
    assert all(value.isfinite().all() for value in last['state_dict'].values())
