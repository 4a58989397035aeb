"""--levels: folders, limits, kill -9, distillation."""

import json
import signal
import time

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from processes import Forked
from vadslim.checkpoint import load_checkpoint, save_checkpoint
from vadslim.slimming import main
from vadslim.slimming.options import parse
from vadslim.testing import ToyNet, write_toy_config

SLIM = 'vad_structured_pruned.pth'
LEVELS = ('--pruning-ratio', '0.5', '--levels', '3', '--latency', '0', '--output-dir', 'out')


@pytest.fixture(scope='module')
def dense(tmp_path_factory):
    path = tmp_path_factory.mktemp('dense') / 'dense.pth'
    torch.manual_seed(0)
    save_checkpoint({'state_dict': ToyNet().state_dict(), 'meta': {}}, path)
    return path


def report(folder):
    return json.loads((folder / 'report.json').read_text())


def params(path):
    return sum(value.numel() for value in load_checkpoint(path)['state_dict'].values())


def test_levels_without_training_end_where_one_level_does(command, folder, dense):
    """Nothing trains, and no Group shrinks another one's tensors: the same units are the weakest ones."""
    apart = ('--targets', 'conv1.channels', 'attention.heads', 'ffn.0.neurons')
    assert command('toy.py', dense, *LEVELS, *apart)[0] == 0
    assert command('toy.py', dense, *LEVELS[:2], *apart, '--latency', '0', '--output-dir', 'once')[0] == 0
    once = load_checkpoint(folder / 'once' / SLIM)
    last = load_checkpoint(folder / 'out' / 'level_3' / SLIM)
    assert last['meta']['structure']['tensors'] == once['meta']['structure']['tensors']
    assert all(torch.equal(value, once['state_dict'][name]) for name, value in last['state_dict'].items())
    whole, one = report(folder / 'out'), report(folder / 'once')
    assert [whole[part]['params'] for part in ('before', 'after')] == [one[p]['params'] for p in ('before', 'after')]
    sizes = [report(folder / 'out' / f'level_{number}')['after']['params'] for number in (1, 2, 3)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] == one['after']['params']
    assert (folder / 'out' / 'levels.png').exists()


def test_a_target_is_shared_out(command, folder, dense):
    args = ('--target-params', '40%', '--levels', '2', '--latency', '0', '--output-dir', 'out')
    assert command('toy.py', dense, *args)[0] == 0
    goals = [report(folder / 'out' / f'level_{number}')['target'] for number in (1, 2)]
    whole = report(folder / 'out')['before']['params']
    assert [goal['goal'] for goal in goals] == pytest.approx([0.7 * whole, 0.4 * whole])
    assert report(folder / 'out')['after']['params'] <= 0.4 * whole


def test_a_second_run_does_nothing_and_another_recipe_is_refused(command, folder, dense):
    args = ('toy.py', dense, *LEVELS, '--levels', '2', '--fine-tune', '--fine-tune-epochs', '1')
    assert command(*args)[0] == 0
    files = sorted((folder / 'out').rglob('*.*'))
    stamps = [path.stat().st_mtime_ns for path in files]
    code, out, err = command(*args)
    assert code == 0 and err.count('reused') == 2 and out.count('reused') == 2
    assert err.splitlines()[-1] == 'the result is out/level_2/fine_tuned/epoch_1.pth'
    assert [path.stat().st_mtime_ns for path in files] == stamps
    code, _, err = command(*args, '--schedule', 'cubic')
    assert code == 2 and 'holds the results of another pruning in levels' in err
    assert command(*args, '--schedule', 'cubic', '--overwrite')[0] == 0
    assert report(folder / 'out' / 'level_1')['settings']['schedule'] == 'cubic'


def test_kill_9_and_again_ends_with_the_same_result(folder, dense):
    args = ['toy.py', dense, *LEVELS[:2], '--levels', '2', '--latency', '0']
    args += ['--fine-tune', '--fine-tune-epochs', '2', '--importance', 'Taylor', '--batches', '2']
    assert Forked(main, [*args, '--output-dir', 'whole'], folder).wait(120) == 0
    for seen in (
        'level_1/fine_tuned/epoch_1.pth',
        'level_2/vad_structured_pruned.pth',
        'level_2/fine_tuned/epoch_1.pth',
    ):
        process = Forked(main, [*args, '--output-dir', 'out'], folder)
        while not (folder / 'out' / seen).exists():
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait(120)
        assert not (folder / 'out' / 'done.json').exists()
    assert Forked(main, [*args, '--output-dir', 'out'], folder).wait(120) == 0
    for name in ('level_1/fine_tuned/epoch_2.pth', 'level_2/fine_tuned/epoch_2.pth'):
        again, whole = (load_checkpoint(folder / out / name) for out in ('out', 'whole'))
        assert again['meta']['structure'] == whole['meta']['structure']
        assert all(torch.equal(value, whole['state_dict'][key]) for key, value in again['state_dict'].items())


@METRICS.register_module(force=True)
class ToyPlan(BaseMetric):
    """Says what the test has written down, one value per evaluation."""

    says: list = []

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'plan_L2_1s': self.says.pop(0), 'plan_obj_box_col_1s': 0.0}


@pytest.fixture
def plan(folder):
    """A config whose plan's L2 the test decides: plan(1.0, 1.05, ...)."""
    write_toy_config('toy.py', 'work', log_level='ERROR', val_evaluator={'type': 'ToyPlan'})

    def say(*values):
        ToyPlan.says[:] = values

    return say


def test_the_last_level_that_holds_is_the_result(command, folder, dense, plan):
    plan(1.0, 1.05, 1.2)
    code, _, err = command('toy.py', dense, *LEVELS, '--max-l2-increase', '10%', '--max-collision-increase', '0.1pp')
    assert code == 0 and not ToyPlan.says
    lines = err.splitlines()
    assert lines[-2] == 'level 2: L2 1.2 m where 1.1 m is allowed (it was 1 m); rolled back to level 1'
    assert lines[-1] == 'the result is out/level_1/vad_structured_pruned.pth'
    assert not (folder / 'out' / 'level_3').exists()
    assert report(folder / 'out')['after']['params'] == report(folder / 'out' / 'level_1')['after']['params']
    assert 'rolled back' in (folder / 'out' / 'report.html').read_text()
    code, _, again = command('toy.py', dense, *LEVELS, '--max-l2-increase', '10%', '--max-collision-increase', '0.1pp')
    assert code == 0 and again.splitlines()[-2:] == lines[-2:]  # from the files: nothing is evaluated again


def test_training_is_judged_by_its_own_validation(command, folder, dense, plan):
    plan(1.0, 1.3)
    training = ('--fine-tune', '--fine-tune-epochs', '1', '--max-l2-increase', '0.1')
    code, _, err = command(
        'toy.py', dense, '--pruning-ratio', '0.5', '--latency', '0', '--output-dir', 'out', *training
    )
    assert code == 2 and err.splitlines()[-1] == (
        'error: level 1: L2 1.3 m where 1.1 m is allowed (it was 1 m); nothing smaller than the network as it is holds'
    )


def test_limits_need_their_metrics(command, dense):
    code, _, err = command('toy.py', dense, *LEVELS, '--max-l2-increase', '0.1')
    assert (
        code == 2 and '--max-l2-increase: *plan_L2_[123]s is none of what the evaluators report (toy/accuracy)' in err
    )


def test_distillation_is_one_flag(command, folder, dense):
    cfg = Config.fromfile('toy.py')
    cfg.distillation = {'losses': [{'module': 'classifier', 'kind': 'kl'}]}
    cfg.dump('toy.py')
    args = ('--pruning-ratio', '0.5', '--latency', '0', '--output-dir', 'out', '--fine-tune', '--fine-tune-epochs', '1')
    assert command('toy.py', dense, *args, '--distill')[0] == 0
    logs = ''.join(path.read_text() for path in (folder / 'out' / 'fine_tuned').rglob('*.json'))
    assert 'loss_distill_classifier' in logs
    state = load_checkpoint(folder / 'out' / 'fine_tuned' / 'epoch_1.pth')['state_dict']
    assert set(state) == set(load_checkpoint(dense)['state_dict'])
    code, _, err = command('toy.py', dense, *args)
    assert code == 2 and 'another fine-tune' in err
    dense.rename(folder / 'moved.pth')  # the teacher counts by what it says
    try:
        code, _, err = command('toy.py', 'moved.pth', *args, '--distill')
    finally:
        (folder / 'moved.pth').rename(dense)
    assert code == 0 and 'fine-tune is done already, reused' in err


@pytest.mark.parametrize(
    'args, words',
    [
        (('random', '--distill', '--fine-tune'), '--distill: a random network has nothing to teach'),
        (('dense.pth', '--distill'), '--distill needs --fine-tune'),
        (('dense.pth', '--distill', '--fine-tune'), 'distillation = dict(losses=[...]) is missing'),
        (('random', '--max-l2-increase', '0.1'), '--max-l2-increase: a random network has no plan'),
        (('dense.pth', '--max-collision-increase', '2m'), 'an increase is needed'),
        (('dense.pth', '--levels', '0'), '--levels'),
        (('dense.pth', '--levels', '2', '--target-params', '0.5', '--rules', 'rules.yaml'), 'have fixed ratios'),
    ],
)
def test_mistakes(command, folder, dense, args, words):
    (folder / 'dense.pth').symlink_to(dense)
    (folder / 'rules.yaml').write_text('[{kind: head, ratio: 0.5}]')
    code, _, err = command('toy.py', *args, '--output-dir', 'out')
    assert code == 2 and words in err and len(err.strip().splitlines()) == 1
    assert not (folder / 'out').exists()


def test_the_arguments_of_one_level_are_the_commands(dense, folder):
    from vadslim.slimming.levels import of_level

    options = parse(['toy.py', str(dense)])
    assert of_level(options, 1, dense) is options
